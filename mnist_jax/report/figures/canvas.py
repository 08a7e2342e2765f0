"""What all figures of runs have in common: colours, panels, captions, limits of an axis.

Each names data set and protocol. Its caption says if trials that diverged are left out.
"""

import contextlib
import math
import os
import sys
import textwrap
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mnist_jax.runs.labels import count
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run

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
    "text.parse_math": False,  # a $ in a name is a $
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mnist_jax",  # the same figure has the same bytes
}


def stopped_groups(run: Run) -> dict[int, tuple[str, str]]:
    """Returns the colour and the name of the points that stopped after each epoch, in order.

    What halving stopped is grey, lighter the earlier it did; 0, for all others, comes last.
    """
    stops = Counter(point.get("stopped_epoch", 0) for point in run.summary["grid"])
    rungs = sorted({*stops} - {0})
    levels = np.linspace(0.76, 0.4, len(rungs)).round(3)
    groups = {
        rung: (str(level), f"stopped after epoch {rung} ({stops[rung]})")
        for rung, level in zip(rungs, levels, strict=True)
    }
    still = "still in" if run.progress else "trained to the end"
    return groups | {0: (COLORS[0], f"{still} ({stops[0]})")}


def highest_share(run: Run) -> float:
    """Returns where 100 % is drawn on a log scale of errors: half an image that chooses below it.

    Validation images choose.
    """
    return 1 - 0.5 / int(run.summary["num_images"]["validation"])


class NothingToDrawError(Exception):
    """A figure has nothing to show; the message says why."""


_drawing = threading.RLock()


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Lets figures be drawn in the style of reports, whatever the user's own settings are.

    Settings of matplotlib are global, so one thread draws at a time.
    """
    with _drawing:
        _import_matplotlib()
        from matplotlib import style

        with style.context(STYLE, after_reset=True), warnings.catch_warnings():
            # In an SVG, names in any script are text, which a browser has the fonts for.
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            yield


def _import_matplotlib() -> None:
    """Imports matplotlib, also where MPLBACKEND, as of a notebook, names what is not there."""
    if "matplotlib" in sys.modules or (given := os.environ.get("MPLBACKEND")) is None:
        return
    os.environ["MPLBACKEND"] = "agg"
    try:
        import matplotlib
    finally:
        os.environ["MPLBACKEND"] = given
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = given


def mean_interval(point: Row, column: str) -> np.ndarray:
    """Returns a point's mean and the ends of its 95 % interval in percent, NaN if not known."""
    statistics = point["statistics"][column]
    return 100 * np.array([statistics["mean"], *statistics["interval_95"]], float)


def sound_trials(run: Run, points: Sequence[Row]) -> dict[int, list[Row]]:
    """Returns the rows of the trials that did not diverge, by the number of the grid point."""
    trials: dict[int, list[Row]] = {point["point"]: [] for point in points}
    for row in run.results:
        if row["point"] in trials and not row["diverged_epoch"]:
            trials[row["point"]].append(row)
    return trials


def lost_words(points: Sequence[Row]) -> str:
    """Says that something is left out, if it is."""
    some = any(point["diverged_seeds"] for point in points)
    return " Trials that diverged are left out." if some else ""


def seeds_words(points: Sequence[Row]) -> str:
    """Counts the seeds of points."""
    numbers = sorted({point["num_trials"] for point in points})
    return f"{numbers[0]} to " * (len(numbers) > 1) + count(numbers[-1], "seed")


def interval_words(points: Sequence[Row]) -> str:
    """Says what markers, intervals and small points are."""
    if (seeds := seeds_words(points)) == "1 seed":
        return " One seed each, so nothing is known of the scatter between seeds."
    return (
        f" Markers: means over {seeds}, with 95 % intervals of the mean (Student). Small points"
        " beside them: single trials."
    )


class View:
    """Chooses the limits of an axis, without accuracies so low that they hide how others differ."""

    def __init__(self):
        """Starts without values."""
        self._wanted, self._drawn, self._low = [], [], -math.inf

    def add(self, wanted, drawn=None) -> None:
        """Takes the accuracies that the axis should show, and all that are drawn."""
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
        """Returns the text in place of a mean outside the axis; empty for one inside."""
        if math.isnan(value):
            return "diverged"
        return f"◂ {value:.2f}" if value < self._low else ""

    def words(self, axis: str = "axis") -> str:
        """Says that the axis leaves out lower values, if it does."""
        below = any((values < self._low).any() for values in self._drawn)
        return f" The {axis} leaves out lower values." if below else ""


def shown_channels(images: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns the channels of images [..., channels] that are drawn, 1 or 3, and words for it."""
    channels = images.shape[-1]
    if channels in (1, 3):
        return images, ""
    if channels == 2:
        return images[..., :1], " Of 2 channels the first is drawn."
    return images[..., :3], f" Of {channels} channels the first three are drawn, as colours."


def rows_and_columns(num_panels: int) -> tuple[int, int]:
    """Returns how panels are arranged, at most three in a row."""
    num_columns = 2 if num_panels == 4 else min(3, num_panels)
    return math.ceil(num_panels / num_columns), num_columns


def subplots(title: str, size: tuple[float, float], num_panels: int = 1, **options):
    """Returns a figure of a size in inches, and the list of its panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(textwrap.fill(title, int(12 * size[0])))  # characters an inch
    panels = figure.subplots(*rows_and_columns(num_panels), squeeze=False, **options).ravel()
    for ax in panels[num_panels:]:
        ax.set_visible(False)
    return figure, panels[:num_panels].tolist()


def plot_trials(ax, x: Sequence[float], y: Sequence[float] | np.ndarray, **look) -> None:
    """Plots a small point per trial; many are pixels in an SVG, too."""
    ax.plot(x, y, ".", ms=4, alpha=0.6, rasterized=len(x) > 2000, **look)


# By the most decades that an axis has, which multiples of powers of ten are marked.
_LOG_STEPS = {0.6: (1, 1.5, 2, 3, 5, 7), 1.2: (1, 2, 5), 2.4: (1, 3), math.inf: (1,)}


def mark_decades(axis, decades: float) -> None:
    """Marks plain numbers on a log axis that has so many decades."""
    from matplotlib.ticker import LogLocator, NullFormatter

    steps = next(steps for most, steps in _LOG_STEPS.items() if decades < most)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def cut(text: str, most: int = 30) -> str:
    """Leaves out the middle of a text that has too many characters for its place."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"


def cut_names(names: Sequence[str], most: int) -> list[str]:
    """Cuts names of classes; those that would then be alike become the numbers of their classes."""
    short = [cut(name, most) for name in names]
    number = Counter(short)
    return [x if number[x] == 1 else f"class {i}" for i, x in enumerate(short)]


def add_legend(figure, panels) -> None:
    """Adds a legend below, of everything that is named in some panel."""
    named: dict[str, Any] = {}
    for ax in panels:
        handles, names = ax.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
    if named:
        width = int(14 * figure.get_figwidth())  # characters an inch
        names = [textwrap.fill(name, int(0.8 * width) - 6) for name in named]
        columns = max(1, min(width // (max(map(len, named)) + 6), len(named)))
        figure.legend(named.values(), names, loc="outside lower center", ncols=columns)
