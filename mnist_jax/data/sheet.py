"""A sheet of examples as a picture: a row of training images for each class."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mnist_jax.data.splits import Dataset
from mnist_jax.text import one_line

MOST_CLASSES = 20  # rows
NUM_EXAMPLES = 12  # of a class
CELL = 56  # pixels, in which an image is enlarged or reduced
GAP, FONT_SIZE = 4, 14
MOST_WIDTH = 200  # pixels, of a class's name


def draw(dataset: Dataset) -> bytes:
    """Draws examples of the classes, of many some that are evenly spread, as PNG."""
    num_classes = len(dataset.class_names)
    shown = np.arange(num_classes)
    if num_classes > MOST_CLASSES:
        shown = np.linspace(0, num_classes - 1, MOST_CLASSES).round().astype(int)
    font, step = _font(), CELL + GAP
    names = [_fit(one_line(dataset.class_names[label]), font, MOST_WIDTH) for label in shown]
    indent = max(map(int, map(font.getlength, names))) + 3 * GAP
    size = (indent + NUM_EXAMPLES * step, (len(shown) + 1) * step)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    which = f"{len(shown)} of {num_classes:,}" if num_classes > len(shown) else f"{num_classes}"
    title = f"the first training images of {which} classes of {one_line(dataset.name)}"
    pen.text((GAP, step / 2), _fit(title, font, size[0] - 2 * GAP), "black", font, anchor="lm")
    low, high = _range(dataset.train_images)
    for row, (label, name) in enumerate(zip(shown, names, strict=True), 1):
        pen.text((GAP, (row + 0.5) * step), name, "black", font, anchor="lm")
        members = np.flatnonzero(dataset.train_labels == label)[:NUM_EXAMPLES]
        for column, member in enumerate(members):
            picture = _picture(dataset.train_images[member], low, high)
            left = indent + column * step + (CELL - picture.width) // 2
            sheet.paste(picture, (left, row * step + (CELL - picture.height) // 2))
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _range(images: np.ndarray) -> tuple[float, float]:
    """Returns the values that are black and white."""
    return (0, 255) if images.dtype == np.uint8 else (float(images.min()), float(images.max()))


def _picture(image: np.ndarray, low: float, high: float) -> Image.Image:
    """Returns an image [height, width(, channels)] in the size of a cell, pixels as squares."""
    pixels = ((image - low) * (255 / ((high - low) or 1))).round().astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        pixels = pixels.mean(2).astype(np.uint8)
    picture = Image.fromarray(pixels)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    scale = CELL / max(picture.size)
    width, height = (max(1, round(scale * side)) for side in picture.size)
    return picture.convert("RGB").resize((width, height), Image.Resampling.BOX)


def _fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Returns a text cut to a width in pixels."""
    short = text[:200]
    while short and font.getlength(short + "..." * (short != text)) > width:
        short = short[:-1]
    return short + "..." * (short != text)


def _font() -> ImageFont.FreeTypeFont:
    import matplotlib  # whose fonts have Greek and Cyrillic letters

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / "DejaVuSans.ttf", FONT_SIZE)
