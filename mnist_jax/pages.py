"""What a report is made of, numbers in print and tables of runs, and what becomes of it.

That is text in a terminal, Markdown, and HTML that needs no other file. What is said between the
tables is in `report.py` and `comparison.py`.
"""

import base64
import contextlib
import html
import io
import itertools
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mnist_jax import UserError, canvas, disk, records, run_files, workdirs
from mnist_jax.axes import metric_name
from mnist_jax.canvas import MAX_POINTS, Line, criterion_words
from mnist_jax.records import at_best
from mnist_jax.results import (
    MEASURES,
    Row,
    Run,
    count,
    count_diverged,
    is_finite,
    label,
    num_digits,
    protocol,
    ranked,
    shown,
    varying,
)
from mnist_jax.run_files import one_line

LEVEL = 0.05  # corrected p-values below it tell grid points apart
MAX_NAMES = 8  # in a sentence
_GENERATOR = '<meta name="generator" content="mnist_jax.report">'  # marks what may be overwritten


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


class Warn(str):
    """A paragraph that must not be overlooked."""


# A report is a list of sections: a title, and blocks, of which a plain string is a paragraph.
Section = tuple[str, Sequence[str | Code | Warn | Table | Picture]]


# --- numbers in print ---


def percent(value: object) -> str:
    """Shows a share of 1 in percent, without the sign."""
    return f"{100 * value:.2f}" if is_finite(value) else "—"


def signed(value: object) -> str:
    """Shows a difference of shares in percentage points, never as -0."""
    return f"{round(100 * value, 2) + 0.0:+.2f}" if is_finite(value) else "—"


def number(value: object) -> str:
    """Shows a loss."""
    return f"{value:.4f}" if is_finite(value) else "—"


def measure(value: object) -> str:
    """Shows what a metric of one's own may be."""
    return f"{value:.5g}" if is_finite(value) else "—"


def p_value(value: object) -> str:
    """Shows a p-value."""
    if not is_finite(value):
        return "—"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(ends: Any, show: Callable[[object], str] = percent) -> str:
    """Shows the two ends of an interval."""
    return " to ".join(map(show, ends)) if is_finite(ends[0]) else "—"


def listed(names: Sequence[str]) -> str:
    """Writes names in a row, the first ones if they are many."""
    more = len(names) - MAX_NAMES
    return "; ".join([*names[:MAX_NAMES], *[f"and {more} more"] * (more > 0)])


def sentence(text: str) -> str:
    """Begins with a capital letter."""
    return text[0].upper() + text[1:]


def commit_of(provenance: Row) -> str:
    """Shortens the recorded commit, and says where the checkout had changes of its own."""
    commit, *changed = str(provenance["commit"]).partition("-")
    return commit[:12] + "".join(changed)


def record(runs: Sequence[Run]) -> str:
    """Lists what made the numbers of a study, as Markdown.

    Args:
        runs: At least one; machine, versions and data are those of the last.
    """
    rows, made = [], runs[-1].summary["provenance"]
    for each in (run.summary["provenance"] for run in runs):
        seconds = [f"{each['seconds'][phase]:.0f}" for phase in ("compile", "train")]
        rows.append([f"`{each['command']}`", commit_of(each), *seconds])
    devices, versions = made["devices"], made["versions"]
    machine = (
        f"Machine: {devices['cores']} cores of {made['machine']}; {devices['count']} "
        f"{devices['platform']} devices, matmul precision {devices['matmul_precision']}. Versions: "
        + ", ".join(f"{package} {version}" for package, version in versions.items())
        + f". Data: {made['data_checksum']}."
    )
    return f"{markdown_table(['command', 'commit', 'compile, s', 'train, s'], rows)}\n\n{machine}"


def _num_sound(point: Row) -> str:
    """Counts the trials of a grid point that did not diverge."""
    n, lost = point["num_trials"], len(point["diverged_seeds"])
    return f"{n - lost} of {n}" if lost else str(n)


def diverged(run: Run) -> list[str]:
    """Says which trials diverged, in a paragraph if any did."""
    lost, axes = count_diverged(run.results), varying(run.summary["grid"])
    names = [
        f"{label(point, axes)} {_seed_words(seeds)}".strip()
        for point in run.summary["grid"]
        if (seeds := point["diverged_seeds"])
    ]
    are = "is" if lost == 1 else "are"
    said = (
        f"Of {count(len(run.results), 'trial')}, {lost} diverged and {are} left out of every mean"
    )
    return [f"{said}{': ' if axes else ' '}{listed(names)}."] * bool(lost)


def _seed_words(seeds: Sequence[int]) -> str:
    return f"(seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"


def level_words(family: int, what: str) -> str:
    """Says what a difference was judged by."""
    corrected = f", corrected by Holm for all {family} {what}" if family > 1 else ""
    return f"Judged at the {100 * LEVEL:g} % level by t-tests over the seeds{corrected}"


# --- tables ---


def shown_points(run: Run) -> list[Row]:
    """Returns the points that tables show: from best to worst, or in order if nothing chooses."""
    return ranked(run.summary["grid"], protocol(run).criterion)[:MAX_POINTS]


# A column of a table: its group and name, the column of results.csv, a statistic, how it is shown.
Column = tuple[str, str, str, str, Callable[[Any], str]]
LAST_EPOCH: list[Column] = [
    ("accuracy %", "test", "test_accuracy", "mean", percent),
    ("accuracy %", "training", "train_accuracy", "mean", percent),
    ("loss", "test", "test_loss", "mean", number),
    ("loss", "training", "train_loss", "mean", number),
    ("objective", "test", "test_objective", "mean", number),
]


def results_table(run: Run) -> Table:
    """Returns a row per grid point, of the best ones if they are many: accuracies in percent."""
    p = protocol(run)
    test, validation = f"{p.measure} %", f"{criterion_words(p)} %"
    columns: list[Column] = [
        (test, "mean", p.column, "mean", percent),
        (test, "95 % interval", p.column, "interval_95", interval),
        (test, "sd", p.column, "std_ddof1", percent),
        (test, "min", p.column, "min", percent),
        (test, "max", p.column, "max", percent),
    ]
    if p.criterion and p.held_out == "validation":
        columns.insert(0, (validation, "mean", p.criterion, "mean", percent))
        columns.insert(1, (validation, "95 % interval", p.criterion, "interval_95", interval))
    return _points_table(run, columns)


def last_epoch_table(run: Run) -> Table:
    """Returns what was measured after the last epoch: accuracies in percent, losses in nats."""
    return _points_table(run, LAST_EPOCH)


def metrics_table(run: Run) -> Table:
    """Returns what else was measured of test images, at the epoch that counts."""
    columns: list[Column] = []
    for name, column in _metrics(run):
        known, group = MEASURES.get(name), name.replace("_", " ")
        show = measure if known is None else percent if known.counts else number
        group += " %" * (show is percent)
        columns.append((group, "mean", column, "mean", show))
        ends = partial(interval, show=show)
        columns.append((group, "95 % interval", column, "interval_95", ends))
    return _points_table(run, columns)


def metrics_words(run: Run) -> str:
    """Says what the metrics are, and which are not known."""
    when = protocol(run).measure.partition(" ")[0]
    num_sound = len(run.results) - count_diverged(run.results)
    said, missing = [f"{sentence(when)} values of the test images; means over the n trials."], []
    for spec, (name, column) in zip(run.config["metrics"], _metrics(run), strict=True):
        what = MEASURES[name].words if name in MEASURES else f"as {one_line(spec)} computes it"
        said.append(f"{sentence(name.replace('_', ' '))}: {what}.")
        if sum(point["statistics"][column]["n"] for point in run.summary["grid"]) < num_sound:
            missing.append(name.replace("_", " "))
    if missing:
        said.append(f"Trials without a finite number are left out of: {listed(missing)}.")
    return " ".join(said)


def _metrics(run: Run) -> list[tuple[str, str]]:
    """Returns each metric's name, and the column that counts."""
    p, names = protocol(run), map(metric_name, run.config["metrics"])
    return [
        (name, at_best(p.held_out, name) if p.choose_epoch else f"test_{name}") for name in names
    ]


def _points_table(run: Run, columns: Sequence[Column]) -> Table:
    axes, rows = varying(run.summary["grid"]), []
    for point in shown_points(run):
        cells = [*(shown(point[axis], axis.digits) for axis in axes), _num_sound(point)]
        for _, _, column, statistic, show in columns:
            found = point["statistics"][column]
            cells.append(show(found[statistic]))
        rows.append(cells)
    names = [("", axis.replace("_", " ")) for axis in axes]
    return Table([*names, ("", "n"), *(column[:2] for column in columns)], rows)


_DIFFERENCE = "difference in percentage points"
_COMPARISON_COLUMNS = (
    (_DIFFERENCE, "mean"),
    (_DIFFERENCE, "95 % interval"),
    ("", "p"),
    ("", "p (Holm)"),
    ("", "test"),
)


def _comparison_cells(test: Row) -> list[str]:
    """Shows a comparison, as `results.compare_points` returns it, in `_COMPARISON_COLUMNS`."""
    n = test["n"]
    kind = f"paired, n = {n}" if test["paired"] else f"Welch, n = {n} or more"
    if not is_finite(test["p"]):
        kind = "none: identical trials" if test["identical"] else "none"
    ends = interval((test["low"], test["high"]), signed)
    return [signed(test["difference"]), ends, p_value(test["p"]), p_value(test["p_holm"]), kind]


def comparison_table(run: Run, compared: Sequence[tuple[Row, Row]]) -> Table:
    """Returns a row per compared point, with what `results.compare_points` returns of it."""
    axes = varying(run.summary["grid"])
    names = [("", axis.replace("_", " ")) for axis in axes]
    rows = [
        [*(shown(point[axis], axis.digits) for axis in axes), *_comparison_cells(test)]
        for point, test in compared
    ]
    return Table([*names, *_COMPARISON_COLUMNS], rows)


class Pair(NamedTuple):
    """Two lines of different runs, and the test of their difference.

    Attributes:
        first: A line.
        second: Another.
        test: The fields of `stats.Comparison`, of the first less the second, and `p_holm`.
        beware: Why the difference is no finding; empty if it may be one.
    """

    first: Line
    second: Line
    test: Row
    beware: str


def network(run: Run, point: Row) -> str:
    """Names the network of a grid point: by its layers, or by the class of a file of one's own."""
    if (model := str(run.config["model"])) not in ("mlp", "cnn"):
        return one_line(model.rpartition(":")[2])
    hidden, conv = (shown(point.get(axis) or "none") for axis in ("hidden_sizes", "conv_features"))
    if conv != "none":
        return f"CNN {conv}" + f", {hidden}" * (hidden != "none")
    return f"MLP {hidden}" if hidden != "none" else "linear"


def lines_table(lines: Sequence[Line]) -> Table:
    """Returns a row per line: accuracies in percent."""
    names = ("run", "protocol", "data set", "network", "chosen of", "n")
    rows = []
    for name, run, point in lines:
        p = protocol(run)
        found, chosen_of = point["statistics"][p.column], count(len(run.summary["grid"]), "point")
        cells = [name, p.words, run.summary["dataset"], network(run, point)]
        cells += [chosen_of if p.criterion else "—", _num_sound(point)]
        rows.append([*cells, percent(found["mean"]), interval(found["interval_95"])])
    measured = [("test accuracy %", "mean"), ("test accuracy %", "95 % interval")]
    return Table([*(("", name) for name in names), *measured], rows)


def pairs_table(pairs: Sequence[Pair]) -> Table:
    """Returns a row per pair: those that may be findings first, and of many the smallest p."""

    def key(pair):
        return bool(pair.beware), pair.test["p"] if is_finite(pair.test["p"]) else math.inf

    pairs = sorted(pairs, key=key)[:MAX_POINTS]
    rows = [[first.name, second.name, *_comparison_cells(test)] for first, second, test, _ in pairs]
    columns = [("", "run"), ("", "less"), *_COMPARISON_COLUMNS]
    if any(pair.beware for pair in pairs):
        columns.append(("", "no finding, since"))
        rows = [[*row, pair.beware or "—"] for row, pair in zip(rows, pairs, strict=True)]
    return Table(columns, rows)


def differing(names: Sequence[str], records: Sequence[Row]) -> Table:
    """Returns a row per named run, with the keys on which its record differs from the others'."""
    flat = [_flat(record) for record in records]
    columns: dict[str, list[str]] = {}
    for key in dict.fromkeys(itertools.chain(*flat)):
        digits = num_digits(itertools.chain(*(record.get(key, ()) for record in flat)))
        texts = [_listed(record[key], digits) if key in record else "—" for record in flat]
        if key != "name" and len(set(texts)) > 1:
            columns[key] = texts
    rows = [list(row) for row in zip(names, *columns.values(), strict=True)]
    return Table([("", "run"), *(("", key) for key in columns)], rows)


def key_values(record: Row) -> Table:
    """Returns a row per key of a record and of the records in it."""
    rows = [[key, _listed(values, num_digits(values))] for key, values in _flat(record).items()]
    return Table([("", "key"), ("", "value")], rows)


def _flat(record: Row, prefix: str = "") -> dict[str, list]:
    """Returns the values, one or several, by the keys of a record and of the records in it."""
    flat: dict[str, list] = {}
    for key, value in record.items():
        name = prefix + (key if key.endswith(".py") else key.replace("_", " "))  # a file's stays
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}: ")
        else:
            flat[name] = value if isinstance(value, list) else [value]
    return flat


def _listed(values: Sequence, digits: int) -> str:
    texts = [
        "—" if value in (None, "", []) else shown(records.as_text(value), digits)
        for value in values
    ]
    return ", ".join(texts)


# --- renderers ---


def _groups(table: Table) -> list[tuple[str, int]]:
    """Returns each group of columns and how many it spans."""
    grouped = itertools.groupby(group for group, _ in table.columns)
    return [(group, len(list(members))) for group, members in grouped]


def to_terminal(table: Table) -> str:
    """Renders a table for a fixed-width font."""
    lines = [[name for _, name in table.columns], *([*map(one_line, row)] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, start = [], 0
    for group, span in _groups(table):
        gaps = 2 * (span - 1)
        widths[start] += max(0, len(group) - sum(widths[start : start + span]) - gaps)
        head.append(group.center(sum(widths[start : start + span]) + gaps))
        start += span
    lines = [head, *([*map(str.rjust, line, widths)] for line in lines)]
    return "\n".join("  ".join(line).rstrip() for line in lines)


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
    disk.write_text(path, text)


def plain_markdown(text: str) -> str:
    """Returns text in a line of Markdown; underscores mark up where words begin and end."""
    marks = r"([\\`*\[\]<>|$~&#]|(?<![^\W_])_|_(?![^\W_]))"
    return re.sub(marks, r"\\\1", one_line(text))


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Renders a report as Markdown, with links to the pictures."""
    parts = [f"# {plain_markdown(title)}"]
    for heading, blocks in sections:
        parts.append(f"## {heading}")
        for block in blocks:
            match block:
                case Picture(name, caption):
                    image = f"![{plain_markdown(name)}](figures/{name}.png)"
                    parts += [image, plain_markdown(caption)]
                case Table(columns, rows):
                    names = [f"{group}: {name}" if group else name for group, name in columns]
                    escaped = [[plain_markdown(cell) for cell in cells] for cells in (names, *rows)]
                    parts.append(markdown_table(escaped[0], escaped[1:]))
                case Code():
                    parts.append("\n".join(f"    {one_line(x)}" for x in block.splitlines()))
                case Warn():
                    parts.append(f"> **{plain_markdown(block)}**")
                case _:  # which is no list, though it begins with a number and a dot
                    text = plain_markdown(block).strip()
                    parts.append(re.sub(r"^(\d*)(?=[-+=.)])", r"\1\\", text))
    return "\n\n".join(parts) + "\n"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{generator}
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
.warning {{ border: 2px solid #d55e00; padding: 0.5rem 0.8rem; font-weight: bold; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.6rem; background: #8882; }}
pre span {{ display: inline-block; }}
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

    def plain(text):
        return html.escape(one_line(text))

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
                    # Lines break between words alone, where a copy can be pasted.
                    typed = (
                        " ".join(f"<span>{plain(word)}</span>" for word in line.split(" "))
                        for line in block.splitlines()
                    )
                    parts.append("<pre>{}</pre>".format("\n".join(typed)))
                case Warn():
                    parts.append(f'<p class="warning">{plain(block)}</p>')
                case _:
                    parts.append(f"<p>{plain(block)}</p>")
    body = "\n".join(parts)
    return PAGE.format(title=plain(title), generator=_GENERATOR, body=body)


# --- files ---


def check_output(output: str | os.PathLike, of_run: bool = False) -> Path:
    """Refuses a directory in which a report would replace what this command did not make.

    Args:
        output: The directory.
        of_run: Whether the other files of a run go there too.

    Raises:
        UserError: It holds a run or another report, is a file, or an address.
    """
    path = disk.local_path(os.fspath(output), "--output")
    report = ("report.html", "report.md", "figures")
    try:
        there = {name for name in (*workdirs.FILES, *workdirs.FOLDERS) if _lies(path / name)}
        ours = "report.html" in there and _is_ours(path / "report.html")
        if _lies(path) and not path.is_dir():
            problem = "is a file"
        elif "config.json" in there:
            problem = "holds a run"
        elif others := sorted(there.difference(report)) if of_run else []:
            problem = f"holds {', '.join(others)}, which would be replaced"
        elif there.intersection(report) and not ours:
            problem = "holds a report that this command did not make"
        else:
            return path
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        problem = f"cannot be looked at ({getattr(error, 'strerror', None) or error})"
    raise UserError(f"--output={path}: {problem}; expected a directory without; choose another")


def _lies(path: Path) -> bool:
    """Says whether there is anything by a name, be it a link to nowhere."""
    try:
        return bool(path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_ours(page: Path) -> bool:
    try:
        with run_files.opened(page) as file:
            return _GENERATOR.encode() in file.read(4096)
    except run_files.BadFileError:
        return False


def save_figures(
    folder: Path, drawn: Mapping[str, Callable[[], Any]]
) -> list[Picture | Warn | str]:
    """Draws figures, each a function by its name, and saves them as PNG and SVG.

    What a run found does not hang on them: one that fails, or has nothing to show, is a line in
    place of the picture. Of one that fails a warning is printed too.
    """
    shown: list[Picture | Warn | str] = []
    for name, draw in drawn.items():
        paths = [folder / "figures" / f"{name}.{kind}" for kind in ("png", "svg")]
        try:
            *contents, caption = _draw(draw)
        except UserError:  # a damaged file, which is no matter of figures
            raise
        except Exception as error:  # of ours, of matplotlib, its fonts, its settings
            shown.append(_why_missing(name, error))
            with contextlib.suppress(OSError):
                for path in paths:  # of an older report
                    path.unlink(missing_ok=True)
            continue
        with writing(folder / "figures"):
            (folder / "figures").mkdir(parents=True, exist_ok=True)
            for path, content in zip(paths, contents, strict=True):
                disk.write_bytes(path, content)
        shown.append(Picture(name, caption, contents[1]))
    return shown


def _why_missing(name: str, error: Exception) -> Warn | str:
    """Returns the line in place of a figure; if it failed, that is printed as well."""
    if isinstance(error, canvas.NothingToDrawError):
        return f"There is no figure {name}: {one_line(str(error))}."
    said = one_line(" ".join(f"{type(error).__name__}: {error}".split())[:200])
    missing = Warn(f"The figure {name} is missing, since it cannot be drawn ({said}).")
    print(f"warning: {missing[0].lower()}{missing[1:]}", file=sys.stderr, flush=True)
    return missing


def _draw(draw: Callable[[], Any]) -> tuple[bytes, bytes, str]:
    """Returns a figure as PNG and as SVG, and its caption."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's backend may be missing here, and none is needed
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # Reset first: whatever the user's own matplotlibrc says.
    with style.context(canvas.STYLE, after_reset=True):
        figure, caption = draw()
        png, svg = io.BytesIO(), io.BytesIO()
        # As figure.savefig does, but that draws everything twice and lays it out each time.
        FigureCanvasAgg(figure).print_png(png)
        figure.set_layout_engine("none")
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return png.getvalue(), svg.getvalue(), caption


def write(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """Writes report.md and report.html, and makes the folder if there is none."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        disk.write_text(folder / "report.md", to_markdown(title, sections))
        disk.write_text(folder / "report.html", to_html(title, sections))


class UnwritableError(UserError):
    """A report cannot be written."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says in one line why something in a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(
            f"{error.filename or folder} cannot be written ({error.strerror}); make the run's"
            " directory writable, or name another by python -m mnist_jax.report DIR --output=DIR"
        ) from None


def to_print(title: str, table: Table, said: Sequence[str], folder: Path | None = None) -> str:
    """Returns what a terminal shows of a report: title, table, paragraphs, where it lies."""
    paragraphs = "\n".join(textwrap.fill(one_line(paragraph), 100) for paragraph in said)
    parts = [title, to_terminal(table), paragraphs]
    if folder:
        parts.append(
            f"Report: {one_line(str(folder / 'report.html'))} (also report.md and figures/ there)"
        )
    return "\n\n".join(parts)
