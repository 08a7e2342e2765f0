"""Files of arrays, read without trust: IDX, raw bytes and npz.

The sizes that a file claims are compared with the expected ones before memory is taken. At most one
byte more than expected is unpacked, and nothing is ever unpickled.
"""

import contextlib
import gzip
import hashlib
import io
import math
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, NamedTuple

import numpy as np

from mnist_jax import UserError, disk
from mnist_jax.arrays import read_npy
from mnist_jax.text import error_line


class Stored(NamedTuple):
    """How a file stores an array: as IDX, or as its bytes alone.

    IDX: bytes 0, 0, type (8: unsigned byte, 12: int32), number of dimensions; each dimension as a
    big-endian uint32; the contents, big-endian (described by LeCun et al. with the MNIST files).
    """

    shape: tuple[int, ...]
    dtype: str = "uint8"  # or int32
    is_idx: bool = True

    @property
    def header(self) -> bytes:
        """The bytes before the contents."""
        return idx_header(self.shape, self.dtype) if self.is_idx else b""

    @property
    def num_bytes(self) -> int:
        """The size of the contents."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def read_file(path: Path, stored: Stored, md5: str | None = None) -> np.ndarray:
    """Reads the array of one file, gzipped or not.

    Raises:
        UserError: The file cannot be read, or does not hold exactly such an array. The message
            names `md5`, that of the right decompressed contents, if it is known.
    """
    try:
        with open_file(path, stored.num_bytes) as file:
            return parse(file, stored)
    except ValueError as error:
        problem = str(error)
    except OSError as error:
        problem = f"it cannot be read ({error_line(error)})"
    known = f" whose decompressed contents have MD5 {md5}" if md5 else ""
    raise UserError(f"{path}: {problem}; replace it with the original file{known}")


_KINDS = (
    (rb"\Z", "empty"),
    (rb"\x1f\x8b", "a gzip file"),
    (rb"PK[\x01-\x08]", "a zip archive: unpack it"),
    (rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|.{257}ustar", "an archive: unpack it"),
    (rb"version https://git-lfs", "a Git LFS pointer: `git lfs pull` fetches the file"),
    (rb"[./]*annex/objects/", "a git-annex pointer: `git annex get` fetches the file"),
    (rb"(\xef\xbb\xbf)?\s*<", "a web page (or XML) that was saved in place of the file"),
    (rb"\s*[{[]", "JSON"),
    (rb'"?label"?,', "a CSV table"),
    (rb"\x93NUMPY", "an npy file"),
    (rb"\x89HDF", "an HDF5 file"),
    (rb"PAR1", "a Parquet file"),
    (rb"\x89PNG|\xff\xd8\xff", "a picture"),
    (rb"\x80[\x02-\x05]", "a pickle, which is never opened"),
)
HEAD = 512  # bytes that show what a file is


def kind_of(head: bytes) -> str | None:
    """Names the kind of a file that begins with these bytes, if people often have it by mistake."""
    return next((kind for mark, kind in _KINDS if re.match(mark, head, re.DOTALL)), None)


def kind_of_file(path: Path) -> str | None:
    """Names the kind of a file as `kind_of` does; None if it cannot be read."""
    try:
        with open_file(path, 2**40) as file:
            return kind_of(file.read(HEAD))
    except (OSError, ValueError):
        return None


def open_file(path: Path, num_bytes: int) -> io.BufferedReader:
    """Opens a file of `num_bytes`, and at most a MiB more; raises as `disk.open_regular`."""
    return disk.open_regular(path, num_bytes + 2**20)


def parse(file: IO[bytes] | io.BufferedIOBase, stored: Stored) -> np.ndarray:
    """Reads the array of a file, gzipped or not, from its start.

    Raises:
        ValueError: It is damaged, or another array.
    """
    with _unpacked(file) as (content, what):
        header, size = stored.header, stored.num_bytes
        found = content.read(len(header))
        array = content.read(size + 1 if found == header else HEAD)
        if found[:4] != header[:4] and (kind := kind_of(found + array)):
            raise ValueError(f"{what} is {kind}")
        if len(found) < len(header):
            raise ValueError(f"it is {len(found)} bytes long, shorter than its header should be")
        if found[:4] != header[:4]:
            mark = f"the IDX mark {header[:4].hex()}"
            raise ValueError(f"it begins with {found[:4].hex()}, not with {mark}")
        if found != header:
            claimed = np.frombuffer(found[4:], ">u4").tolist()
            raise ValueError(f"its header claims dimensions {claimed}, not {list(stored.shape)}")
        if len(array) < size and not header and (kind := kind_of(array)):
            raise ValueError(f"{what} is {kind}")
        _check_size(len(array), size)
        dtype = np.dtype(stored.dtype).newbyteorder(">")
        return np.frombuffer(array, dtype).reshape(stored.shape)


def read_archive(file: IO[bytes], members: Mapping[str, Stored]) -> list[np.ndarray]:
    """Reads arrays from a zip or tar archive that is known to the last byte.

    Raises:
        KeyError: It lacks a member, which may have `.gz` after its name, in any folder.
        ValueError: A member holds another array.
    """

    def find(names: Sequence[str], member: str) -> str:
        for name in names:
            if name.rpartition("/")[2] in (member, f"{member}.gz"):
                return name
        raise KeyError(f"no {member} in it")

    arrays = []
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for member, stored in members.items():
                with archive.open(find(archive.namelist(), member)) as content:
                    arrays.append(parse(content, stored))
    else:
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            for member, stored in members.items():
                found = tar.extractfile(find(tar.getnames(), member))
                if found is None:
                    raise KeyError(f"{member} in it is no file")
                arrays.append(parse(found, stored))
    return arrays


def parse_any_idx(
    file: IO[bytes] | io.BufferedIOBase, check: Callable[[tuple[int, ...], np.dtype], None]
) -> np.ndarray:
    """Reads an IDX file of any type and shape, gzipped or not, from its start.

    Args:
        file: As `parse`.
        check: Takes shape and type before memory is taken, and raises if it does not like them.

    Raises:
        ValueError: It is damaged; also what `check` raises.
    """
    with _unpacked(file) as (content, what):
        mark = content.read(4)
        if mark[:2] != b"\0\0" or len(mark) < 4 or mark[2] not in _IDX_TYPES or not mark[3]:
            if kind := kind_of(mark + content.read(HEAD)):
                raise ValueError(f"{what} is {kind}")
            raise ValueError(f"it begins with {mark.hex()}, which is no IDX mark")
        dimensions = content.read(4 * mark[3])
        if len(dimensions) < 4 * mark[3]:
            raise ValueError("it ends inside its header")
        shape = tuple(np.frombuffer(dimensions, ">u4").tolist())
        dtype = np.dtype(_IDX_TYPES[mark[2]])
        check(shape, dtype)
        size, array = math.prod(shape) * dtype.itemsize, bytearray()
        # By blocks: a read takes the memory that it is asked for, whatever there is to read.
        while len(array) <= size and (block := content.read(min(2**20, size + 1 - len(array)))):
            array += block
        _check_size(len(array), size)
        return np.frombuffer(array, dtype).reshape(shape)


@contextlib.contextmanager
def _unpacked(
    file: IO[bytes] | io.BufferedIOBase,
) -> Iterator[tuple[IO[bytes] | io.BufferedIOBase, str]]:
    """Gives a file's contents from the start, unpacked if gzipped; and what to call them."""
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    try:
        with gzip.open(file) if zipped else contextlib.nullcontext(file) as content:
            yield content, "what it holds packed" if zipped else "it"
    except EOFError:
        raise ValueError("the gzip stream is cut short") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"it cannot be unpacked ({error_line(error)})") from None


def _check_size(found: int, size: int) -> None:
    if found < size:
        raise ValueError(f"it ends after {found} of {size} bytes of contents")
    if found > size:
        raise ValueError("bytes follow its contents")


_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_TYPE_CODES = {"uint8": 8, "uint16": 10, "int32": 12, "float32": 13}
"""The types of a data set's arrays and files; IDX lacks uint16, whose code here it does not use."""


def idx_header(shape: Sequence[int], dtype: str = "uint8") -> bytes:
    """Returns the header of an IDX file."""
    return bytes([0, 0, _TYPE_CODES[dtype], len(shape)]) + np.array(shape, ">u4").tobytes()


def checksum(arrays: Sequence[np.ndarray]) -> str:
    """Returns `sha256:...` over the arrays as IDX files, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(idx_header(array.shape, array.dtype.name))
        for block in np.split(array, range(4096, len(array), 4096)):  # a copy if of several bytes
            digest.update(np.ascontiguousarray(block, block.dtype.newbyteorder(">")).data)
    return f"sha256:{digest.hexdigest()}"


@contextlib.contextmanager
def open_npz(path: Path, num_bytes: int) -> Iterator[zipfile.ZipFile]:
    """Opens an npz file of `num_bytes`.

    Raises:
        Exception: It is damaged, which zipfile says in a dozen ways, here or in use.
    """
    with open_file(path, num_bytes) as file:
        head = file.read(HEAD)
        if not head.startswith(b"PK") and (kind := kind_of(head)):
            raise ValueError(f"it is {kind}")
        with zipfile.ZipFile(file) as archive:
            yield archive


def open_member(archive: zipfile.ZipFile, name: str):
    """Opens a member of a zip file, whose CRC-32 is checked at its end."""
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Other methods unpack gigabytes from a few bytes, however few are asked for.
        raise ValueError(f"{name} is compressed by method {info.compress_type}, not deflated")
    return archive.open(info)


def read_npz(
    archive: zipfile.ZipFile,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str] = MappingProxyType({}),
) -> list[np.ndarray]:
    """Reads arrays of these names and shapes; raises as `open_npz`, or ValueError.

    They are uint8, or what `dtypes` says.
    """
    arrays = []
    for name, shape in shapes.items():
        dtype = np.dtype(dtypes.get(name, "uint8"))
        with open_member(archive, f"{name}.npy") as member:
            array = read_npy(member, math.prod(shape) * dtype.itemsize)
        if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
            raise ValueError(
                f"{name} is {array.dtype} {array.shape}, not {dtype} {shape} in C order"
            )
        arrays.append(array)
    return arrays
