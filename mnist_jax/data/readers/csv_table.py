"""CSV tables: a label and the pixels of an image a line; with a header or not, gzipped or not."""

import contextlib
import csv
import functools
import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnist_jax import UserError
from mnist_jax.data import formats
from mnist_jax.data.readers import raw
from mnist_jax.data.readers.raw import bad
from mnist_jax.text import error_line, one_line

LABEL_NAMES = ("label", "class", "target", "y")
_MOST_CELLS = 3 * raw.MOST_SIZE**2  # beside the label
_LONGEST = 2**25  # bytes of a line, in which a pixel may have 42 characters
_KAGGLE_EMNIST = re.compile(r"emnist-\w+-(train|test)\.csv(\.gz)?")


class _Head(NamedTuple):
    cells: list[str]  # of the first line
    named: bool  # whether these are names
    label: int  # column of the labels

    @property
    def label_name(self) -> str:
        return self.cells[self.label] if self.named else ""


_Table = tuple[np.ndarray, list[str]]
"""Images, and the texts of their labels."""


def find(path: Path) -> raw.Found | None:
    """Returns a table, or those of a folder."""
    files = raw.find_tables(path, (".csv", ".csv.gz"))
    if not files:
        return None
    both = [files[split][0] for split in ("train", "test") if split in files]
    return raw.Found("CSV", both, functools.partial(_read, both))


def _read(paths: list[Path]) -> raw.RawData:
    heads = [_read_head(path) for path in paths]
    for path, head in zip(paths[1:], heads[1:], strict=True):
        _check_columns(path, head, heads[0])
    tables: list[_Table] = []
    for path, head in zip(paths, heads, strict=True):
        floats = bool(tables) and tables[0][0].dtype == np.float32
        tables.append(_read_table(path, head, floats))
    labels = _numbers([texts for _, texts in tables])
    splits = []
    for path, head, (images, _), numbers in zip(paths, heads, tables, labels, strict=True):
        if _KAGGLE_EMNIST.fullmatch(path.name):
            images = images.swapaxes(1, 2)  # as EMNIST's IDX files

        at = functools.partial(_place, path, head)
        columns = [raw.Column(array, str(path), at) for array in (images, numbers)]
        splits.append(raw.Split(*columns))
    return raw.RawData(splits[0], splits[1] if len(splits) > 1 else None)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    with raw.reading(path), formats.open_file(path, 4 * raw.MOST_BYTES) as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file) if zipped else contextlib.nullcontext(file) as content:
            yield content


def _read_head(path: Path) -> _Head:
    with _opened(path) as file:
        line = file.readline(_LONGEST)
    if len(line) == _LONGEST or line.count(b",") > _MOST_CELLS:
        problem = f"its first line is longer than one of {_MOST_CELLS} pixels"
        raise bad(path, f"{problem}; expected a label and the pixels of one image")
    kind = formats.kind_of(line)
    if kind and kind != "a CSV table":
        raise bad(path, f"it is {kind}, not a CSV table; replace it")
    try:
        [cells] = csv.reader([line.decode("utf-8-sig").rstrip("\r\n")], strict=True)
    except (ValueError, csv.Error) as error:
        problem = f"its first line is no line of a CSV table in UTF-8 ({error_line(error)})"
        raise bad(path, f"{problem}; save it again") from None
    cells = [cell.strip() for cell in cells]
    if len(cells) < 2:
        raise bad(path, "its first line has one cell; expected a label and pixels, with commas")
    lower = [cell.lower() for cell in cells]
    label = next((lower.index(name) for name in LABEL_NAMES if name in lower), None)
    # pandas names columns by their numbers where nobody has.
    counted = len(cells) > 2 and cells == [str(i) for i in range(len(cells))]
    named = label is not None or counted or not any(map(_is_number, cells[1:]))
    return _Head(cells, named, label or 0)


def _is_number(cell: str) -> bool:
    with contextlib.suppress(ValueError):
        float(cell)
        return True
    return not cell  # a missing number


def _check_columns(path: Path, head: _Head, first: _Head) -> None:
    """Checks that the columns of the test part are those of the training part."""
    pixels = [cell for i, cell in enumerate(first.cells) if i != first.label]
    if first.named and head.cells == pixels:
        problem = f"it has no column {first.label_name}, as the training part has"
        cure = "leave it out (move it away, or give the path of the other)"
        raise bad(path, f"{problem}; add the labels, or {cure}")
    if len(head.cells) != len(first.cells):
        problem = f"it has {len(head.cells)} columns, the training part {len(first.cells)}"
        raise bad(path, f"{problem}; expected the same")
    if (head.label, head.named) != (first.label, first.named) or (
        head.named and head.cells != first.cells
    ):
        raise bad(path, "its columns differ from those of the training part; expected the same")


def _read_table(path: Path, head: _Head, floats: bool) -> _Table:
    """Returns images and the texts of their labels."""
    place = f"{path}, without the column of labels {head.label_name[:40]!r}"
    if "" in head.cells and head.named:
        place += " and with a column without a name (an index? leave it out)"
    shape = raw.pixel_shape(len(head.cells) - 1, place if head.named else str(path))
    for dtype in (np.float32,) if floats else (np.uint8, np.float32):
        if found := _parse(path, head, dtype):
            images, labels = found
            if not labels:
                raise bad(path, "it holds no image; expected a label and its pixels in each line")
            raw.check_texts(labels, functools.partial(_place, path, head))
            return images.reshape(-1, *shape), labels
    raise AssertionError("every number is a float")


def _parse(path: Path, head: _Head, dtype: type) -> _Table | None:
    """Returns the table, a row of pixels an image; None if they are floats and `dtype` is not."""
    images: list[np.ndarray] = [np.empty((0, len(head.cells) - 1), dtype)]
    labels: list[str] = []
    with _opened(path) as file:
        import pyarrow
        from pyarrow import csv as arrow_csv

        names = [str(i) for i in range(len(head.cells))]  # those of the file may repeat
        types = dict.fromkeys(names, pyarrow.from_numpy_dtype(dtype))
        types[names[head.label]] = pyarrow.string()
        options = (
            # With threads an error would not say its line.
            arrow_csv.ReadOptions(
                use_threads=False,
                block_size=_LONGEST if len(names) > 2**18 else 2**23,
                skip_rows=int(head.named),
                column_names=names,
            ),
            arrow_csv.ParseOptions(),
            arrow_csv.ConvertOptions(column_types=types, null_values=[]),
        )
        total = label_bytes = 0
        try:
            with arrow_csv.open_csv(file, *options) as batches:
                for batch in batches:
                    total += batch.num_rows * (len(names) - 1) * np.dtype(dtype).itemsize
                    raw.check_size(total, path)
                    label_bytes += batch.column(head.label).nbytes
                    raw.check_size(label_bytes, f"{path} (labels)", raw.MOST_LABEL_BYTES)
                    images.append(_pixels(batch, head.label, dtype))
                    labels += batch.column(head.label).to_pylist()
        except pyarrow.ArrowInvalid as error:
            if dtype == np.uint8 and _is_of_a_float(str(error)):
                return None
            raise _explained(path, head, str(error)) from None
    return np.concatenate(images), labels


def _pixels(batch, label: int, dtype: type) -> np.ndarray:
    pixels = np.empty((batch.num_rows, batch.num_columns - 1), dtype)
    columns = [i for i in range(batch.num_columns) if i != label]
    for place, column in enumerate(columns):
        pixels[:, place] = batch.column(column).to_numpy()
    return pixels


_INVALID = re.compile(r"column #(\d+): Row #(\d+): .*: invalid value '(.*)'", re.DOTALL)


def _is_of_a_float(error: str) -> bool:
    """Says whether pyarrow refused a number that is not whole."""
    cell = match[3] if (match := _INVALID.search(error)) else ""
    return bool(cell) and _is_number(cell) and not re.fullmatch(r"[-+]?\d+", cell)


def _explained(path: Path, head: _Head, error: str) -> UserError:
    """Returns an error that names line and column, in place of pyarrow's."""
    if match := _INVALID.search(error):
        number, line, cell = int(match[1]), match[2], match[3]
        column = f"column {number + 1}"
        if head.named:
            column += f" ({head.cells[number][:40]})"
        what = f"{cell[:40]!r}" if cell else "a missing cell"
        expected = "a whole number 0..255, or floats with a point in the whole table"
        return bad(f"{path}, line {line}", f"{what} in {column}; expected {expected}")
    if match := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", error):
        return bad(f"{path}, line {match[1]}", f"{match[3]} cells; expected {match[2]}")
    if match := re.search(r"column #(\d+): Row #(\d+): .*invalid UTF8", error):
        return bad(f"{path}, line {match[2]}", "the label is not UTF-8; save the table as UTF-8")
    if "straddles two block boundaries" in error:
        return bad(path, "a line is too long; expected a label and the pixels of one image")
    if "Empty CSV file" in error:
        return bad(path, "it holds no image; expected a label and its pixels in each line")
    return bad(path, f"it cannot be read ({one_line(error)[:300]}); replace or repair it")


def _place(path: Path, head: _Head, row: int) -> str:
    return f"{path}, line {row + 1 + head.named}"


def _numbers(texts: list[list[str]]) -> list[np.ndarray]:
    """Returns labels as numbers if those of all splits are; else as text."""
    arrays = [np.array(each, str) for each in texts]
    for dtype in (np.int64, np.float64):
        with contextlib.suppress(ValueError, OverflowError):
            return [array.astype(dtype) for array in arrays]
    return arrays
