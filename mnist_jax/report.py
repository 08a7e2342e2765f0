"""A finished run becomes figures, tables, Markdown and one self-contained HTML page.

    python -m mnist_jax.report DIR

DIR is the work directory of a finished run. The report is made anew from the files there; nothing
is trained.
"""

import base64
import html
import io
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mnist_jax import UserError, figures, results
from mnist_jax.results import (
    Row,
    Run,
    compare_points,
    count,
    count_diverged,
    is_finite,
    label,
    protocol,
    ranked,
    trials_of,
    varying,
)


class Table(NamedTuple):
    """Rows of cells; columns are (group, name), and equal groups stand next to each other."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]


class Picture(NamedTuple):
    """A saved figure."""

    name: str
    caption: str
    svg: bytes


class Code(str):
    """A line to type."""


# A report is a list of sections: a title, and blocks, of which a plain string is a paragraph.
Section = tuple[str, list[str | Code | Table | Picture]]


def write_report(workdir: str | os.PathLike) -> str:
    """Writes report.md, report.html and figures/*.png and *.svg of a finished run.

    Returns:
        What to print: a header, the table, the best trial, the paths of what was written.

    Raises:
        UserError: The directory holds no finished run, or cannot be written.
    """
    run = results.read_run(workdir)
    title = f"{run.config['name']} on {run.summary['dataset']}"
    try:
        pictures = _write_figures(run)
        sections = make_sections(run, pictures)
        results.write_text(run.workdir / "report.md", to_markdown(title, sections))
        results.write_text(run.workdir / "report.html", to_html(title, sections))
    except OSError as error:
        problem = f"{error.filename or run.workdir} cannot be written ({error.strerror})"
        raise UserError(f"{problem}; make the run's directory writable") from None
    names = ["report.html", "report.md"]
    names += [f"figures/{p.name}.{kind}" for p in pictures for kind in ("png", "svg")]
    paths = [f"  {run.workdir / name}" for name in names]
    table = to_terminal(results_table(run))
    return "\n\n".join([headline(run), table, best_trial(run), "\n".join(["Written:", *paths])])


def _write_figures(run: Run) -> list[Picture]:
    os.environ["MPLBACKEND"] = "agg"  # a notebook's backend may be missing here, and none is needed
    from matplotlib import style

    pictures = []
    folder = run.workdir / "figures"
    folder.mkdir(exist_ok=True)
    # Reset first: whatever the user's own matplotlibrc says.
    with style.context(figures.STYLE, after_reset=True):
        drawn = {"accuracy_curves": figures.draw_curves(run)}
        drawn |= {
            f"accuracy_vs_{axis}": figures.draw_axis(run, axis)
            for axis in varying(run.summary["grid"])
            if axis in ("l2", "learning_rate", "momentum")
        }
        for name, (figure, caption) in drawn.items():
            files = {"png": io.BytesIO(), "svg": io.BytesIO()}
            figure.savefig(files["png"], format="png")
            figure.savefig(files["svg"], format="svg", metadata={"Date": None})
            for kind, file in files.items():
                results.write_bytes(folder / f"{name}.{kind}", file.getvalue())
            pictures.append(Picture(name, caption, files["svg"].getvalue()))
    return pictures


# --- what a run says ---


def percent(value: object) -> str:
    """Shows a share of 1 in percent, without the sign."""
    return f"{100 * value:.2f}" if is_finite(value) else "diverged"


def number(value: object) -> str:
    """Shows a loss."""
    return f"{value:.4f}" if is_finite(value) else "diverged"


def headline(run: Run) -> str:
    """Names the experiment, the data set, the protocol, and how much was run."""
    sizes = {
        "grid point": len(run.summary["grid"]),
        "trial": len(run.results),
        "epoch": max(run.config["num_epochs"]),
    }
    size = ", ".join(count(n, noun) for noun, n in sizes.items())
    return f"{run.config['name']} on {run.summary['dataset']}: {protocol(run).words}; {size}"


def verdict(run: Run) -> str:
    """Says which grid point did best, and whether its seeds tell it apart from the others."""
    p, axes = protocol(run), varying(run.summary["grid"])
    best, *others = ranked(run.summary["grid"], protocol(run).criterion)
    found, n = best["statistics"][p.column], best["num_trials"]
    mean, std = found["mean"], found["std_ddof0"]
    if not is_finite(mean):
        return "No grid point has a finite mean accuracy: every one has trials that diverged."
    said = f"{percent(mean)} % {p.measure} ({p.words})"
    if n > 1:
        spread = f"standard deviation {percent(std)} points (population, ddof=0), n = {n} seeds"
        said = f"mean {said}, {spread}"
    if others:
        said = f"best of {len(others) + 1} grid points: {label(best, axes)}, {said}"
    said = f"{said[0].upper()}{said[1:]}."
    tied = []
    for point, found in zip(others, compare_points(run, best, others), strict=True):
        if not found["low"] > 0:
            tied.append(label(point, axes))
    test = "the 95 % interval of the paired difference (Student, not corrected for the number of"
    test += f" comparisons) over {n} seeds"
    if others and n == 1:
        said += " With one trial a point, the scatter between seeds is unknown, so differences"
        said += " between grid points cannot be judged."
    elif tied and len(tied) == len(others):
        said += f" But {test} includes 0 for every other point: they cannot be told apart."
    elif tied:
        said += f" It cannot be told apart from {'; '.join(tied)}: {test} includes 0."
    elif others:
        said += f" It differs from every other point: {test} excludes 0."
    lost = count_diverged(run.results)
    return f"{said} Of {count(len(run.results), 'trial')}, {lost} diverged." if lost else said


def best_trial(run: Run) -> str:
    """Names the chosen trial."""
    return f"Chosen trial: {run.summary['chosen_trial']}"


def results_table(run: Run) -> Table:
    """Returns one row per grid point: accuracies in percent, losses in nats an image."""
    p, axes = protocol(run), varying(run.summary["grid"]) or ("l2",)
    chosen, last = f"{p.measure} %", "last-epoch test accuracy %"
    measured = [
        ("validation accuracy %", "mean", p.criterion, "mean", percent),
        (chosen, "mean", p.column, "mean", percent),
        (chosen, "std (ddof=0)", p.column, "std_ddof0", percent),
        (chosen, "max", p.column, "max", percent),
        (last, "mean", "test_accuracy", "mean", percent),
        (last, "std (ddof=0)", "test_accuracy", "std_ddof0", percent),
        ("last-epoch test", "loss", "test_loss", "mean", number),
        ("last-epoch test", "objective", "test_objective", "mean", number),
    ]
    measured = measured[p.held_out != "validation" :]
    rows = []
    for point in run.summary["grid"]:
        n, lost = point["num_trials"], count_diverged(trials_of(run, point))
        cells = [results.shown(point[axis]) for axis in axes]
        cells.append(f"{n} ({lost} diverged)" if lost else str(n))
        for _, _, column, statistic, show in measured:
            alone = n == 1 and statistic == "std_ddof0"
            cells.append("—" if alone else show(point["statistics"][column][statistic]))
        rows.append(cells)
    columns = [("", axis.replace("_", " ")) for axis in axes] + [("", "trials")]
    return Table([*columns, *((group, name) for group, name, *_ in measured)], rows)


def make_sections(run: Run, pictures: Sequence[Picture]) -> list[Section]:
    """Returns what report.md and report.html say."""
    provenance = dict(run.summary["provenance"])
    command, seconds = provenance.pop("command"), provenance.pop("seconds")
    each = seconds["train"] / (max(run.config["num_epochs"]) * len(run.results))
    timing = [[phase, f"{value:.2f}"] for phase, value in seconds.items()]
    timing.append(["train, by trial and epoch", f"{each:.4f}"])
    meaning = (
        f"One row per grid point, over its trials; {protocol(run).words}. {protocol(run).note}"
        " Standard deviations (std) are of the population (ddof=0), as in the notebook. The loss is"
        " cross-entropy in nats an image, the objective adds the L2 penalty; both are means over"
        " the trials."
    )
    clock = "Wall-clock time; training includes scoring the held-out images after each epoch."
    pair = [("", "key"), ("", "value")]
    repeat = "To repeat it, with a --workdir that holds no run:"
    return [
        ("What was run", [f"{headline(run)}.", repeat, Code(command)]),
        ("Verdict", [verdict(run), best_trial(run)]),
        ("Results", [results_table(run), meaning]),
        ("Figures", [*pictures]),
        ("Timing", [clock, Table([("", "phase"), ("", "seconds")], timing)]),
        ("Provenance", [Table(pair, _flat(provenance))]),
        ("Config", [Table(pair, _flat(run.config))]),
    ]


def _flat(record: Row, prefix: str = "") -> list[list[str]]:
    rows = []
    for key, value in record.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _flat(value, f"{name}: ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            rows.append([name, "—" if text in (None, "") else str(text)])
    return rows


# --- renderers ---


def _groups(table: Table) -> list[tuple[str, int]]:
    """Returns each group of columns and how many it spans."""
    grouped = itertools.groupby(group for group, _ in table.columns)
    return [(group, len(list(members))) for group, members in grouped]


def to_terminal(table: Table) -> str:
    """Renders a table for a fixed-width font."""
    lines = [[name for _, name in table.columns], *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, start = [], 0
    for group, span in _groups(table):
        gaps = 2 * (span - 1)
        widths[start] += max(0, len(group) - sum(widths[start : start + span]) - gaps)
        head.append(group.center(sum(widths[start : start + span]) + gaps))
        start += span
    lines = [head, *([*map(str.rjust, line, widths)] for line in lines)]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def commit_of(provenance: Row) -> str:
    """Shortens the recorded commit, and says where the checkout had changes of its own."""
    commit, *changed = str(provenance["commit"]).partition("-")
    return commit[:12] + "".join(changed)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Renders cells that are Markdown already; columns after the first are aligned as numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def fill_in(path: Path, sections: Mapping[str, str]) -> None:
    """Replaces what stands between `<!-- NAME -->` and `<!-- end NAME -->` in a Markdown file."""
    text = path.read_text(encoding="utf-8")
    for name, section in sections.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}\n{section}\n{end}{after}"
    results.write_text(path, text)


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Renders a report as Markdown, with links to the pictures."""

    def plain(text):
        return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text)

    parts = [f"# {plain(title)}"]
    for heading, blocks in sections:
        parts.append(f"## {heading}")
        for block in blocks:
            match block:
                case Picture(name, caption):
                    parts += [f"![{plain(name)}](figures/{name}.png)", plain(caption)]
                case Table(columns, rows):
                    names = [f"{group}: {name}" if group else name for group, name in columns]
                    escaped = [[plain(cell) for cell in cells] for cells in (names, *rows)]
                    parts.append(markdown_table(escaped[0], escaped[1:]))
                case Code():
                    parts.append(f"    {block}")
                case _:
                    parts.append(plain(block))
    return "\n\n".join(parts) + "\n"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #8886; }}
th[colspan] {{ text-align: center; }}
:is(th, td):is(:first-child, :nth-child(2):last-child) {{ text-align: left; }}
td:nth-child(2):last-child {{ overflow-wrap: anywhere; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.6rem; background: #8882; }}
figure {{ margin: 1.5rem 0; break-inside: avoid; }}
img {{ max-width: 100%; min-width: 34rem; background: white; }}
@media print {{ body {{ max-width: none; padding: 0; }} img {{ min-width: 0; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Renders a report as one page that needs no other file, network or script."""
    plain = html.escape

    def row(cells, tag="td"):
        return f"<tr>{''.join(f'<{tag}>{plain(cell)}</{tag}>' for cell in cells)}</tr>"

    parts = []
    for heading, blocks in sections:
        parts.append(f"<h2>{plain(heading)}</h2>")
        for block in blocks:
            match block:
                case Picture(name, caption, svg):
                    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
                    image = f'<div><img src="{source}" alt="{plain(name)}"></div>'
                    caption = f"<figcaption>{plain(caption)}</figcaption>"
                    parts.append(f"<figure>{image}{caption}</figure>")
                case Table(columns, rows):
                    spans = "".join(
                        f'<th colspan="{span}">{plain(group)}</th>'
                        for group, span in _groups(block)
                    )
                    head = f"<tr>{spans}</tr>" if any(group for group, _ in columns) else ""
                    lines = [head, row([name for _, name in columns], "th"), *map(row, rows)]
                    parts.append("<div><table>{}</table></div>".format("\n".join(lines)))
                case Code():
                    parts.append(f"<pre>{plain(block)}</pre>")
                case _:
                    parts.append(f"<p>{plain(block)}</p>")
    return PAGE.format(title=plain(title), body="\n".join(parts))


def main(argv: list[str]) -> None:
    """Makes the report of the run in the directory that the command line names."""
    if len(argv) != 2:
        problem = f"{count(len(argv) - 1, 'argument')}: expected one, a finished run's directory"
        raise UserError(f"{problem}, as in python -m mnist_jax.report DIR")
    print(write_report(argv[1]))


if __name__ == "__main__":
    from mnist_jax.main import run_command  # knows how bad input ends

    run_command(main)
