"""One trial: its accuracy by class, its mistakes, its weights."""

import math
from collections.abc import Mapping

import numpy as np

from mnist_jax import data
from mnist_jax.canvas import COLORS, add_title, subplots
from mnist_jax.results import Run, label, protocol, varying

MAX_UNITS = 48


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
    figure, [left, ax] = subplots((8.4, 4.3), 1, 2, width_ratios=(1, 1.35))
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
    add_title(figure, f"{dataset}: test set by class, one trial ({p.words})")
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
    figure, [ax] = subplots((max(1.25 * num_columns, 4.5), 1.75 * num_rows + 0.5))
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
    add_title(figure, f"{dataset}: most confident mistakes, one trial ({p.words})")
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
    figure, [ax] = subplots((max(0.8 * num_columns + 1.2, 4.5), 0.8 * num_rows + 0.7))
    limit = np.nanmax(np.abs(tiles)) or 1.0
    image = ax.imshow(tiles, "RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.axis("off")
    figure.colorbar(image, ax=ax, label="weight", shrink=0.9, aspect=30)
    add_title(figure, f"{dataset}: weights of the first layer, one trial ({p.words})")
    which = f"all {num_units}" if len(units) == num_units else f"{len(units)} of {num_units}"
    return figure, (
        f"Weights into the first layer ({layer}) of {chosen_words(run)}, trained on {dataset}"
        f" ({p.words}): {which} units {order}, each as {side} x {side} pixels. Red adds, blue takes"
        " away."
    )
