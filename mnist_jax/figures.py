"""Figures of finished runs: each function returns a matplotlib Figure and its caption.

Every figure names data set and protocol. Trials that diverged are left out of means, bands and
intervals, and the reader is told so.
"""

import itertools
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnist_jax import data, run_files
from mnist_jax.results import (
    Protocol,
    Row,
    Run,
    count,
    label,
    protocol,
    ranked,
    shown,
    unreadable,
    varying,
)
from mnist_jax.run_files import BadFileError

MAX_PANELS = 9
MAX_POINTS = 20  # of many, that are listed
MAX_CURVES = 12  # in one panel
MAX_UNITS = 48
MAX_CELLS = 100  # of a heat map, with numbers in them
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
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "figure.dpi": 150,
    "savefig.dpi": "figure",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mnist_jax",  # the same figure has the same bytes
}
# How the numbers of an axis of the grid are spread; the values of the other axes are names.
_SPREAD = dict.fromkeys(("learning_rate", "l2", "weight_decay", "num_epochs", "batch_size"), "log")
_SPREAD |= {"warmup_steps": "linear", "label_smoothing": "linear", "momentum": "1 - momentum"}
_MOMENTA = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_TRIAL = re.compile(rb'"trial": ?(\d+)')


class Line(NamedTuple):
    """A grid point of a run, and the name by which it is shown beside others."""

    name: str
    run: Run
    point: Row


def criterion_words(p: Protocol) -> str:
    """Names the accuracy that chooses grid point and trial."""
    return f"{'best' if p.choose_epoch else 'last'}-epoch {p.held_out} accuracy"


def mean_interval(point: Row, column: str) -> np.ndarray:
    """Returns a point's mean and the ends of its 95 % interval in percent, NaN if there is none."""
    found = point["statistics"][column]
    return 100 * np.array([found["mean"], *found["interval_95"]], float)


def sound_trials(run: Run, points: Sequence[Row]) -> dict[int, list[Row]]:
    """Returns the rows of the trials that did not diverge, by the number of the grid point."""
    trials: dict[int, list[Row]] = {point["point"]: [] for point in points}
    for row in run.results:
        if row["point"] in trials and not row["diverged_epoch"]:
            trials[row["point"]].append(row)
    return trials


# --- accuracy by epoch ---


def draw_curves(run: Run):
    """Draws training and held-out accuracy against epoch, one panel per grid point."""
    p, grid, which = protocol(run), run.summary["grid"], "one panel per grid point"
    points, axes = grid, varying(grid)
    if len(grid) > MAX_PANELS:
        order = ranked(grid, p.criterion)
        points = [order[0], order[len(grid) // 2], order[-1]]
        which = "the first, the middle one and the last"
        if p.criterion:
            which = f"the best, the median and the worst by mean {criterion_words(p)}"
        which = f"of {len(grid)} grid points {which}"
    dots_name, epoch, column = "test accuracy at the end", "num_epochs", p.column
    if p.choose_epoch:
        dots_name, epoch, column = "chosen epochs", f"best_{p.held_out}_epoch", str(p.criterion)
    num_columns = _columns(len(points))
    num_rows = math.ceil(len(points) / num_columns)
    size = (6.4, 4.2) if len(points) == 1 else (2.7 * num_columns + 0.5, 2.3 * num_rows + 1.1)
    figure, panels = _subplots(size, num_rows, num_columns, sharex=True, sharey=True)
    trials, view = sound_trials(run, points), _View()
    for ax, point, curves in zip(panels, points, _read_curves(run, points, trials), strict=False):
        title = label(point, axes)
        if lost := len(point["diverged_seeds"]):
            title += f" ({lost} of {point['num_trials']} diverged)"
        ax.set_title(textwrap.fill(title.strip(), 34 if len(points) > 1 else 80))
        for split, values in curves.items():
            train = split == "train"
            name = "training accuracy" if train else f"{split} accuracy"
            _plot_band(ax, values, view, name, COLORS[not train], "--" if train else "-")
        if rows := trials[point["point"]]:
            dots = [100 * row[column] for row in rows]
            ax.plot([row[epoch] for row in rows], dots, "o", color="black", ms=3, label=dots_name)
            view.add(dots)
    _finish_epochs(panels, points, view)
    for i, ax in enumerate(panels):
        ax.set_visible(i < len(points))
        ax.set_ylabel("accuracy (%)" if i % num_columns == 0 else "")
        if i + num_columns >= len(points):  # nothing stands below
            ax.set_xlabel("epoch")
            ax.tick_params(labelbottom=True)
    for ax, point in zip(panels, points, strict=False):
        text = "every trial diverged"
        if trials[point["point"]]:
            text = f"below the axis\n({mean_interval(point, p.column)[0]:.1f} % test accuracy)"
        if not ax.lines or ax.dataLim.y1 < ax.get_ylim()[0]:
            ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center")
    _add_title(figure, f"{run.summary['dataset']}: accuracy by epoch ({p.words})")
    _add_legend(figure, panels)
    caption = (
        f"Accuracy on {run.summary['dataset']} against epoch, {which} ({p.words}). Dashed: training"
        " accuracy, the running mean over the epoch while the weights change, as Keras reports it."
    )
    if p.held_out:
        caption += f" Solid: {p.held_out} accuracy after the epoch."
    said = "best epoch" if p.choose_epoch else "test accuracy, scored once at its end"
    return figure, f"{caption}{_band_words(points)} Dots: each trial's {said}.{view.words()}"


def draw_overlay(lines: Sequence[Line], title: str):
    """Draws curves of several runs over each other: training on the left, held-out on the right."""
    figure, panels = _subplots((7.6, 4.4), 1, 2, sharex=True, sharey=True)
    view, drawn = _View(), lines[:MAX_CURVES]
    points = [line.point for line in drawn]
    for i, (name, run, point) in enumerate(drawn):
        p, color, dash = protocol(run), COLORS[i % len(COLORS)], "-" if i < len(COLORS) else "--"
        trials = sound_trials(run, [point])
        [curves] = _read_curves(run, [point], trials)
        for split, values in curves.items():
            _plot_band(panels[split != "train"], values, view, name, color, dash)
        if not p.held_out and trials[point["point"]]:
            mean = mean_interval(point, p.column)[0]
            panels[1].plot(point["num_epochs"], mean, MARKERS[i % len(MARKERS)], color=color, ms=5)
            view.add([mean])
    _finish_epochs(panels, points, view)
    for ax, name in zip(panels, ("training", "held-out images"), strict=True):
        ax.set(title=name, xlabel="epoch")
    panels[0].set_ylabel("accuracy (%)")
    _add_title(figure, title)
    _add_legend(figure, panels)
    caption = (
        f"{title}. Left: training accuracy, the running mean over the epoch. Right: accuracy after"
        " the epoch on the images that the run's protocol scores then, of the test set or for"
        " validation; of a run that scores none, a marker for the mean test accuracy at the end."
        f"{_band_words(points)}"
    )
    if len(drawn) < len(lines):
        caption += f" Of {len(lines)} lines the first {len(drawn)} are drawn."
    return figure, caption + view.words()


def _read_curves(run: Run, points: Sequence[Row], trials: Mapping[int, Sequence[Row]]):
    """Reads accuracies by epoch in percent: per point, by split, [its trials, epochs].

    Only the rows of those trials are parsed, since the file may have millions of others.

    Raises:
        UserError: The file does not hold what it should.
    """
    splits = ["train", *filter(None, [protocol(run).held_out])]
    found, places = [], {}
    for point in points:
        mine = trials[point["point"]]
        empty = np.full((len(splits), len(mine), point["num_epochs"]), math.nan)
        arrays = dict(zip(splits, empty, strict=True))
        found.append(arrays)
        places.update({b"%d" % row["trial"]: (arrays, i) for i, row in enumerate(mine)})
    path = run.workdir / "metrics.jsonl"
    shape = {"epoch": int} | {f"{split}_accuracy": float for split in splits}
    try:
        for line in run_files.lines(path):
            trial = _TRIAL.search(line)
            if trial and trial[1] in places:
                row, (arrays, i) = run_files.parse_json(line, shape), places[trial[1]]
                if not 0 < row["epoch"] <= len(arrays["train"][i]):
                    raise ValueError(f"trial {int(trial[1])} has an epoch too many")
                for split in splits:
                    arrays[split][i, row["epoch"] - 1] = 100 * row[f"{split}_accuracy"]
        if any(np.isnan(values).any() for arrays in found for values in arrays.values()):
            raise ValueError("some epochs of some trials are missing")
    except (ValueError, RecursionError, BadFileError) as error:
        bad = error if isinstance(error, BadFileError) else BadFileError(path, error)
        raise unreadable(run.workdir, bad) from None
    return found


def _plot_band(ax, curves: np.ndarray, view: "_View", name: str, color: str, dash: str) -> None:
    """Plots the mean of curves [trials, epochs], with a band from the lowest to the highest."""
    num_trials, num_epochs = curves.shape
    if num_trials:
        epochs = np.arange(1, num_epochs + 1)
        marker = "." if num_epochs < 3 else None
        ax.plot(epochs, curves.mean(0), dash, color=color, marker=marker, label=name)
        if num_trials > 1:
            ax.fill_between(epochs, curves.min(0), curves.max(0), color=color, alpha=0.2, lw=0)
        # The steep first epochs would hide the differences after them.
        view.add(curves[:, num_epochs // 5 :], curves)


def _finish_epochs(panels, points: Sequence[Row], view: "_View") -> None:
    """Sets the limits and ticks that panels share."""
    from matplotlib.ticker import MaxNLocator

    longest = max(point["num_epochs"] for point in points)
    panels[0].set(xlim=(0.5, longest + 0.5), ylim=view.limits())
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _band_words(points: Sequence[Row]) -> str:
    """Says what lines and bands are, and what is missing from them."""
    said = " Every line is one seed."
    if (seeds := _seeds(points)) != "1 seed":
        said = f" Lines are means over {seeds}, bands reach from the lowest to the highest."
    return said + _lost_words(points)


def _lost_words(points: Sequence[Row]) -> str:
    some = any(point["diverged_seeds"] for point in points)
    return " Trials that diverged are left out." if some else ""


def _seeds(points: Sequence[Row]) -> str:
    numbers = sorted({point["num_trials"] for point in points})
    return f"{numbers[0]} to " * (len(numbers) > 1) + count(numbers[-1], "seed")


# --- accuracy by recipe ---


def draw_axis(run: Run, axis: str):
    """Draws test accuracy against one axis of the grid, one line per combination of the others."""
    from matplotlib.transforms import ScaledTranslation

    p, grid, dataset = protocol(run), run.summary["grid"], run.summary["dataset"]
    rest = tuple(other for other in varying(grid) if other != axis)

    def key(point):
        return tuple(point[other] for other in rest)

    lines: dict[tuple, list[Row]] = {}
    for point in ranked(grid, p.criterion):
        lines.setdefault(key(point), []).append(point)
    best = set(itertools.islice(lines, len(COLORS)))
    kept = [lines[values] for values in dict.fromkeys(map(key, grid)) if values in best]
    trials = sound_trials(run, [point for line in kept for point in line])
    figure, [ax] = _subplots((6.4, 4.2))
    places, view, means = _set_scale(ax, axis, grid, 5.5), _View(), []

    def moved(points):  # to the right, so that lines and trials do not hide each other
        return ax.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)

    for i, line in enumerate(kept):
        line.sort(key=lambda point: places[point[axis]])
        x = [places[point[axis]] for point in line]
        mean, low, high = np.array([mean_interval(point, p.column) for point in line]).T
        shift = 9 * (i - (len(kept) - 1) / 2)
        look: dict[str, Any] = {"color": COLORS[i], "transform": moved(shift)}
        ax.plot(x, mean, f"{MARKERS[i]}-", ms=5, lw=0.8, label=label(line[0], rest), **look)
        ax.vlines(x, low, high, lw=1.4, **look)
        rows = [(places[point[axis]], row) for point in line for row in trials[point["point"]]]
        dots = [100 * row[p.column] for _, row in rows]
        if len(dots) > len(line):
            look |= {"transform": moved(shift + 5), "alpha": 0.6, "rasterized": len(dots) > 2000}
            ax.plot([place for place, _ in rows], dots, ".", ms=4, **look)
        view.add([*dots, *low, *high])
        means += [(place, value, shift, COLORS[i]) for place, value in zip(x, mean, strict=True)]
    ax.set(ylim=view.limits(), ylabel=f"{p.measure} (%)")
    for place, value, shift, color in means:
        if text := view.missing(value):
            spot = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
            look = {"rotation": 90, "color": color, "fontsize": 7, "ha": "center", "va": "bottom"}
            ax.annotate(text, (place, 0.01), (shift, 0), **spot, **look)
    _add_title(figure, f"{dataset}: {p.measure} ({p.words})")
    if rest:
        _add_legend(figure, [ax])
    caption = f"Against {axis.replace('_', ' ')}, on {dataset}: {p.measure} ({p.words})."
    caption += _interval_words(grid)
    if rest:
        caption += " One line per combination of the other axes, moved apart."
    if len(kept) < len(lines):
        which = "those with the best points" if p.criterion else "the first"
        caption += f" Of {len(lines)} combinations, {len(kept)} are drawn, {which}."
    return figure, caption + _lost_words(grid) + view.words()


def draw_search(run: Run):
    """Draws the accuracy that chose, of every point, against each axis; one panel per axis."""
    p, grid, dataset = protocol(run), run.summary["grid"], run.summary["dataset"]
    column, words = p.criterion or p.column, criterion_words(p) if p.criterion else p.measure
    accuracies = np.array([mean_interval(point, column)[0] for point in grid])
    sound = np.array([not point["diverged_seeds"] for point in grid])
    chosen = np.array([point["point"] == run.summary["chosen_point"] for point in grid])
    view = _View()
    view.add(accuracies[sound])
    low, high = view.limits()
    outside = ~(sound & (accuracies >= low))
    heights = np.where(outside, low + 0.03 * (high - low), accuracies)
    axes = varying(grid)
    num_columns = _columns(len(axes))
    num_rows = math.ceil(len(axes) / num_columns)
    size = (max(2.7 * num_columns + 0.5, 4.5), 2.5 * num_rows + 0.8)
    figure, panels = _subplots(size, num_rows, num_columns, sharey=True)
    panels[0].set_ylim(low, high)
    scatter = np.random.default_rng(0).uniform(-0.2, 0.2, len(grid))
    for ax in panels[len(axes) :]:
        ax.set_visible(False)
    for i, (ax, axis) in enumerate(zip(panels, axes, strict=False)):
        places = _set_scale(ax, axis, grid, 2.3)
        x = np.array([places[point[axis]] for point in grid], float)
        x += scatter * (axis not in _SPREAD)
        many = len(grid) > 1000
        look: dict[str, Any] = {"alpha": 0.7, "mew": 0, "rasterized": many}
        ax.plot(x[~outside], heights[~outside], "o", color=COLORS[0], ms=2 if many else 4, **look)
        ax.plot(x[outside], heights[outside], "v", color=COLORS[1], ms=6, **look)
        ax.plot(x[chosen], heights[chosen], "o", color="black", ms=9, mfc="none", mew=1.5)
        ax.set_ylabel(f"{words} (%)" if i % num_columns == 0 else "")
    _add_title(figure, f"{dataset}: {words} of {count(len(grid), 'point')} ({p.words})")
    caption = (
        f"Each point of the search on {dataset}, against each axis: mean {words} over"
        f" {_seeds(grid)} ({p.words})."
    )
    if chosen.any():
        caption += " Ring: the chosen point."
    if any(axis not in _SPREAD for axis in axes):
        caption += " Over names, points are scattered sideways."
    if outside.any():
        caption += " Triangles at the lower edge: points below the axis, or with diverged trials."
    return figure, caption


def draw_heat_map(run: Run):
    """Draws the mean test accuracy of a grid that is the product of two axes."""
    p, grid, dataset = protocol(run), run.summary["grid"], run.summary["dataset"]
    down, across = varying(grid)
    rows, columns = _order(grid, down), _order(grid, across)
    size = (min(max(1.8 + 0.85 * len(columns), 4.5), 9.0), min(2 + 0.5 * len(rows), 9.0))
    figure, [ax] = _subplots(size)
    cells = {(rows[point[down]], columns[point[across]]): point for point in grid}
    means = np.full((len(rows), len(columns)), math.nan)
    for cell, point in cells.items():
        means[cell] = mean_interval(point, p.column)[0]
    view = _View()
    view.add(means)
    low, high = (min(max(limit, 0), 100) for limit in view.limits())
    image = ax.imshow(means, "cividis", vmin=low, vmax=high, origin="lower", aspect="auto")
    for (y, x), point in cells.items():
        mean, bottom, _ = mean_interval(point, p.column)
        text = "diverged" if math.isnan(mean) else f"{mean:.2f}"
        if math.isfinite(bottom):
            text += f"\n± {mean - bottom:.2f}"
        if 0 < (lost := len(point["diverged_seeds"])) < point["num_trials"]:
            text += f"\n{lost} diverged"
        if len(cells) <= MAX_CELLS:
            color = "white" if mean < (low + high) / 2 else "black"
            ax.text(x, y, text, ha="center", va="center", color=color, fontsize=7)
        if point["point"] == run.summary["chosen_point"]:
            frame = ([x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5])
            ax.fill(*frame, fill=False, ec=COLORS[1], lw=2.5, clip_on=False, zorder=3)
    ax.grid(False)
    for values, set_ticks in ((rows, ax.set_yticks), (columns, ax.set_xticks)):
        step = math.ceil(len(values) / 20)
        set_ticks(range(0, len(values), step), [shown(value) for value in values][::step])
    ax.set(xlabel=across.replace("_", " "), ylabel=down.replace("_", " "))
    extend = "min" if view.words() else "neither"
    figure.colorbar(image, ax=ax, label=f"{p.measure} (%)", extend=extend)
    _add_title(figure, f"{dataset}: mean {p.measure} ({p.words})")
    caption = f"Mean {p.measure} on {dataset} by {down} and {across} ({p.words})".replace("_", " ")
    caption += ", with the half-width of its 95 % interval (Student) where there are several seeds."
    if p.criterion:
        caption += f" Framed: the chosen point, best by mean {criterion_words(p)}."
    return figure, caption + _lost_words(grid) + view.words("colour scale")


def draw_points(lines: Sequence[Line], title: str):
    """Draws test accuracies with their intervals below each other, a row per line."""
    names = [textwrap.fill(line.name, 48) for line in lines]
    tallest = 1 + max(name.count("\n") for name in names)
    figure, [ax] = _subplots((7.2, 1.3 + max(0.32, 0.08 + 0.145 * tallest) * len(lines)))
    protocols = list(dict.fromkeys(protocol(line.run) for line in lines))
    points, view, means = [line.point for line in lines], _View(), []
    for y, (_, run, point) in enumerate(lines):
        p = protocol(run)
        i = protocols.index(p)
        mean, low, high = mean_interval(point, p.column)
        dots = [100 * row[p.column] for row in sound_trials(run, [point])[point["point"]]]
        look: dict[str, Any] = {"alpha": 0.6, "rasterized": len(dots) > 2000}
        if len(dots) > 1:
            ax.plot(dots, np.full(len(dots), y + 0.25), ".", color=COLORS[i], ms=4, **look)
        ax.hlines(y, low, high, color=COLORS[i], lw=1.4)
        ax.plot(mean, y, MARKERS[i], color=COLORS[i], ms=5, label=f"{p.measure} ({p.words})")
        view.add([*dots, low, high])
        means.append(mean)
    ax.set_yticks(range(len(lines)), names, fontsize=8)
    ax.set(ylim=(len(lines) - 0.5, -0.5), xlim=view.limits())
    ax.set_xlabel(f"{', '.join(dict.fromkeys(p.measure for p in protocols))} (%)")
    for y, mean in enumerate(means):
        if text := view.missing(mean):
            ax.text(0.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    _add_title(figure, title)
    if len(protocols) > 1:
        _add_legend(figure, [ax])
    return figure, f"{title}.{_interval_words(points)}{_lost_words(points)}{view.words()}"


def _interval_words(points: Sequence[Row]) -> str:
    if (seeds := _seeds(points)) == "1 seed":
        return " One seed each, so nothing is known of the scatter between seeds."
    return (
        f" Markers: means over {seeds}, with 95 % intervals of the mean (Student). Small points"
        " beside them: single trials."
    )


def _order(grid: Sequence[Row], axis: str) -> dict[Any, int]:
    """Returns the place of each value: of numbers by size, of names as the config has them."""
    values = dict.fromkeys(point[axis] for point in grid)
    return {v: i for i, v in enumerate(sorted(values) if axis in _SPREAD else values)}


_LOG_STEPS = {0.6: (1, 1.5, 2, 3, 5, 7), 1.2: (1, 2, 5), 2.4: (1, 3), math.inf: (1,)}
"""By the most decades that an axis has, which multiples of powers of ten are marked."""


def _set_scale(ax, axis: str, grid: Sequence[Row], inches: float) -> dict[Any, float]:
    """Scales and names the x axis, and returns the place of each value on it.

    Args:
        ax: The axes of a figure.
        axis: Of the grid.
        grid: Its points.
        inches: The width. Where there is room in it, the values themselves are marked.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    order = _order(grid, axis)
    name, spread, values = axis.replace("_", " "), _SPREAD.get(axis, "names"), list(order)
    places = {value: float(i if spread == "names" else value) for value, i in order.items()}
    if spread == "log":
        positive = [value for value in values if value > 0]
        ax.set_xscale("log")
        if len(positive) == len(values):
            name += " (log scale)"
        elif positive:  # zero has a place of its own, left of the dotted line
            width = max(math.log10(max(positive) / min(positive)) / 6, 0.5)
            ax.set_xscale("symlog", linthresh=min(positive), linscale=width)
            ax.axvline(min(positive) / 2, color="#999999", lw=0.8, ls=":")
            name += " (log scale, 0 set apart)"
    elif spread == "1 - momentum":
        ax.set_xscale("function", functions=(_spread_momentum, lambda place: 1 - 10.0**-place))
        ax.set_xticks([m for m in _MOMENTA if values[0] <= m <= values[-1]])
        name += " (log scale of 1 - momentum)"
    ax.set_xlabel(name, fontsize=8)
    transform = ax.xaxis.get_transform()
    spots = transform.transform(np.array(list(places.values())))
    width = spots[-1] - spots[0]
    margin = 0.5 if spread == "names" else 0.08 * width
    ends = np.array([spots[0] - margin, spots[-1] + margin])
    ax.set_xlim(transform.inverted().transform(ends))
    gap = inches * np.diff(spots).min() / (width + 2 * margin)
    if gap > 0.16:
        texts = [shown(value) for value in values]
        room = 13 * gap > max(map(len, texts)) + 1  # characters an inch
        ax.set_xticks(list(places.values()), texts, rotation=0 if room else 90)
        ax.set_xticks([], minor=True)
    elif ax.get_xscale() == "log":
        decades = float(width + 2 * margin)
        steps = next(s for most, s in _LOG_STEPS.items() if decades < most)
        ax.xaxis.set_major_locator(LogLocator(subs=steps))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    return places


def _spread_momentum(momentum):
    return -np.log10(np.maximum(1 - momentum, 1e-9))


# --- one trial ---


def chosen_words(run: Run) -> str:
    """Names the trial whose weights and predictions a run leaves."""
    trial = run.summary["chosen_trial"]
    row = next(row for row in run.results if row["trial"] == trial)
    point = next(point for point in run.summary["grid"] if point["point"] == row["point"])
    recipe = label(point, varying(run.summary["grid"]))
    return f"trial {trial} (seed {row['seed']}{', ' * bool(recipe)}{recipe})"


def draw_classes(run: Run, chosen: Mapping[str, np.ndarray]):
    """Draws the accuracy of each class, and the confusion matrix, of the chosen trial."""
    p, dataset = protocol(run), run.summary["dataset"]
    names = data.CLASS_NAMES[dataset]
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (chosen["labels"], chosen["probabilities"].argmax(1)), 1)
    right, sizes = matrix.diagonal(), matrix.sum(1)
    figure, [left, ax] = _subplots((8.4, 4.3), 1, 2, width_ratios=(1, 1.35))
    places = np.arange(len(names))
    left.hlines(places, *(100 * _wilson(right, sizes)), color=COLORS[0], lw=1.4)
    left.plot(100 * right / np.maximum(sizes, 1), places, "o", color=COLORS[0], ms=5)
    total = 100 * right.sum() / sizes.sum()
    left.axvline(total, color="#666666", lw=1, ls="--")
    left.set_yticks(places, [f"{name} ({n})" for name, n in zip(names, sizes, strict=True)])
    left.set(ylim=(len(names) - 0.5, -0.5), xlabel="test accuracy (%)", ylabel="class (images)")
    errors = np.where(np.eye(len(names), dtype=bool), 0, matrix)
    ax.imshow(errors, "Oranges", vmin=0, vmax=max(1, errors.max()))
    for (y, x), n in np.ndenumerate(matrix):
        if n:
            color = "#888888" if x == y else "white" if n > 0.6 * errors.max() else "black"
            ax.text(x, y, str(n), ha="center", va="center", fontsize=7, color=color)
    ax.set_yticks(places, names)
    ax.set_xticks(places, names, rotation=0 if max(map(len, names)) < 4 else 90)
    ax.grid(False)
    ax.set(xlabel="predicted", ylabel="true class", title="test images (diagonal: right)")
    _add_title(figure, f"{dataset}: test set by class, one trial ({p.words})")
    return figure, (
        f"Test accuracy of each class of {dataset}, and confusion matrix, of {chosen_words(run)}"
        f" alone ({p.words}). Lines: 95 % intervals (Wilson) for so many images; dashed: all"
        f" {sizes.sum()} test images, {total:.2f} %. Colour counts the mistakes."
    )


def _wilson(right: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns the ends of 95 % intervals of shares, [2, n].

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    Journal of the American Statistical Association 22 (1927), 209-212.
    """
    z = 1.959964  # of the normal distribution
    middle = right + z**2 / 2
    half = z * np.sqrt(right * (sizes - right) / np.maximum(sizes, 1) + z**2 / 4)
    return np.clip(np.array([middle - half, middle + half]) / (sizes + z**2), 0, 1)


def draw_mistakes(run: Run, chosen: Mapping[str, np.ndarray]):
    """Draws the test images that the chosen trial gets wrong with the highest probability."""
    p, dataset, mistakes = protocol(run), run.summary["dataset"], chosen["mistakes"]
    names, labels = data.CLASS_NAMES[dataset], chosen["labels"]
    num_columns = min(6, len(mistakes))
    num_rows = math.ceil(len(mistakes) / num_columns)
    figure, [ax] = _subplots((max(1.25 * num_columns, 4.5), 1.75 * num_rows + 0.5))
    width, height = 34, 45  # pixels: an image, what separates it, and three lines of text
    for i, (image, number) in enumerate(zip(chosen["mistake_images"], mistakes, strict=True)):
        x, y = width * (i % num_columns), height * (i // num_columns)
        ax.imshow(image, "gray_r", extent=(x, x + 28, y + 28, y), vmin=0, vmax=255)
        said = chosen["probabilities"][number]
        text = f"true: {names[labels[number]]}\npredicted: {names[said.argmax()]}"
        text += f"\n{100 * said.max():.1f} %"
        ax.text(x + 14, y + 29, text, ha="center", va="top", fontsize=7)
    ax.set(xlim=(-3, width * num_columns - 3), ylim=(height * num_rows - 2, -1))
    ax.axis("off")
    _add_title(figure, f"{dataset}: most confident mistakes, one trial ({p.words})")
    wrong = int((chosen["probabilities"].argmax(1) != labels).sum())
    which = f"the {len(mistakes)} most confident of {wrong}"
    if wrong == len(mistakes):
        which = f"all {wrong}"
    return figure, (
        f"Mistakes of {chosen_words(run)} on the test images of {dataset} ({p.words}): {which}."
        " Below each image its true class, and the class predicted with its probability."
    )


def draw_weights(run: Run, chosen: Mapping[str, np.ndarray]):
    """Draws the weights of the chosen trial's first layer as images."""
    p, dataset = protocol(run), run.summary["dataset"]
    layer = next(x for x in ("conv_1", "hidden_1", "output") if f"params/{x}/kernel" in chosen)
    kernel = chosen[f"params/{layer}/kernel"]
    kernel = kernel.reshape(-1, kernel.shape[-1])  # of 28 * 28 pixels, or 3 * 3
    side, num_units = math.isqrt(len(kernel)), kernel.shape[1]
    units, order = np.arange(num_units), "in the order of the classes"
    if layer != "output":
        units = np.argsort(-np.linalg.norm(kernel, axis=0), kind="stable")[:MAX_UNITS]
        order = "by falling norm"
    num_columns = min(8, math.ceil(math.sqrt(1.5 * len(units))))
    num_rows = math.ceil(len(units) / num_columns)
    step = side + max(1, side // 9)  # pixels, with what separates the images
    tiles = np.full((num_rows * step, num_columns * step), math.nan)
    for i, unit in enumerate(units):
        y, x = step * (i // num_columns), step * (i % num_columns)
        tiles[y : y + side, x : x + side] = kernel[:, unit].reshape(side, side)
    figure, [ax] = _subplots((max(0.8 * num_columns + 1.2, 4.5), 0.8 * num_rows + 0.7))
    limit = np.nanmax(np.abs(tiles)) or 1.0
    image = ax.imshow(tiles, "RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.axis("off")
    figure.colorbar(image, ax=ax, label="weight", shrink=0.9, aspect=30)
    _add_title(figure, f"{dataset}: weights of the first layer, one trial ({p.words})")
    which = f"all {num_units}" if len(units) == num_units else f"{len(units)} of {num_units}"
    return figure, (
        f"Weights into the first layer ({layer}) of {chosen_words(run)}, trained on {dataset}"
        f" ({p.words}): {which} units {order}, each as {side} x {side} pixels. Red adds, blue takes"
        " away."
    )


# --- means of drawing ---


class _View:
    """Collects accuracies that are drawn, and decides which of them an axis shows.

    Those far below the median are left out, which would hide how the others differ.
    """

    def __init__(self):
        self._wanted, self._drawn, self._low = [], [], -math.inf

    def add(self, wanted, drawn=None) -> None:
        """Takes accuracies that should be seen, and all those drawn, which need not."""
        self._wanted.append(np.ravel(wanted))
        self._drawn.append(np.ravel(wanted if drawn is None else drawn))

    def limits(self) -> tuple[float, float]:
        """Returns the ends of the axis, in percent."""
        values = np.concatenate([*self._wanted, np.zeros(0)])
        values = values[np.isfinite(values)]
        if not len(values):
            return 0.0, 100.0
        middle, good = np.quantile(values, (0.5, 0.9))
        low, high = max(values.min(), middle - max(5 * (good - middle), 1.0)), values.max()
        pad = max(0.06 * (high - low), 0.05)
        self._low = max(low - pad, -1.0)
        return self._low, min(high + pad, 101.0)

    def missing(self, value: float) -> str:
        """Returns what stands in for a mean that has no place on the axis, empty if it has."""
        if math.isnan(value):
            return "diverged"
        return f"◂ {value:.2f}" if value < self._low else ""

    def words(self, axis: str = "axis") -> str:
        """Says whether something lies below."""
        below = any((values < self._low).any() for values in self._drawn)
        return f" The {axis} leaves out lower values." if below else ""


def _columns(num_panels: int) -> int:
    return 2 if num_panels == 4 else min(3, num_panels)


def _subplots(size: tuple[float, float], num_rows: int = 1, num_columns: int = 1, **options):
    """Returns a figure and the list of its panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, squeeze=False, **options).ravel().tolist()


def _add_title(figure, text: str) -> None:
    figure.suptitle(textwrap.fill(text, int(12 * figure.get_figwidth())))  # characters an inch


def _add_legend(figure, panels) -> None:
    """Adds a legend below, of everything that is named in some panel."""
    named: dict[str, Any] = {}
    for ax in panels:
        handles, names = ax.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
    if named:
        room = int(14 * figure.get_figwidth() / (max(map(len, named)) + 6))  # characters an inch
        columns = max(1, min(room, len(named)))
        figure.legend(named.values(), named, loc="outside lower center", ncols=columns)
