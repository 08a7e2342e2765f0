"""Data sets that tensorflow-datasets has prepared, read from their shards alone.

Its own reader imports any module that a folder's features.json names, and takes as much memory as
the numbers there claim.
"""

import hashlib
import io
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mnist_jax.data import formats

_SHARD = re.compile(r"(train|test)\.(\w+)-(\d{5})-of-(\d{5})")


def find_shards(name: str, folder: Path) -> dict[str, list[Path]] | str | None:
    """Finds the shards of a data set in a folder of tensorflow-datasets.

    Parquet is left out: tensorflow-datasets is known to lose examples in it silently.

    Returns:
        The shards in their order, by split: train, then test. Or what the folder holds instead,
        for an error; or None if it holds nothing of the data set.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.glob(f"{name}-t*-of-*")):
        if match := _SHARD.fullmatch(path.name.removeprefix(f"{name}-")):
            splits = found.setdefault(match[2], {"train": [], "test": []})
            splits[match[1]].append(path)
    for kind in ("array_record", "tfrecord"):
        if kind in found and all(map(_are_complete, found[kind].values())):
            return found[kind]
    if not found:
        return None
    kinds = " and ".join(found)
    return f"holds {name} as {kinds} in {folder}; only array_record and tfrecord, whole, are read"


def _are_complete(shards: list[Path]) -> bool:
    numbers = [path.name[-14:-9] for path in shards]
    return bool(shards) and numbers == [f"{i:05}" for i in range(int(shards[0].name[-5:]))]


def read_split(
    split: str, shards: list[Path], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a split, whose images are of `shape` in all, in the original order.

    Returns:
        Images, uint8 of `shape`: [n, height, width], or [n, height, width, 3]; labels, uint8 [n].

    Raises:
        Exception: Of any type, if the shards hold anything else.
    """
    size = shape[0]
    most_bytes = 480 + 2 * math.prod(shape[1:])  # of an example: a label, and a PNG file
    images, labels = np.empty(shape, np.uint8), np.empty(size, np.uint8)
    # Examples are stored in the order of the hashes of their keys, which are their indices.
    stored = sorted(range(size), key=lambda i: hashlib.md5(f"{split}{i}".encode()).digest())
    count = 0
    for shard in shards:
        read = _array_records if ".array_record-" in shard.name else _tfrecords
        for record in read(shard, size, most_bytes):
            if count == size:
                raise ValueError(f"{split} has more than {size} examples")
            images[stored[count]], labels[stored[count]] = _decode(record, shape[1:])
            count += 1
    if count < size:
        raise ValueError(f"{split} has {count} examples, not {size}")
    return images, labels


def _decode(record: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    features = tf_example_pb2.Example.FromString(record).features.feature
    [png], [label] = features["image"].bytes_list.value, features["label"].int64_list.value
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        (height, width), colour = shape[:2], len(shape) == 3
        if image.size != (width, height) or image.mode != ("RGB" if colour else "L"):
            expected = f"{width} by {height} and {'RGB' if colour else 'grey'}"
            raise ValueError(f"an image is {image.size} {image.mode}, not {expected}")
        return np.asarray(image), label


def _tfrecords(path: Path, size: int, most_bytes: int) -> Iterator[bytes]:
    """Yields records, each stored as its length (uint64), CRC, contents and their CRC."""
    with formats.open_file(path, size * most_bytes) as file:
        while head := file.read(12):
            (length,) = struct.unpack("<Q", head[:8])
            if length > most_bytes:
                raise ValueError(f"{path.name} claims an example of {length} bytes")
            record = file.read(length)
            if len(record) < length or len(file.read(4)) < 4:
                raise ValueError(f"{path.name} is cut short")
            yield record


def _array_records(path: Path, size: int, most_bytes: int) -> Iterator[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    with formats.open_file(path, size * most_bytes) as file:
        claimed = _claimed_bytes(file.read())
    if claimed > size * most_bytes:
        raise ValueError(f"{path.name} claims {claimed} bytes of contents")
    reader = ArrayRecordReader(str(path))
    try:
        for start in range(0, reader.num_records(), 1000):
            yield from reader.read(start, min(start + 1000, reader.num_records()))
    finally:
        reader.close()


def _claimed_bytes(content: bytes) -> int:
    """Returns the unpacked size that the chunks of a Riegeli file (ArrayRecord's format) claim.

    Format: the first 24 of each 65,536 bytes are no part of the chunks. A chunk is a header of five
    uint64 (hash, length, hash, type and number of records, unpacked length) and its contents. A
    chunk of fewer bytes than records would be padded; images of 28 by 28 pixels give none.
    """
    stream = b"".join(content[i + 24 : i + 2**16] for i in range(0, len(content), 2**16))
    place = total = 0
    while place + 40 <= len(stream):
        _, length, _, kind, unpacked = struct.unpack_from("<5Q", stream, place)
        if kind >> 8 > 40 + length:
            raise ValueError(f"a chunk of {length} bytes claims {kind >> 8} examples")
        total += unpacked
        place += 40 + length
    return total
