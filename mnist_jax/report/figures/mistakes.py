"""The mistakes of one trial."""

import math
from collections.abc import Mapping

import numpy as np

from mnist_jax.data import datasets
from mnist_jax.data.loading import image_shape
from mnist_jax.report.figures.canvas import add_title, subplots
from mnist_jax.report.verdict import chosen_words
from mnist_jax.runs.results import Run, protocol


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
    for i, (image, index) in enumerate(zip(images, mistakes, strict=True)):
        x, y = 34 * (i % num_columns), 45 * (i // num_columns)
        left, top = x + 14 * (1 - min(1, width / height)), y + 28 * (1 - min(1, height / width))
        place = (left, 2 * x + 28 - left, y + 28, top)
        pixels = image.reshape(height, width, *[channels] * (channels > 1))
        ax.imshow(pixels, "gray_r", extent=place, vmin=0, vmax=255)
        probabilities = chosen["probabilities"][index]
        text = f"true: {names[labels[index]]}\npredicted: {names[probabilities.argmax()]}"
        text += f"\n{100 * probabilities.max():.1f} %"
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
