"""The weights of one trial's first layer, as images."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mnist_jax.data.splits import image_shape
from mnist_jax.report.figures.canvas import NothingToDrawError, shown_channels, subplots
from mnist_jax.report.verdict import chosen_words
from mnist_jax.runs.results import Run, protocol

MAX_UNITS = 48
MAX_SIDE = 256  # pixels of a unit


def draw_weights(run: Run, chosen: Mapping[str, np.ndarray]):
    """Draws the weights of the chosen trial's first layer; NothingToDrawError if not images."""
    p, dataset = protocol(run), run.summary["dataset"]
    layer, images = _first_weights(chosen)
    num_units, *size, _ = images.shape
    units, order = np.arange(num_units), "in the order of the classes"
    if sum(name.endswith("/kernel") for name in chosen) > 1:  # it is not the only layer
        norms = np.linalg.norm(images.reshape(num_units, -1), axis=1)
        units, order = np.argsort(-norms, kind="stable"), "by falling norm"
    units = units[:MAX_UNITS]
    images, some = shown_channels(images[units])
    if (step := math.ceil(max(size) / MAX_SIDE)) > 1:
        images = images[:, ::step, ::step]
        some += f" Of {step} pixels one is drawn, across and down."
    _, height, width, channels = images.shape
    num_columns = min(8, math.ceil(math.sqrt(1.5 * len(units))))
    num_rows = math.ceil(len(units) / num_columns)
    down, across = (pixels + max(1, pixels // 9) for pixels in (height, width))  # with a gap
    tiles = np.full((num_rows * down, num_columns * across, channels), math.nan)
    for i, image in enumerate(images):
        y, x = down * (i // num_columns), across * (i % num_columns)
        tiles[y : y + height, x : x + width] = image
    wide, high = (0.8 * pixels / max(down, across) for pixels in (across, down))  # inches
    title = f"{dataset}: weights of the first layer, one trial ({p.words})"
    figure, [ax] = subplots(title, (max(wide * num_columns + 1.2, 4.5), high * num_rows + 0.7))
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
    which = f"all {num_units}" if len(units) == num_units else f"{len(units)} of {num_units}"
    return figure, (
        f"Weights into the first layer ({layer}) of {chosen_words(run)}, trained on {dataset}"
        f" ({p.words}): {which} units {order}, each as {size[0]} x {size[1]} pixels."
        f" {meaning}{some}"
    )


def _first_weights(chosen: Mapping[str, np.ndarray]) -> tuple[str, np.ndarray]:
    """Returns the first layer's name, and its kernel as images [units, height, width, channels]."""
    known = [f"params/{layer}/kernel" for layer in ("conv_1", "hidden_1", "output")]
    if "first_kernel" in chosen:  # older versions do not record it
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
    if not shape:
        raise NothingToDrawError(
            f"the kernel of the first layer ({layer}) has the shape {kernel.shape}, and is neither"
            f" pictures of {seen[0]} x {seen[1]} pixels nor filters of them"
        )
    return layer, np.moveaxis(kernel.reshape(*shape, -1), -1, 0)
