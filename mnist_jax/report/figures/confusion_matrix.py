"""Accuracy by class and the confusion matrix of one trial."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.report.figures.canvas import COLORS, cut_names, subplots
from mnist_jax.report.verdict import chosen_words
from mnist_jax.runs.results import Run, protocol

MAX_CLASSES = 60  # with a row of numbers each
NUM_WORST = 15  # of more classes, and of pairs of them, that are named


class Predicted(NamedTuple):
    """What one trial predicts of the test images, counted."""

    sizes: np.ndarray  # images of each class
    right: np.ndarray  # those of them that are predicted right
    pairs: np.ndarray  # [pairs, 2] of true and predicted class, of all mistakes
    counts: np.ndarray  # of each pair


def draw_classes(run: Run, chosen: Mapping[str, np.ndarray]):
    """Draws the accuracy of each class, and the confusion matrix, of the chosen trial."""
    p, dataset = protocol(run), run.summary["dataset"]
    names = run.class_names
    predicted = _count(chosen, len(names))
    title = f"{dataset}: test set by class, one trial ({p.words})"
    draw = _draw_all if len(names) <= MAX_CLASSES else _draw_worst
    figure, what, more = draw(title, names, predicted)
    sizes = predicted.sizes
    return figure, (
        f"{what} of {dataset}, and confusion matrix, of {chosen_words(run)}"
        f" alone ({p.words}). Lines: 95 % intervals (Wilson) for so many images; dashed: all"
        f" {sizes.sum()} test images, {_total(predicted):.2f} %. Colour counts the mistakes.{more}"
    )


def _count(chosen: Mapping[str, np.ndarray], num_classes: int) -> Predicted:
    labels = chosen["labels"].astype(int)
    answers = chosen["probabilities"].argmax(1)
    wrong = np.stack([labels, answers], axis=1)[labels != answers]
    pairs, counts = np.unique(wrong, axis=0, return_counts=True)
    sizes = np.bincount(labels, minlength=num_classes)
    right = np.bincount(labels[labels == answers], minlength=num_classes)
    return Predicted(sizes, right, pairs, counts)


def _total(predicted: Predicted) -> float:
    return 100 * predicted.right.sum() / predicted.sizes.sum()


def _draw_all(title: str, names: Sequence[str], predicted: Predicted) -> tuple[Any, str, str]:
    """Draws a row for each class; returns the figure, what it shows, and what else to say."""
    num, most = len(names), max(predicted.sizes.max(), 1)
    names, places = cut_names(names, 18), range(num)
    longest = max(map(len, names))
    side = max(4.0, 0.17 * num)  # inches, of the matrix, about
    high = side + 0.3 + 0.1 * max(0, longest - 11)
    size, ratio = ((8.4, high), 1.35) if num <= 12 else ((side + 5.0, high + 0.6), side / 2.6)
    figure, [left, ax] = subplots(title, size, 2, width_ratios=(1, ratio))
    _plot_classes(left, places, names, predicted)
    left.set(ylim=(num - 0.5, -0.5))
    matrix = np.zeros((num, num), int)
    matrix[tuple(predicted.pairs.T)] = predicted.counts
    top = matrix.max()
    ax.imshow(matrix, "Oranges", vmin=0, vmax=max(1, top))
    matrix += np.diag(predicted.right)
    font = min(7.0, 100 * side / num / len(str(most)))
    for (y, x), n in np.ndenumerate(matrix):
        if n:
            color = "#888888" if x == y else "white" if n > 0.6 * top else "black"
            ax.text(x, y, str(n), ha="center", va="center", fontsize=font, color=color)
    ax.set_yticks(places, names)
    ax.set_xticks(places, names, rotation=0 if longest < (4 if num <= 12 else 2) else 90)
    ax.grid(False)
    ax.set(xlabel="predicted", ylabel="true class", title="confusion matrix (diagonal: right)")
    return figure, "Test accuracy of each class", ""


def _draw_worst(title: str, names: Sequence[str], predicted: Predicted) -> tuple[Any, str, str]:
    """Draws many classes without their names, and the worst with them; returns as `_draw_all`."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.ticker import MaxNLocator

    figure, [left, ax, below, beside] = subplots(title, (9.6, 9.0), 4)
    there = np.flatnonzero(predicted.sizes)
    shares = 100 * predicted.right[there] / predicted.sizes[there]
    worst_first = np.argsort(shares, kind="stable")
    order, shares = there[worst_first], shares[worst_first]
    left.plot(np.arange(1, len(order) + 1), shares, ".", color=COLORS[0], ms=3)
    left.axhline(_total(predicted), color="#666666", lw=1, ls="--")
    left.set(xlabel="classes, from worst to best", ylabel="test accuracy (%)")
    left.set_title(f"all {len(order)} classes")

    pale = ListedColormap(colormaps["Oranges"](np.linspace(0.3, 1, 256)))
    size = max(220 / len(names), 1.5)  # points; a smaller one is not seen
    y, x = predicted.pairs.T
    most = max(predicted.counts, default=1)
    look: dict[str, Any] = {"cmap": pale, "vmin": min(1, most - 1), "vmax": most}
    look |= {"marker": "s", "linewidths": 0}
    spots = ax.scatter(x, y, size**2, predicted.counts, rasterized=True, **look)
    ax.grid(False)
    ends = (-0.5, len(names) - 0.5)
    ax.set(xlim=ends, ylim=ends[::-1], aspect="equal", xlabel="predicted", ylabel="true class")
    ax.set_title("confusion matrix without its diagonal")
    step = -(-len(names) // 12)
    ticks = range(0, len(names), step)
    short = cut_names(names, 14)
    shown = [short[i] for i in ticks]
    ax.set_yticks(ticks, shown, fontsize=7)
    ax.set_xticks(ticks, shown, fontsize=7, rotation=90)
    figure.colorbar(spots, ax=ax, label="mistakes", shrink=0.7, ticks=MaxNLocator(integer=True))

    worst = order[:NUM_WORST]
    _plot_classes(below, worst, cut_names(names, 24), predicted)
    below.set(ylim=(NUM_WORST - 0.5, -0.5), title="the worst classes")

    first = np.argsort(-predicted.counts, kind="stable")[:NUM_WORST]
    rows = np.arange(len(first))
    beside.barh(rows, predicted.counts[first], color=COLORS[1], height=0.6)
    short = cut_names(names, 18)
    pairs = [[short[i] for i in pair] for pair in predicted.pairs[first]]
    beside.set_yticks(rows, [f"{true} → {wrong}" for true, wrong in pairs])
    beside.xaxis.set_major_locator(MaxNLocator(integer=True))
    beside.set(ylim=(NUM_WORST - 0.5, -0.5), xlabel="mistakes")
    beside.set_title("most frequent: true → predicted")
    more = f" Below: the {len(worst)} classes of the lowest accuracy, and the most frequent"
    return figure, f"Test accuracy of the {len(order)} classes", f"{more} mistakes."


def _plot_classes(
    ax, classes: Sequence[int] | np.ndarray, names: Sequence[str], predicted: Predicted
) -> None:
    """Plots accuracies of classes below each other, with intervals, where there are images."""
    from scipy.stats import binomtest

    sizes = predicted.sizes[list(classes)]
    places, there = np.arange(len(classes)), sizes > 0
    right, counted = predicted.right[list(classes)][there], sizes[there]
    ends = [
        binomtest(int(k), int(n)).proportion_ci(method="wilson")
        for k, n in zip(right, counted, strict=True)
    ]
    ax.hlines(places[there], *(100 * np.array(ends).T), color=COLORS[0], lw=1.4)
    ax.plot(100 * right / counted, places[there], "o", color=COLORS[0], ms=5)
    ax.axvline(_total(predicted), color="#666666", lw=1, ls="--")
    ax.set_yticks(places, [f"{names[i]} ({n})" for i, n in zip(classes, sizes, strict=True)])
    ax.set(xlabel="test accuracy (%)", ylabel="class (images)")
