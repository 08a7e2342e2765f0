"""Accuracy by class and the confusion matrix of one trial."""

from collections.abc import Mapping

import numpy as np

from mnist_jax.data import datasets
from mnist_jax.report.figures.canvas import COLORS, subplots
from mnist_jax.report.verdict import chosen_words
from mnist_jax.runs.results import Run, protocol


def draw_classes(run: Run, chosen: Mapping[str, np.ndarray]):
    """Draws the accuracy of each class, and the confusion matrix, of the chosen trial."""
    from scipy.stats import binomtest

    p, dataset = protocol(run), run.summary["dataset"]
    names = datasets.CLASS_NAMES[dataset]
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, (chosen["labels"], chosen["probabilities"].argmax(1)), 1)
    right, sizes = matrix.diagonal(), matrix.sum(1)
    title = f"{dataset}: test set by class, one trial ({p.words})"
    figure, [left, ax] = subplots(title, (8.4, 4.3), 2, width_ratios=(1, 1.35))
    places = np.arange(len(names))
    counted = sizes > 0
    ends = [
        binomtest(int(k), int(n)).proportion_ci(method="wilson")
        for k, n in zip(right[counted], sizes[counted], strict=True)
    ]
    left.hlines(places[counted], *(100 * np.array(ends).T), color=COLORS[0], lw=1.4)
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
    ax.set(xlabel="predicted", ylabel="true class", title="confusion matrix (diagonal: right)")
    return figure, (
        f"Test accuracy of each class of {dataset}, and confusion matrix, of {chosen_words(run)}"
        f" alone ({p.words}). Lines: 95 % intervals (Wilson) for so many images; dashed: all"
        f" {sizes.sum()} test images, {total:.2f} %. Colour counts the mistakes."
    )
