"""The mistakes of one trial."""

import math
from collections.abc import Mapping

import numpy as np

from mnist_jax.data.datasets import DATASETS
from mnist_jax.data.splits import image_shape
from mnist_jax.report.figures.canvas import cut_names, shown_channels, subplots
from mnist_jax.report.verdict import chosen_words
from mnist_jax.runs.results import Run, protocol


def draw_mistakes(run: Run, chosen: Mapping[str, np.ndarray]):
    """Draws the test images that the chosen trial gets wrong with the highest probability."""
    p, dataset = protocol(run), run.summary["dataset"]
    names = cut_names(run.class_names, 12)
    labels, mistakes = chosen["labels"], chosen["mistakes"]
    height, width, channels = image_shape(chosen["mistake_images"])
    images = chosen["mistake_images"].reshape(-1, height, width, channels)
    images, some = shown_channels(images)
    # Ink on paper; of the user's own, 0 may be anything, and is black as in other programs.
    colors = "gray_r" if dataset in DATASETS else "gray"
    num_columns = min(6, len(mistakes))
    num_rows = math.ceil(len(mistakes) / num_columns)
    title = f"{dataset}: most confident mistakes, one trial ({p.words})"
    figure, [ax] = subplots(title, (max(1.25 * num_columns, 4.5), 1.75 * num_rows + 0.5))
    # A cell has 28 x 28 units for an image, a gap, and three lines of text.
    for i, (image, index) in enumerate(zip(images, mistakes, strict=True)):
        x, y = 34 * (i % num_columns), 45 * (i // num_columns)
        left, top = x + 14 * (1 - min(1, width / height)), y + 28 * (1 - min(1, height / width))
        place = (left, 2 * x + 28 - left, y + 28, top)
        pixels = image if image.shape[-1] == 3 else image[..., 0]
        ax.imshow(pixels, colors, extent=place, vmin=0, vmax=255)
        probabilities = chosen["probabilities"][index]
        text = f"true: {names[labels[index]]}\npredicted: {names[probabilities.argmax()]}"
        text += f"\n{100 * probabilities.max():.1f} %"
        # Larger, captions of long names run into each other.
        ax.text(x + 14, y + 29, text, ha="center", va="top", fontsize=6)
    ax.set(xlim=(-3, 34 * num_columns - 3), ylim=(45 * num_rows - 2, -1))
    ax.axis("off")
    wrong = int((chosen["probabilities"].argmax(1) != labels).sum())
    is_all = wrong == len(mistakes)
    which = f"all {wrong}" if is_all else f"the {len(mistakes)} most confident of {wrong}"
    return figure, (
        f"Mistakes of {chosen_words(run)} on the test images of {dataset} ({p.words}): {which}."
        f" Below each image its true class, and the class predicted with its probability.{some}"
    )
