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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax import UserError, results
from mnist_jax.results import GRID_AXES, Row, Run

MAX_PANELS = 9
MAX_LINES = 6
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
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mnist_jax",  # the same figure has the same bytes
}


class Protocol(NamedTuple):
    """How a run chose its epochs: the columns of results.csv, and the words for them."""

    split: str  # the one that chose, and that curves show
    words: str
    criterion: str  # by this the epoch, the grid point and the trial were chosen
    epoch: str
    column: str  # the test accuracy that this choice gave
    measure: str
    title: str
    highest: str
    note: str


PROTOCOLS = {
    "test": Protocol(
        split="test",
        words="epoch chosen on the test set",
        criterion="best_test_accuracy",
        epoch="best_test_epoch",
        column="best_test_accuracy",
        measure="best-epoch test accuracy",
        title="best-epoch test accuracy (epoch chosen on the test set)",
        highest="best",
        note="The images that score an epoch also chose it, the best grid point and the best trial"
        " (the notebook's protocol), so best-epoch accuracies are biased upwards.",
    ),
    "validation": Protocol(
        split="validation",
        words="epoch chosen on validation images",
        criterion="best_validation_accuracy",
        epoch="best_validation_epoch",
        column="test_accuracy_at_best_validation",
        measure="chosen-epoch test accuracy",
        title="test accuracy at the epoch chosen on validation images",
        highest="max",
        note="Validation images, cut from the training set, chose the epoch, the best grid point"
        " and the best trial; test images chose none of these. The max is the highest test accuracy"
        " over the trials: it shows their spread and is no result.",
    ),
}


class Heading(NamedTuple):
    """A section's title."""

    text: str


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Code(NamedTuple):
    """A line to type."""

    text: str


class Table(NamedTuple):
    """Cells in rows; columns are (group, name), and equal groups stand next to each other."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]


class Picture(NamedTuple):
    """A saved figure."""

    name: str
    caption: str
    svg: bytes


Block = Heading | Text | Code | Table | Picture


def write_report(workdir: str | os.PathLike) -> str:
    """Writes report.md, report.html and figures/*.png and *.svg of a finished run.

    Returns:
        What to print: a header, the table, the best trial, the paths of what was written.

    Raises:
        UserError: The directory holds no finished run, or cannot be written.
    """
    run = results.read_run(workdir)
    try:
        pictures = _write_figures(run)
        title = f"{run.config['name']} on {run.summary['dataset']}"
        blocks = _blocks(run, pictures)
        results.write_text(run.workdir / "report.md", to_markdown(title, blocks))
        results.write_text(run.workdir / "report.html", to_html(title, blocks))
    except OSError as error:
        problem = f"{error.filename or run.workdir} cannot be written ({error.strerror})"
        raise UserError(f"{problem}; make the run's directory writable") from None
    names = ["report.html", "report.md"]
    names += [f"figures/{p.name}.{kind}" for p in pictures for kind in ("png", "svg")]
    table = to_terminal(results_table(run))
    written = "\n".join(f"  {run.workdir / name}" for name in names)
    return f"{headline(run)}\n\n{table}\n\n{best_trial(run)}\n\nWritten:\n{written}"


def _write_figures(run: Run) -> list[Picture]:
    from matplotlib import style

    folder = run.workdir / "figures"
    folder.mkdir(exist_ok=True)
    pictures = []
    with style.context(STYLE, after_reset=True):  # whatever the user's own matplotlibrc says
        drawn = {"accuracy_curves": draw_curves(run)}
        drawn |= {f"accuracy_vs_{axis}": draw_axis(run, axis) for axis in varying(run)}
        for name, (figure, caption) in drawn.items():
            svg, png = io.BytesIO(), io.BytesIO()
            figure.savefig(svg, format="svg", metadata={"Date": None})
            figure.savefig(png, format="png")
            _write_bytes(folder / f"{name}.svg", svg.getvalue())
            _write_bytes(folder / f"{name}.png", png.getvalue())
            pictures.append(Picture(name, caption, svg.getvalue()))
    return pictures


def _write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file in one step, as `results.write_text`."""
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


def ranked(run: Run) -> list[dict]:
    """Returns the grid points from best to worst, by the mean of what chose the epochs."""

    def key(point):
        mean = point["statistics"][protocol(run).criterion]["mean"]
        return -mean if _finite(mean) else math.inf

    return sorted(run.summary["grid"], key=key)


def _trials(run: Run, point: Row) -> list[Row]:
    return [row for row in run.results if all(row[axis] == point[axis] for axis in GRID_AXES)]


def _diverged(row: Row) -> bool:
    return any(not _finite(value) for name, value in row.items() if name != "dataset")


def _finite(value: object) -> bool:
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
    trials, epochs = len(run.results), run.config["num_epochs"]
    what = f"{run.config['name']} on {run.summary['dataset']}: {protocol(run).words}"
    points = _count(len(run.summary["grid"]), "grid point")
    return f"{what}; {points}, {_count(trials, 'trial')}, {_count(epochs, 'epoch')}"


def verdict(run: Run) -> str:
    """Says which grid point did best, and how that compares with the scatter between seeds."""
    p = protocol(run)
    best, *others = ranked(run)
    n = best["num_trials"]

    def statistic(point, name):
        return point["statistics"][p.column][name]

    if not _finite(statistic(best, "mean")):
        return "No grid point has a finite accuracy: the trials diverged."
    score = f"{percent(statistic(best, 'mean'))} % {p.measure} ({p.words})"
    if n > 1:
        std = percent(statistic(best, "std_ddof0"))
        score = f"mean {score}, standard deviation {std} points (population, ddof=0), n = {n} seeds"
    lost = sum(map(_diverged, run.results))
    tail = f" Of {len(run.results)} trials, {lost} diverged." if lost else ""
    if not others:
        return f"{score[0].upper()}{score[1:]}.{tail}"
    score = f"Best of {len(others) + 1} grid points: {label(best, varying(run))}, {score}."
    if n == 1:
        return (
            f"{score} With one trial a point, the scatter between seeds is unknown, so the"
            f" differences between grid points cannot be judged.{tail}"
        )

    def near(point):
        gap = abs((statistic(point, "mean") or math.nan) - statistic(best, "mean"))
        return gap <= max(statistic(q, "std_ddof0") or 0 for q in (point, best))

    close = [point for point in others if near(point)]
    names = "; ".join(label(point, varying(run)) for point in close)
    yardstick = "one standard deviation between seeds (the larger of the two)"
    if len(close) == len(others):
        noise = (
            f"All the others lie within {yardstick} of it, so no point stands out from the noise."
        )
    elif close:
        noise = f"Within {yardstick} of it, so not apart from the noise: {names}."
    else:
        noise = f"Every other point is further away than {yardstick}."
    return f"{score} {noise}{tail}"


def best_trial(run: Run) -> str:
    """Names the best trial, its accuracy, and what chose it."""
    p = protocol(run)
    row = next(row for row in run.results if row["trial"] == run.summary["best_trial"])
    where = f"Best trial: {row['trial']} (seed {row['seed']}, {label(row, GRID_AXES)})"
    score = f"{percent(row[p.column])} % test accuracy at epoch {row[p.epoch]}"
    chosen = f"trial and epoch chosen on the {p.split} images"
    if p.split != "test":
        chosen += f", of which {percent(row[p.criterion])} % were right"
    return f"{where}: {score}; {chosen}."


def results_table(run: Run) -> Table:
    """Returns one row per grid point: accuracies in percent, losses in nats an image."""
    p = protocol(run)
    axes = varying(run) or ("l2",)
    chosen, last = f"{p.measure} %", "last-epoch test accuracy %"
    measured = [
        (chosen, "mean", p.column, "mean", percent),
        (chosen, "std (ddof=0)", p.column, "std_ddof0", percent),
        (chosen, p.highest, p.column, "max", percent),
        (last, "mean", "test_accuracy", "mean", percent),
        (last, "std (ddof=0)", "test_accuracy", "std_ddof0", percent),
        ("last-epoch test", "loss", "test_loss", "mean", number),
        ("last-epoch test", "objective", "test_objective", "mean", number),
    ]
    if p.criterion != p.column:
        by = ("best validation accuracy %", "mean", p.criterion, "mean", percent)
        measured.insert(0, by)
    rows = []
    for point in run.summary["grid"]:
        n, lost = point["num_trials"], sum(map(_diverged, _trials(run, point)))
        cells = [f"{point[axis]:g}" for axis in axes] + [
            f"{n} ({lost} diverged)" if lost else f"{n}"
        ]
        for _, _, column, statistic, show in measured:
            value = point["statistics"][column][statistic]
            cells.append("—" if n == 1 and statistic.startswith("std") else show(value))
        rows.append(cells)
    columns = [("", axis.replace("_", " ")) for axis in axes] + [("", "trials")]
    return Table([*columns, *((group, name) for group, name, *_ in measured)], rows)


def _blocks(run: Run, pictures: Sequence[Picture]) -> list[Block]:
    config, provenance = run.config, run.summary["provenance"]
    seconds = provenance["seconds"]
    per_epoch = seconds["train"] / (config["num_epochs"] * len(run.results))
    timing = [[phase, f"{value:.2f}"] for phase, value in seconds.items()]
    timing.append(["train, by trial and epoch", f"{per_epoch:.4f}"])
    return [
        Text(f"{headline(run)}."),
        Text(verdict(run)),
        Text(best_trial(run)),
        Heading("What was run"),
        Text("To repeat it, with a --workdir that holds no run:"),
        Code(provenance["command"]),
        Table([("", "key"), ("", "value")], _flat(config)),
        Heading("Results"),
        results_table(run),
        Text(
            f"One row per grid point, over its trials; {protocol(run).words}."
            f" {protocol(run).note} Standard deviations (std) are of the population (ddof=0), as in"
            " the notebook. The loss is cross-entropy in nats an image, the objective adds the L2"
            " penalty; both are means over the trials."
        ),
        Heading("Figures"),
        *pictures,
        Heading("Timing"),
        Text("Wall-clock time; training includes scoring the held-out images after each epoch."),
        Table([("", "phase"), ("", "seconds")], timing),
        Heading("Provenance"),
        Table(
            [("", "what"), ("", "value")],
            _flat({k: v for k, v in provenance.items() if k not in ("command", "seconds")}),
        ),
    ]


def _flat(record: Row, prefix: str = "") -> list[list[str]]:
    rows = []
    for key, value in record.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _flat(value, f"{name}: ")
        elif isinstance(value, list):
            rows.append([name, ", ".join(map(str, value)) or "none"])
        else:
            rows.append([name, "—" if value is None else str(value)])
    return rows


# --- figures ---


def draw_curves(run: Run):
    """Draws accuracy against epoch, one panel per grid point; returns (Figure, caption)."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    p, order, points = protocol(run), ranked(run), run.summary["grid"]
    which = "one panel per grid point"
    if len(points) > MAX_PANELS:
        which = f"only the best, the median and the worst of {len(points)} grid points"
        which += f" by mean {p.criterion.replace('_', ' ')}"
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
    # The steep first epochs would hide the differences between the later ones.
    settled, drawn, in_view = len(epochs) // 5, [], []
    for ax, point in zip(axes, points, strict=False):
        trials = _trials(run, point)
        lost = sum(map(_diverged, trials))
        title = label(point, varying(run)) + f" ({lost} of {len(trials)} diverged)" * bool(lost)
        ax.set_title(title.strip())
        for split, color, dash in (("train", COLORS[0], "--"), (p.split, COLORS[1], "-")):
            values = [[row[f"{split}_accuracy"] for row in by_trial[t["trial"]]] for t in trials]
            curves = 100 * np.array(values, float)
            mark = "." if len(epochs) < 3 else None
            name = f"{'training' if split == 'train' else split} accuracy"
            ax.plot(epochs, curves.mean(0), dash, color=color, marker=mark, label=name)
            ax.fill_between(epochs, curves.min(0), curves.max(0), color=color, alpha=0.2, lw=0)
            drawn += [*curves.ravel()]
            sound = [not _diverged(t) for t in trials]
            in_view += [*curves[sound, settled:].ravel()]
        chosen = [(t[p.epoch], 100 * t[p.criterion]) for t in trials]
        ax.plot(*zip(*chosen, strict=True), "o", color="black", ms=3, label="chosen epochs")
    limits, cut = _limits(in_view, drawn)
    axes[0].set(xlim=(0.5, len(epochs) + 0.5), ylim=limits)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for i, ax in enumerate(axes):
        ax.set_visible(i < len(points))
        if i + num_columns >= len(points):
            ax.set_xlabel("epoch")
            ax.tick_params(labelbottom=True)
    for ax in axes[::num_columns]:
        ax.set_ylabel("accuracy (%)")
    figure.suptitle(f"{run.summary['dataset']}: accuracy by epoch ({p.words})")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    seeds = _count(points[0]["num_trials"], "seed")
    caption = (
        f"Accuracy on {run.summary['dataset']} against epoch, {which}. Dashed: training accuracy,"
        " the running mean over the epoch while the weights change, as Keras reports it. Solid:"
        f" {p.split} accuracy after the epoch. Lines are means over {seeds}, bands reach from the"
        f" lowest to the highest. Dots: each trial's best epoch on the {p.split} images."
    )
    if cut:
        caption += " The axis leaves out lower values, of the first epochs or of diverged trials."
    return figure, caption


def _limits(in_view: Sequence[float], drawn: Sequence[float]) -> tuple[tuple[float, float], int]:
    """Returns limits in percent that show the first values, and how many of all lie below."""
    shown = [v for v in in_view if _finite(v)] or [v for v in drawn if _finite(v)] or [0.0, 100.0]
    pad = max(0.06 * (max(shown) - min(shown)), 0.05)
    low, high = max(min(shown) - pad, -1.0), min(max(shown) + pad, 101.0)
    return (low, high), sum(v < low for v in drawn)


def draw_axis(run: Run, axis: str):
    """Draws test accuracy against one axis of the grid; returns (Figure, caption)."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    p = protocol(run)
    rest = tuple(other for other in varying(run) if other != axis)
    lines: dict[tuple, list[dict]] = {}
    for point in ranked(run):
        lines.setdefault(tuple(point[other] for other in rest), []).append(point)
    kept = dict(sorted(itertools.islice(lines.items(), MAX_LINES)))
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    in_view, drawn = [], []

    def shifted(points):  # to the right, so that lines and trials do not hide each other
        return ax.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)

    for i, line in enumerate(kept.values()):
        line = sorted(line, key=lambda point: point[axis])
        offset = 9 * (i - (len(kept) - 1) / 2)
        look = {"color": COLORS[i], "marker": MARKERS[i], "ls": "none"}
        x = [point[axis] for point in line]
        statistics = [point["statistics"][p.column] for point in line]
        mean, std = (
            100 * np.array([s[name] for s in statistics], float) for name in ("mean", "std_ddof0")
        )
        name = label(line[0], rest) or "mean"
        ax.errorbar(x, mean, std, **look, ms=5, capsize=3, label=name, transform=shifted(offset))
        joined = [i for i, value in enumerate(x) if value > 0 or axis == "momentum"]
        ax.plot(
            *(np.array(values)[joined] for values in (x, mean)),
            **{**look, "ls": "-", "marker": ""},
            lw=0.8,
            alpha=0.6,
            transform=shifted(offset),
        )
        trials = [row for point in line for row in _trials(run, point)]
        single = [100 * row[p.column] for row in trials]
        ax.plot(
            [row[axis] for row in trials],
            single,
            **{**look, "marker": "."},
            ms=4,
            alpha=0.6,
            transform=shifted(offset + 4),
        )
        drawn += single
        in_view += [v for v, row in zip(single, trials, strict=True) if not _diverged(row)]
    limits, cut = _limits(in_view, drawn)
    ax.set_ylim(limits)
    _set_scale(ax, axis, sorted({point[axis] for line in kept.values() for point in line}))
    ax.set(xlabel=axis.replace("_", " "), ylabel=f"{p.measure} (%)")
    figure.suptitle(f"{run.summary['dataset']}: {p.title}")
    if rest:
        figure.legend(loc="outside lower center", ncols=min(3, len(kept)), markerscale=1)
    seeds = _count(run.summary["grid"][0]["num_trials"], "seed")
    caption = (
        f"{p.title[0].upper()}{p.title[1:]}, on {run.summary['dataset']}, against"
        f" {axis.replace('_', ' ')}. Large markers: means over {seeds}, with error bars of one"
        " standard deviation (population, ddof=0). Small points, moved a little to the right:"
        " single trials."
    )
    if rest:
        caption += " One line per combination of the other axes, moved apart."
    if len(lines) > len(kept):
        caption += f" Of {len(lines)} combinations, the {len(kept)} with the best points are drawn."
    if cut:
        caption += f" {_count(cut, 'trial')} below the axis cannot be seen."
    return figure, caption


def _set_scale(ax, axis: str, values: Sequence[float]) -> None:
    """Scales the x axis to the grid's values, and marks these where there is room."""
    positive = [value for value in values if value > 0]
    if axis == "momentum":
        ax.set_xscale("linear")
    elif len(positive) == len(values):
        ax.set_xscale("log")
    else:  # zero has a place of its own, left of the smallest value by a sixth of the others' width
        decades = math.log10(max(positive) / min(positive))
        ax.set_xscale("symlog", linthresh=min(positive), linscale=max(decades / 6, 0.5))
        ax.axvline(min(positive) / 2, color="#999999", lw=0.8, ls=":")
    transform = ax.xaxis.get_transform()
    places = transform.transform(np.array(values, float))
    width = places[-1] - places[0]
    margins = np.array([places[0] - 0.08 * width, places[-1] + 0.08 * width])
    ax.set_xlim(transform.inverted().transform(margins))
    gap = np.diff(places).min() / width
    if gap > 0.03:
        ax.set_xticks(values, [f"{value:g}" for value in values], rotation=0 if gap > 0.12 else 60)
        ax.set_xticks([], minor=True)


# --- renderers of one list of blocks ---


def to_terminal(table: Table) -> str:
    """Renders a table for a fixed-width font."""
    cells = [[name for _, name in table.columns], *table.rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, start = [], 0
    for group, span in _groups(table):
        widths[start] += max(0, len(group) - sum(widths[start : start + span]) - 2 * (span - 1))
        head.append(group.center(sum(widths[start : start + span]) + 2 * (span - 1)))
        start += span
    lines = ["  ".join(head)]
    lines += ["  ".join(map(str.rjust, row, widths)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _groups(table: Table) -> list[tuple[str, int]]:
    grouped = itertools.groupby(group for group, _ in table.columns)
    return [(group, len(list(members))) for group, members in grouped]


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Renders a report as Markdown, with links to the pictures."""

    def plain(text):
        return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)

    def row(cells):
        return f"| {' | '.join(plain(cell) for cell in cells)} |"

    parts = [f"# {plain(title)}"]
    for block in blocks:
        match block:
            case Heading(text):
                parts.append(f"## {plain(text)}")
            case Text(text):
                parts.append(plain(text))
            case Code(text):
                parts.append(f"    {text}")
            case Table(columns, rows):
                names = [f"{group}: {name}" if group else name for group, name in columns]
                lines = [row(names), "|" + " ---: |" * len(names), *map(row, rows)]
                parts.append("\n".join(lines))
            case Picture(name, caption):
                parts.append(f"![{plain(name)}](figures/{name}.png)\n\n{plain(caption)}")
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
th:first-child, td:first-child {{ text-align: left; }}
th[colspan] {{ text-align: center; }}
pre {{ overflow-x: auto; padding: 0.6rem; background: #8882; }}
figure {{ margin: 1.5rem 0; break-inside: avoid; }}
img {{ max-width: 100%; min-width: 34rem; background: white; }}
figcaption {{ font-size: 0.9rem; }}
@media print {{ body {{ max-width: none; padding: 0; }} img {{ min-width: 0; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Renders a report as one page that needs no other file, network or script."""
    plain = html.escape
    parts = []
    for block in blocks:
        match block:
            case Heading(text):
                parts.append(f"<h2>{plain(text)}</h2>")
            case Text(text):
                parts.append(f"<p>{plain(text)}</p>")
            case Code(text):
                parts.append(f"<pre>{plain(text)}</pre>")
            case Table(columns, rows):
                groups = [f'<th colspan="{span}">{plain(g)}</th>' for g, span in _groups(block)]
                lines = [groups] if any(group for group, _ in columns) else []
                lines.append([f"<th>{plain(name)}</th>" for _, name in columns])
                lines += [[f"<td>{plain(cell)}</td>" for cell in row] for row in rows]
                body = "\n".join(f"<tr>{''.join(line)}</tr>" for line in lines)
                parts.append(f"<div><table>\n{body}\n</table></div>")
            case Picture(name, caption, svg):
                source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
                image = f'<div><img src="{source}" alt="{plain(name)}"></div>'
                parts.append(f"<figure>{image}\n<figcaption>{plain(caption)}</figcaption></figure>")
    return PAGE.format(title=plain(title), body="\n".join(parts))


def main(argv: list[str]) -> None:
    """Makes the report of the run in the directory that the command line names."""
    if len(argv) != 2:
        raise UserError(
            f"{len(argv) - 1} arguments: expected one, the work directory of a finished run, as in"
            " python -m mnist_jax.report DIR"
        )
    print(write_report(argv[1]))


if __name__ == "__main__":
    from mnist_jax.main import run_command  # the one place that knows how bad input ends

    run_command(main)
