"""Arrays in NumPy's file formats, npy and npz, read without trust."""

import io
import math
import zipfile
from collections.abc import Mapping
from types import MappingProxyType
from typing import IO, Any

import numpy as np


def read_npy(file: IO[bytes] | io.BufferedIOBase, most_bytes: int) -> np.ndarray:
    """Reads an array to the end of a file, unless its header claims more than `most_bytes`.

    NumPy's own reader takes the memory that a header asks for. Nothing is unpickled.

    Raises:
        ValueError: The file does not hold exactly such an array; also what NumPy raises on damage.
    """
    shape, fortran, dtype = read_npy_header(file)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or not 0 <= size <= most_bytes:
        raise ValueError(f"an array claims {size} bytes of {dtype}; expected at most {most_bytes}")
    content = file.read(size + 1)
    if len(content) != size:
        raise ValueError("an array is not of the size that it claims")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def read_npy_header(file: IO[bytes] | io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads what comes before an array: its shape, whether it is in Fortran order, its type.

    Raises:
        ValueError: It is no array's; also what NumPy raises on damage.
    """
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"an array of version {version}")
    return np.lib.format.read_array_header_1_0(file)


def npz_bytes(arrays: Mapping[str, Any], texts: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Returns the content of an npz file, as `np.savez` writes it, with files of text beside.

    All members have the same date: a zip file cannot hold the date of every machine's clock.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return buffer.getvalue()
