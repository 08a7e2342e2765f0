"""One trial: its accuracy by class, its mistakes, its weights."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mnist_jax.data import datasets
from mnist_jax.data.loading import image_shape
from mnist_jax.report.canvas import COLORS, NothingToDrawError, add_title, subplots
from mnist_jax.runs.labels import label, varying
from mnist_jax.runs.results import Run, protocol

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
    names = datasets.CLASS_NAMES[dataset]
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
    names, labels, images = (
        datasets.CLASS_NAMES[dataset],
        chosen["labels"],
        chosen["mistake_images"],
    )
    height, width, channels = image_shape(images)
    num_columns = min(6, len(mistakes))
    num_rows = math.ceil(len(mistakes) / num_columns)
    figure, [ax] = subplots((max(1.25 * num_columns, 4.5), 1.75 * num_rows + 0.5))
    # Of 28 x 28 pixels: an image, what separates it, and three lines of text.
    for i, (image, number) in enumerate(zip(images, mistakes, strict=True)):
        x, y = 34 * (i % num_columns), 45 * (i // num_columns)
        left, top = x + 14 * (1 - min(1, width / height)), y + 28 * (1 - min(1, height / width))
        place = (left, 2 * x + 28 - left, y + 28, top)
        pixels = image.reshape(height, width, *[channels] * (channels > 1))
        ax.imshow(pixels, "gray_r", extent=place, vmin=0, vmax=255)
        said = chosen["probabilities"][number]
        text = f"true: {names[labels[number]]}\npredicted: {names[said.argmax()]}"
        text += f"\n{100 * said.max():.1f} %"
        ax.text(x + 14, y + 29, text, ha="center", va="top", fontsize=7)
    ax.set(xlim=(-3, 34 * num_columns - 3), ylim=(45 * num_rows - 2, -1))
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
    """Draws the weights of the chosen trial's first layer as images.

    Raises:
        NothingToDrawError: They are none.
    """
    p, dataset = protocol(run), run.summary["dataset"]
    layer, images = _first_weights(chosen)
    num_units, height, width, channels = images.shape
    units, order = np.arange(num_units), "in the order of the classes"
    if sum(name.endswith("/kernel") for name in chosen) > 1:  # it is not the only layer
        norms = np.linalg.norm(images.reshape(num_units, -1), axis=1)
        units, order = np.argsort(-norms, kind="stable")[:MAX_UNITS], "by falling norm"
    num_columns = min(8, math.ceil(math.sqrt(1.5 * len(units))))
    num_rows = math.ceil(len(units) / num_columns)
    down, across = (
        size + max(1, size // 9) for size in (height, width)
    )  # with what separates them
    tiles = np.full((num_rows * down, num_columns * across, channels), math.nan)
    for i, unit in enumerate(units):
        y, x = down * (i // num_columns), across * (i % num_columns)
        tiles[y : y + height, x : x + width] = images[unit]
    wide, high = (0.8 * pixels / max(down, across) for pixels in (across, down))  # inches
    figure, [ax] = subplots((max(wide * num_columns + 1.2, 4.5), high * num_rows + 0.7))
    limit = np.nanmax(np.abs(tiles)) or 1.0
    ax.axis("off")
    if channels == 1:
        colors = {"vmin": -limit, "vmax": limit, "interpolation": "nearest"}
        image = ax.imshow(tiles[..., 0], "RdBu_r", **colors)
        figure.colorbar(image, ax=ax, label="weight", shrink=0.9, aspect=30)
        meaning = "Red adds, blue takes away."
    else:
        shades = np.nan_to_num(0.5 + 0.5 * tiles / limit, nan=1.0)  # white between them
        ax.imshow(shades, interpolation="nearest")
        meaning = (
            "Red, green and blue are the weights of those colours of the images, from"
            f" {-limit:.2g} (dark) to {limit:.2g} (bright); grey is 0."
        )
    add_title(figure, f"{dataset}: weights of the first layer, one trial ({p.words})")
    which = f"all {num_units}" if len(units) == num_units else f"{len(units)} of {num_units}"
    return figure, (
        f"Weights into the first layer ({layer}) of {chosen_words(run)}, trained on {dataset}"
        f" ({p.words}): {which} units {order}, each as {height} x {width} pixels. {meaning}"
    )


def _first_weights(chosen: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray]:
    """Returns the first layer's name, and its kernel as images [units, height, width, channels].

    Raises:
        NothingToDrawError: It is not one that sees images.
    """
    known = [f"params/{layer}/kernel" for layer in ("conv_1", "hidden_1", "output")]
    if "first_kernel" in chosen:  # which older versions did not note
        known = [str(chosen["first_kernel"])]
    name = next((name for name in known if name in chosen), None)
    if name is None:
        raise NothingToDrawError("no layer of the network has a kernel")
    kernel, seen = chosen[name], image_shape(chosen["mistake_images"])
    layer = "/".join(name.split("/")[1:-1]) or "the network"
    match kernel.shape:
        case (size, _) if size == math.prod(seen):
            shape: Sequence[int] = seen
        case (height, width, channels, _) if height * width > 1 and channels in (1, seen[-1]):
            shape = (height, width, channels)
        case _:
            shape = ()
    if not shape or shape[-1] not in (1, 3):
        raise NothingToDrawError(
            f"the kernel of the first layer ({layer}) has the shape {kernel.shape}, and is neither"
            f" pictures of {seen[0]} x {seen[1]} pixels nor filters of them"
        )
    return layer, np.moveaxis(kernel.reshape(*shape, -1), -1, 0)
