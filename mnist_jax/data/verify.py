"""Whether the arrays that a source has are those of a published data set."""

import hashlib
import logging

import numpy as np

from mnist_jax import UserError
from mnist_jax.data import formats, user_files
from mnist_jax.data.datasets import CLASS_NAMES, FACTS
from mnist_jax.data.published import PUBLISHED, normalised
from mnist_jax.data.splits import Dataset, channel_moments

_log = logging.getLogger(__name__)


def verify(name: str, found: user_files.RawArrays) -> Dataset:
    """Returns the data set if the arrays are those of `name`, as far as can be verified.

    The MD5 of each array's IDX file decides, where it is known; else the SHA-256 of the published
    files; or, with a warning, how many there are of each label, and the pixels' mean and spread.

    Raises:
        UserError: They are not.
    """
    arrays, known = normalised(name, found.arrays), PUBLISHED[name]
    if known.md5 or len(known.sha256) > 1:
        _verify_digests(name, arrays, found)
    if not known.md5 and found.digests != list(known.sha256):
        _verify_plausible(name, arrays, found.places)
        if known.archive:
            what = f"this is not the published {known.archive}"
        elif known.sha256:
            what = "these are not the published gzip files"
        else:
            what = "no checksum of its files is known"
        verified = ["the shapes", "the number of each label"]
        verified += ["mean and spread of the pixels"] * bool(known.moments)
        words = " and ".join(verified) if len(verified) == 2 else "{}, {}, and {}".format(*verified)
        message = "%s: %s; %s: only %s could be verified"
        _log.warning(message, name, found.source, what, words)
    return make_dataset(name, arrays, formats.checksum(arrays), found.source)


def make_dataset(name: str, arrays: list[np.ndarray], checksum: str, source: str) -> Dataset:
    """Joins the four arrays to a data set without validation images."""
    images, labels, test_images, test_labels = arrays
    training = (images, labels, images[:0], labels[:0])
    return Dataset(name, *training, test_images, test_labels, CLASS_NAMES[name], checksum, source)


def _verify_digests(name: str, arrays: list[np.ndarray], found: user_files.RawArrays) -> None:
    """Refuses other contents than those whose MD5s are known, and the files of another data set."""
    owner_of = {
        digest: (owner, file)
        for owner, known in PUBLISHED.items()
        for digests in (known.md5, known.sha256)
        if len(digests) == len(known.files)
        for file, digest in zip(known.files, digests, strict=True)
    }
    files, expected = PUBLISHED[name].files, PUBLISHED[name].md5
    digests = found.digests or [""] * len(files)
    for i, (array, place) in enumerate(zip(arrays, found.places, strict=True)):
        md5 = hashlib.md5(formats.idx_header(array.shape), usedforsecurity=False)
        md5.update(array.data)
        content = md5.hexdigest()
        if expected and content == expected[i]:
            continue
        owner, file = owner_of.get(content, owner_of.get(digests[i], (name, "")))
        if owner != name:
            raise UserError(
                f"{place}: this is {owner}'s {file}, not {name}'s (their files share names);"
                f" give the folder of {name} or use --config.dataset={owner}"
            )
        if expected:
            raise UserError(
                f"{place}: its contents (as a decompressed IDX file) have MD5 {content},"
                f" but {name}'s {files[i]} has {expected[i]}; replace it with the original"
            )


def _verify_plausible(name: str, arrays: list[np.ndarray], places: list[str]) -> None:
    """Refuses other numbers of the labels, and pixels of another mean and spread."""
    known, num_classes = PUBLISHED[name], FACTS[name].num_classes
    labels = f"0..{num_classes - 1}" if not known.first_label else f"1..{num_classes}"
    expected = np.array(known.moments)
    for i, (array, place) in enumerate(zip(arrays, places, strict=True)):
        if array.ndim == 1:
            each = len(array) // num_classes
            sizes = list(known.counts[i // 2]) if known.counts else [each] * num_classes
            counts = np.bincount(array, minlength=num_classes).tolist()
            if counts != sizes:
                right = f"{sizes} of the labels" if known.counts else f"{each} of each label"
                raise UserError(
                    f"{place}: {name} has {right} {labels}, but this has {counts[:num_classes]} and"
                    f" {sum(counts[num_classes:])} other labels; replace it with the original"
                )
        elif known.moments:
            # Of the test images only the order of magnitude is known.
            tolerance = 0.002 if i == 0 else 0.1
            found = np.ravel(channel_moments(array))
            if (abs(found - expected) > tolerance).any():
                raise UserError(
                    f"{place}: {name}'s pixels (from 0 to 1) have mean {expected[0]} and standard"
                    f" deviation {expected[1]}, but these {found[0]:.4f} and {found[1]:.4f};"
                    " replace it with the original"
                )
