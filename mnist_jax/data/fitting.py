"""One's own pictures brought to the form of a data set's images, as far as that is known."""

from typing import NamedTuple

import numpy as np

_INK = 64  # of 255: brighter pixels belong to what is drawn
_FAINT = 16  # a picture whose pixels differ by less is blank
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class Form(NamedTuple):
    """How a data set's images were made of larger ones: cropped, and resized into a box."""

    box: int  # pixels high and wide, in which the drawing keeps its aspect ratio
    by_mass: bool  # whether its centre of mass is in the middle of the image, or its box


_EMNIST = Form(24, by_mass=False)
FORMS = {
    # LeCun et al. with the MNIST files: a 20x20 box, the centre of mass in that of 28x28.
    "mnist": Form(20, by_mass=True),
    "qmnist": Form(20, by_mass=True),
    # Cohen et al., arXiv:1702.05373: two pixels around what is drawn.
    "emnist_balanced": _EMNIST,
    "emnist_letters": _EMNIST,
    "emnist_digits": _EMNIST,
    "digits": Form(24, by_mass=False),  # as scikit-learn's are here, enlarged from 8x8
    # Xiao et al., arXiv:1708.07747: the longest edge fills the image.
    "fashion_mnist": Form(28, by_mass=False),
}
DARK_GROUND = {*FORMS, "kmnist"}
"""The data sets that draw in white on black."""


def fit(
    picture: np.ndarray,
    image_shape: tuple[int, int, int],
    dataset: str,
    invert: bool | None = None,
) -> tuple[np.ndarray, str]:
    """Returns a picture as an image of a data set, and what was done to it.

    Args:
        picture: Bytes [height, width], or with 2 to 4 channels, the last of 2 or 4 being alpha.
        image_shape: Height, width and channels of the data set's images.
        dataset: The name of the data set.
        invert: Whether to exchange dark and light. By default, pictures on light ground are
            inverted for a data set that is known to have dark ground.

    Returns:
        Bytes [height, width], or with channels; and words.
    """
    height, width, channels = image_shape
    pixels, done = _in_channels(picture, channels)
    is_dark_set = dataset in DARK_GROUND
    if np.ptp(pixels) < _FAINT:
        done.append("blank, as far as can be seen")
    elif is_dark_set:
        is_light = _ground(pixels) > _middle(pixels)
        done.append(f"{'light' if is_light else 'dark'} ground")
        invert = is_light if invert is None else invert
    if invert:
        done.append("inverted")
        pixels = _inverted(pixels, channels)
    if pixels.shape[:2] == (height, width):
        return pixels, "; ".join([*done, "used as it is"])
    if is_dark_set:
        pixels = _stretched(pixels)
    form = FORMS.get(dataset)
    ink = pixels > _INK
    if form is None or not ink.any():
        done.append(f"resized from {pixels.shape[0]}x{pixels.shape[1]}")
        return _resized(pixels, height, width), "; ".join(done)
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    drawn = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = form.box / max(drawn.shape)
    small = _resized(drawn, *(max(1, round(scale * size)) for size in drawn.shape))
    small = np.round(small * (255 / small.max())).astype(np.uint8)  # thin lines have become grey
    image = np.zeros((height, width), np.uint8)
    places = []
    for axis, size in enumerate(image.shape):
        weights = small.sum(1 - axis, dtype=float)
        middle = small.shape[axis] / 2
        if form.by_mass:
            middle = float(weights @ np.arange(len(weights)) / weights.sum())
        places.append(min(max(0, round(size / 2 - middle)), size - small.shape[axis]))
    top, left = places
    image[top : top + small.shape[0], left : left + small.shape[1]] = small
    how = "centred by mass" if form.by_mass else "centred"
    done.append(f"what is drawn in {form.box}x{form.box}, {how}")
    return image, "; ".join(done)


def _in_channels(picture: np.ndarray, channels: int) -> tuple[np.ndarray, list[str]]:
    """Returns a picture in as many channels; what is transparent becomes what ink differs from."""
    from PIL import Image

    done = []
    image = Image.fromarray(picture)
    if image.mode in ("LA", "RGBA") and channels in (1, 3):
        grey, alpha = (np.asarray(x, float) for x in image.convert("LA").split())
        if alpha.min() < 255:
            is_light_ink = (grey * alpha).sum() > 127.5 * alpha.sum()
            ground = "black" if is_light_ink else "white"
            done.append(f"transparent made {ground}")
            whole = Image.new("RGBA", image.size, ground)
            image = Image.alpha_composite(whole, image.convert("RGBA"))
    return np.asarray(image.convert(_MODES[channels])), done


def _inverted(pixels: np.ndarray, channels: int) -> np.ndarray:
    inverted = 255 - pixels
    if channels in (2, 4):
        inverted[..., -1] = pixels[..., -1]  # alpha
    return inverted


def _ground(pixels: np.ndarray) -> float:
    """Returns the most usual value at the border, by the median."""
    return float(np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])))


def _middle(pixels: np.ndarray) -> float:
    return (float(pixels.min()) + float(pixels.max())) / 2


def _stretched(pixels: np.ndarray) -> np.ndarray:
    """Returns a grey picture with its dark ground made black, and its lightest pixel white."""
    low, high = _ground(pixels), float(pixels.max())
    if low > _middle(pixels):  # it was told that this is no ground
        low = float(pixels.min())
    if high - low < _FAINT:
        return pixels
    return np.round((pixels.clip(low) - low) * (255 / (high - low))).astype(np.uint8)


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
