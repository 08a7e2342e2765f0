"""A finished run becomes figures, tables, Markdown and one self-contained HTML page.

    python -m mnist_jax.report DIR

DIR is the work directory of a finished run. The report is made anew from the files there; nothing
is trained.
"""

import base64
import html
import io
import itertools
import math
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np

from mnist_jax import UserError, results
from mnist_jax.results import GRID_AXES, Row, Run

MAX_PANELS = 9
# Colour-blind safe: M. Okabe, K. Ito, "Color Universal Design", 2008.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mnist_jax",  # the same figure has the same bytes
}


class Protocol(NamedTuple):
    """How a run chose its epochs, in columns of `results.csv` and in words."""

    criterion: str  # the accuracy that chose epochs, grid point and trial
    column: str  # the test accuracy that this choice gave
    highest: str
    words: str
    measure: str
    title: str
    note: str


PROTOCOLS = {
    "test": Protocol(
        criterion="best_test_accuracy",
        column="best_test_accuracy",
        highest="best",
        words="epoch chosen on the test set",
        measure="best-epoch test accuracy",
        title="best-epoch test accuracy (epoch chosen on the test set)",
        note="The images that score an epoch also chose it, the best grid point and the best trial"
        " (the notebook's protocol), so best-epoch accuracies are biased upwards.",
    ),
    "validation": Protocol(
        criterion="best_validation_accuracy",
        column="test_accuracy_at_best_validation",
        highest="max",
        words="epoch chosen on validation images",
        measure="chosen-epoch test accuracy",
        title="test accuracy at the epoch chosen on validation images",
        note="Validation images, cut from the training set, chose the epoch, the best grid point"
        " and the best trial; test images chose none of these. The max is the highest test accuracy"
        " over the trials: it shows their spread and is no result.",
    ),
}


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
    from matplotlib import style

    pictures = []
    with style.context(STYLE, after_reset=True):  # whatever the user's own matplotlibrc says
        drawn = {"accuracy_curves": draw_curves(run)}
        drawn |= {f"accuracy_vs_{axis}": draw_axis(run, axis) for axis in varying(run)}
        for name, (figure, caption) in drawn.items():
            files = {"png": io.BytesIO(), "svg": io.BytesIO()}
            figure.savefig(files["png"], format="png")
            figure.savefig(files["svg"], format="svg", metadata={"Date": None})
            for kind, file in files.items():
                _write_bytes(run.workdir / "figures" / f"{name}.{kind}", file.getvalue())
            pictures.append(Picture(name, caption, files["svg"].getvalue()))
    return pictures


def _write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one step, as `results.write_text`."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


# --- what a run says ---


def protocol(run: Run) -> Protocol:
    """Returns how the run chose its epochs."""
    return PROTOCOLS[run.summary["epoch_chosen_on"]]


def varying(run: Run) -> tuple[str, ...]:
    """Returns the grid's axes that have more than one value."""
    return tuple(a for a in GRID_AXES if len({point[a] for point in run.summary["grid"]}) > 1)


def ranked(run: Run) -> list[Row]:
    """Returns the grid points from best to worst, by the mean of what chose the epochs."""

    def key(point):
        mean = point["statistics"][protocol(run).criterion]["mean"]
        return -mean if _finite(mean) else math.inf

    return sorted(run.summary["grid"], key=key)


def _score(run: Run, point: Row) -> tuple[float, float]:
    """Returns mean and population standard deviation of a grid point's test accuracy."""
    statistics = point["statistics"][protocol(run).column]
    mean, std = (statistics[name] for name in ("mean", "std_ddof0"))
    return (mean, std) if _finite(mean) else (math.nan, math.nan)


def _trials(run: Run, point: Row) -> list[Row]:
    return [row for row in run.results if all(row[axis] == point[axis] for axis in GRID_AXES)]


def _diverged(trials: Sequence[Row]) -> int:
    """Counts the trials with a number that is not finite."""
    return sum(not all(_finite(v) for k, v in row.items() if k != "dataset") for row in trials)


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def percent(value: object) -> str:
    """Shows a share of 1 in percent, without the sign."""
    return f"{100 * value:.2f}" if _finite(value) else "diverged"


def number(value: object) -> str:
    """Shows a loss."""
    return f"{value:.4f}" if _finite(value) else "diverged"


def label(point: Row, axes: Sequence[str]) -> str:
    """Names a grid point, or a trial, by its values on some axes."""
    return ", ".join(f"{axis.replace('_', ' ')} {point[axis]:g}" for axis in axes)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def headline(run: Run) -> str:
    """Names the experiment, the data set, the protocol, and how much was run."""
    sizes = {
        "grid point": len(run.summary["grid"]),
        "trial": len(run.results),
        "epoch": run.config["num_epochs"],
    }
    size = ", ".join(_count(n, noun) for noun, n in sizes.items())
    return f"{run.config['name']} on {run.summary['dataset']}: {protocol(run).words}; {size}"


def verdict(run: Run) -> str:
    """Says which grid point did best, and how that compares with the scatter between seeds."""
    p, axes = protocol(run), varying(run)
    best, *others = ranked(run)
    (mean, std), n = _score(run, best), best["num_trials"]
    if not _finite(mean):
        return "No grid point has a finite mean accuracy: every one has trials that diverged."
    said = f"{percent(mean)} % {p.measure} ({p.words})"
    if n > 1:
        spread = f"standard deviation {percent(std)} points (population, ddof=0), n = {n} seeds"
        said = f"mean {said}, {spread}"
    if others:
        said = f"best of {len(others) + 1} grid points: {label(best, axes)}, {said}"
    said = f"{said[0].upper()}{said[1:]}."
    near = []
    for point in others:
        other_mean, other_std = _score(run, point)
        if abs(mean - other_mean) <= max(std, other_std):
            near.append(label(point, axes))
    yardstick = "one standard deviation between seeds (the larger of the two)"
    if others and n == 1:
        said += " With one trial a point, the scatter between seeds is unknown, so differences"
        said += " between grid points cannot be judged."
    elif near and len(near) == len(others):
        said += f" All others lie within {yardstick} of it: none stands out from the noise."
    elif near:
        said += f" Within {yardstick} of it, so not apart from the noise: {'; '.join(near)}."
    elif others:
        said += f" All others are further from it than {yardstick}."
    lost = _diverged(run.results)
    return f"{said} Of {_count(len(run.results), 'trial')}, {lost} diverged." if lost else said


def best_trial(run: Run) -> str:
    """Names the best trial, its accuracy, and what chose it."""
    p, split = protocol(run), run.summary["epoch_chosen_on"]
    row = next(row for row in run.results if row["trial"] == run.summary["best_trial"])
    chosen = f"trial and epoch chosen on the {split} images"
    if split == "validation":
        chosen += f", of which {percent(row[p.criterion])} % were right"
    score = f"{percent(row[p.column])} % test accuracy at epoch {row[f'best_{split}_epoch']}"
    name = f"{row['trial']} (seed {row['seed']}, {label(row, GRID_AXES)})"
    return f"Best trial: {name}: {score}; {chosen}."


def results_table(run: Run) -> Table:
    """Returns one row per grid point: accuracies in percent, losses in nats an image."""
    p, axes = protocol(run), varying(run) or ("l2",)
    chosen, last = f"{p.measure} %", "last-epoch test accuracy %"
    measured = [
        ("best validation accuracy %", "mean", "best_validation_accuracy", "mean", percent),
        (chosen, "mean", p.column, "mean", percent),
        (chosen, "std (ddof=0)", p.column, "std_ddof0", percent),
        (chosen, p.highest, p.column, "max", percent),
        (last, "mean", "test_accuracy", "mean", percent),
        (last, "std (ddof=0)", "test_accuracy", "std_ddof0", percent),
        ("last-epoch test", "loss", "test_loss", "mean", number),
        ("last-epoch test", "objective", "test_objective", "mean", number),
    ]
    measured = measured[run.summary["epoch_chosen_on"] == "test" :]
    rows = []
    for point in run.summary["grid"]:
        n, lost = point["num_trials"], _diverged(_trials(run, point))
        cells = [f"{point[axis]:g}" for axis in axes]
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
    each = seconds["train"] / (run.config["num_epochs"] * len(run.results))
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


# --- figures: each function returns (Figure, caption) ---


def draw_curves(run: Run):
    """Draws training and held-out accuracy against epoch, one panel per grid point."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    p, dataset, split = protocol(run), run.summary["dataset"], run.summary["epoch_chosen_on"]
    points, order, which = run.summary["grid"], ranked(run), "one panel per grid point"
    if len(points) > MAX_PANELS:
        which = f"of {len(points)} grid points the best, the median and the worst (by their mean"
        which += f" {p.criterion.replace('_', ' ')})"
        points = [order[0], order[len(order) // 2], order[-1]]
    num_columns = min(3, len(points))
    num_rows = math.ceil(len(points) / num_columns)
    size = (6.4, 4.2) if len(points) == 1 else (2.7 * num_columns + 0.5, 2.3 * num_rows + 1.1)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False).ravel()
    by_trial: dict[object, list[Row]] = {}
    for row in run.metrics:
        by_trial.setdefault(row["trial"], []).append(row)
    epochs = np.arange(1, run.config["num_epochs"] + 1)
    settled = len(epochs) // 5  # the steep first epochs would hide the differences after them
    in_view, drawn = [], []
    for ax, point in zip(axes, points, strict=False):
        trials = _trials(run, point)
        lost = _diverged(trials)
        title = label(point, varying(run)) + f" ({lost} of {len(trials)} diverged)" * bool(lost)
        ax.set_title(textwrap.fill(title.strip(), 30 if len(points) > 1 else 80))
        for name, color, dash in (("train", COLORS[0], "--"), (split, COLORS[1], "-")):
            rows = [[row[f"{name}_accuracy"] for row in by_trial[t["trial"]]] for t in trials]
            curves = 100 * np.array(rows, float)
            look = {"color": color, "marker": "." if len(epochs) < 3 else None}
            words = f"{name.replace('train', 'training')} accuracy"
            ax.plot(epochs, curves.mean(0), dash, **look, label=words)
            ax.fill_between(epochs, curves.min(0), curves.max(0), color=color, alpha=0.2, lw=0)
            drawn += curves.ravel().tolist()
            sound = [not _diverged([trial]) for trial in trials]
            in_view += curves[sound, settled:].ravel().tolist()
        best = [(t[f"best_{split}_epoch"], 100 * t[p.criterion]) for t in trials]
        ax.plot(*zip(*best, strict=True), "o", color="black", ms=3, label="chosen epochs")
    limits, num_cut = _limits(in_view, drawn)
    axes[0].set(xlim=(0.5, len(epochs) + 0.5), ylim=limits)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for i, ax in enumerate(axes):
        ax.set_visible(i < len(points))
        ax.set_ylabel("accuracy (%)" if i % num_columns == 0 else "")
        if i + num_columns >= len(points):  # nothing stands below
            ax.set_xlabel("epoch")
            ax.tick_params(labelbottom=True)
    figure.suptitle(f"{dataset}: accuracy by epoch ({p.words})")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = (
        f"Accuracy on {dataset} against epoch, {which}. Dashed: training accuracy, the running"
        " mean over the epoch while the weights change, as Keras reports it. Solid:"
        f" {split} accuracy after the epoch. Lines are means over"
        f" {_count(points[0]['num_trials'], 'seed')}, bands reach from the lowest to the highest."
        f" Dots: each trial's best epoch ({p.words})."
    )
    if num_cut:
        caption += " The axis leaves out lower values, of the first epochs or of diverged trials."
    return figure, caption


def _limits(in_view: list[float], drawn: list[float]) -> tuple[tuple[float, float], int]:
    """Returns limits in percent that show `in_view`, and how many of `drawn` lie below them."""
    shown = [v for v in in_view if _finite(v)] or [v for v in drawn if _finite(v)] or [0.0, 100.0]
    pad = max(0.06 * (max(shown) - min(shown)), 0.05)
    low, high = max(min(shown) - pad, -1.0), min(max(shown) + pad, 101.0)
    return (low, high), sum(v < low for v in drawn)


def draw_axis(run: Run, axis: str):
    """Draws test accuracy against one axis of the grid, one line per combination of the others."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    p, dataset = protocol(run), run.summary["dataset"]
    rest = tuple(other for other in varying(run) if other != axis)
    lines: dict[tuple, list[Row]] = {}
    for point in ranked(run):
        lines.setdefault(tuple(point[other] for other in rest), []).append(point)
    kept = sorted(itertools.islice(lines.items(), len(COLORS)), key=lambda line: line[0])
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    in_view, drawn = [], []

    def moved(points):  # to the right, so that lines and trials do not hide each other
        return ax.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)

    for i, (_, line) in enumerate(kept):
        line = sorted(line, key=lambda point: point[axis])
        color, place = COLORS[i], 9 * (i - (len(kept) - 1) / 2)
        mean, std = 100 * np.array([_score(run, point) for point in line]).T
        ax.errorbar(
            [point[axis] for point in line],
            mean,
            std,
            fmt=f"{MARKERS[i]}-",
            color=color,
            ms=5,
            lw=0.8,
            elinewidth=1.4,
            capsize=3,
            label=label(line[0], rest),
            transform=moved(place),
        )
        trials = [row for point in line for row in _trials(run, point)]
        values = [100 * row[p.column] for row in trials]
        places = [row[axis] for row in trials]
        ax.plot(places, values, ".", color=color, ms=4, alpha=0.6, transform=moved(place + 5))
        drawn += values
        in_view += [v for v, row in zip(values, trials, strict=True) if not _diverged([row])]
        whole = np.array([not _diverged(_trials(run, point)) for point in line])
        for ends in (mean - std, mean + std):  # which may lie outside of the trials
            in_view += ends[whole].tolist()
    limits, num_cut = _limits(in_view, drawn)
    ax.set(ylim=limits, ylabel=f"{p.measure} (%)")
    _set_scale(ax, axis, sorted({point[axis] for point in run.summary["grid"]}))
    figure.suptitle(f"{dataset}: {p.title}")
    if rest:
        figure.legend(loc="outside lower center", ncols=4 - len(rest))
    caption = (
        f"Against {axis.replace('_', ' ')}, on {dataset}: {p.title}. Large markers: means over"
        f" {_count(run.summary['grid'][0]['num_trials'], 'seed')}, with error bars of one standard"
        " deviation (population, ddof=0). Small points, moved a little to the right: single trials."
    )
    if rest:
        caption += " One line per combination of the other axes, moved apart."
    if len(lines) > len(kept):
        caption += f" Of {len(lines)} combinations, the {len(kept)} with the best points are drawn."
    if num_cut:
        caption += f" {_count(num_cut, 'trial')} below the axis cannot be seen."
    return figure, caption


def _set_scale(ax, axis: str, values: Sequence[float]) -> None:
    """Scales and names the x axis, and marks the grid's values where there is room."""
    name, positive = axis.replace("_", " "), [value for value in values if value > 0]
    if axis != "momentum":
        name += " (log scale)"
        ax.set_xscale("log")
        if len(positive) < len(values):  # zero has a place of its own, left of the dotted line
            width = max(math.log10(max(positive) / min(positive)) / 6, 0.5)
            ax.set_xscale("symlog", linthresh=min(positive), linscale=width)
            name = f"{axis} (log scale, 0 set apart)"
            ax.axvline(min(positive) / 2, color="#999999", lw=0.8, ls=":")
    ax.set_xlabel(name)
    transform = ax.xaxis.get_transform()
    places = transform.transform(np.array(values))
    width = places[-1] - places[0]
    ends = np.array([places[0] - 0.08 * width, places[-1] + 0.08 * width])
    ax.set_xlim(transform.inverted().transform(ends))
    gap = np.diff(places).min() / width
    if gap > 0.03:
        ax.set_xticks(values, [f"{value:g}" for value in values], rotation=0 if gap > 0.12 else 90)
        ax.set_xticks([], minor=True)


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


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Renders a report as Markdown, with links to the pictures."""

    def plain(text):
        return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text)

    def row(cells):
        return f"| {' | '.join(map(plain, cells))} |"

    parts = [f"# {plain(title)}"]
    for heading, blocks in sections:
        parts.append(f"## {heading}")
        for block in blocks:
            match block:
                case Picture(name, caption):
                    parts += [f"![{plain(name)}](figures/{name}.png)", plain(caption)]
                case Table(columns, rows):
                    names = [f"{group}: {name}" if group else name for group, name in columns]
                    lines = [row(names), "|" + " ---: |" * len(names), *map(row, rows)]
                    parts.append("\n".join(lines))
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
        problem = f"{_count(len(argv) - 1, 'argument')}: expected one, a finished run's directory"
        raise UserError(f"{problem}, as in python -m mnist_jax.report DIR")
    print(write_report(argv[1]))


if __name__ == "__main__":
    from mnist_jax.main import run_command  # knows how bad input ends

    run_command(main)
