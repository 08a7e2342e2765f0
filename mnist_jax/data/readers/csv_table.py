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
from mnist_jax.data.readers import columns, raw
from mnist_jax.data.readers.raw import bad
from mnist_jax.text import error_line, one_line

_MOST_CELLS = 3 * raw.MOST_SIZE**2  # beside the label
_LONGEST = 2**25  # bytes of a line, in which a pixel may have 42 characters
_KAGGLE_EMNIST = re.compile(r"emnist-\w+-(train|test)\.csv(\.gz)?")


class _Head(NamedTuple):
    cells: list[str]  # of the first line
    named: bool  # whether these are names
    label: int  # column of the labels
    pixels: list[int]  # columns, in the order of the image

    @property
    def label_name(self) -> str:
        return self.cells[self.label] if self.named else ""

    @property
    def pixel_names(self) -> list[str]:
        return [self.cells[i] for i in self.pixels] if self.named else []


class _Table(NamedTuple):
    images: np.ndarray
    labels: list[str]  # texts
    why_floats: str = ""


def find(path: Path) -> raw.Found | None:
    """Returns a table, or those of a folder."""
    files = raw.find_tables(path, (".csv", ".csv.gz"))
    if not files:
        return None
    both = [files[split][0] for split in ("train", "test") if split in files]
    return raw.Found("CSV", both, functools.partial(_read, both))


def _read(paths: list[Path]) -> raw.RawData:
    heads = [_head(paths[0], *_first_line(paths[0]))]
    for path in paths[1:]:
        if head := _head_of_test(path, heads[0]):
            heads.append(head)
    paths = paths[: len(heads)]
    tables: list[_Table] = []
    for path, head in zip(paths, heads, strict=True):
        floats = bool(tables) and tables[0].images.dtype == np.float32
        tables.append(_read_table(path, head, floats))
    labels = _numbers([table.labels for table in tables])
    guess = raw.guess_of(tables[0].images.shape[1:])
    splits = []
    for path, head, table, numbers in zip(paths, heads, tables, labels, strict=True):
        images = table.images
        if _KAGGLE_EMNIST.fullmatch(path.name):
            images = images.swapaxes(1, 2)  # as EMNIST's IDX files

        at = functools.partial(_place, path, head)
        pixels = raw.Column(images, str(path), at, table.why_floats)
        splits.append(raw.Split(pixels, raw.Column(numbers, str(path), at)))
    return raw.RawData(splits[0], splits[1] if len(splits) > 1 else None, guess=guess)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    with raw.reading(path), formats.open_file(path, 4 * raw.MOST_BYTES) as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file) if zipped else contextlib.nullcontext(file) as content:
            yield content


def _first_line(path: Path) -> tuple[list[str], bool]:
    """Returns the cells of the first line, and whether they are names."""
    with _opened(path) as file:
        line = file.readline(_LONGEST)
    if len(line) == _LONGEST or line.count(b",") > _MOST_CELLS:
        problem = f"its first line is longer than one of {_MOST_CELLS} pixels"
        raise bad(path, f"{problem}; expected a label and the pixels of one image")
    kind = formats.kind_of(line)
    if kind and kind != "a CSV table":
        raise bad(path, f"it is {kind}, not a CSV table; replace it")
    for mark, name in ((b";", "semicolons"), (b"\t", "tabs")):
        if line.count(mark) > line.count(b","):
            raise bad(path, f"its cells are separated by {name}; save it with commas (sep=',')")
    try:
        [cells] = csv.reader([line.decode("utf-8-sig").rstrip("\r\n")], strict=True)
    except (ValueError, csv.Error) as error:
        problem = f"its first line is no line of a CSV table in UTF-8 ({error_line(error)})"
        raise bad(path, f"{problem}; save it again") from None
    cells = [cell.strip() for cell in cells]
    if len(cells) < 2:
        raise bad(path, "its first line has one cell; expected a label and pixels, with commas")
    numbers = [cell for cell in cells if cell and _is_number(cell)]
    return cells, _is_counted(cells) or columns.known_label(cells) is not None or not numbers


def _is_counted(cells: list[str]) -> bool:
    """Says whether cells count from 0 or 1: pandas names columns so if nobody has.

    The first or the last may be something else.
    """
    counts = [[str(i) for i in range(start, start + len(cells))] for start in (0, 1)]
    parts = (cells[1:], cells[:-1]) if len(cells) > 2 else ()
    return any(part == count[: len(part)] for part in parts for count in counts)


def _head(path: Path, cells: list[str], named: bool) -> _Head:
    among = columns.used(cells, path) if named else range(len(cells))
    if not named or all(cells[i].isdigit() for i in among):  # nobody has given names
        return _Head(cells, named, among[0], [*among[1:]])
    return _Head(cells, named, *columns.choose(cells, among, path))


def _is_number(cell: str) -> bool:
    with contextlib.suppress(ValueError):
        float(cell)
        return True
    return not cell  # a missing number


def _head_of_test(path: Path, first: _Head) -> _Head | None:
    """Returns what the test part has in its first line; None if it has no labels.

    Raises:
        UserError: Its columns are not those of the training part.
    """
    cells, named = _first_line(path)
    if first.named and columns.lacks_labels(cells, first.label_name, first.pixel_names):
        raw.caution(
            path, f"it has no column {first.label_name}, so it is not used as the test part"
        )
        return None
    head = _head(path, cells, named)
    if len(head.pixels) != len(first.pixels):
        numbers = [f"{len(each.pixels)} columns of pixels" for each in (head, first)]
        raise bad(path, f"it has {numbers[0]}, the training part {numbers[1]}; expected the same")
    if (head.named, head.label_name, head.pixel_names) != (
        (first.named, first.label_name, first.pixel_names)
    ):
        raise bad(path, "its columns differ from those of the training part; expected the same")
    return head


def _read_table(path: Path, head: _Head, floats: bool) -> _Table:
    place = f"{path}, without the column of labels {head.label_name[:40]!r}"
    shape = raw.pixel_shape(len(head.pixels), place if head.named else str(path))
    why = ""
    for dtype in (np.float32,) if floats else (np.uint8, np.float32):
        found = _parse(path, head, dtype)
        if isinstance(found, str):
            why = found
            continue
        images, labels = found
        if not labels:
            raise bad(path, "it holds no image; expected a label and its pixels in each line")
        raw.check_texts(labels, functools.partial(_place, path, head))
        return _Table(images.reshape(-1, *shape), labels, why)
    raise AssertionError("every number is a float")


def _parse(path: Path, head: _Head, dtype: type) -> tuple[np.ndarray, list[str]] | str:
    """Returns rows of pixels, and labels; or which cell is a float, where `dtype` is not."""
    images: list[np.ndarray] = [np.empty((0, len(head.pixels)), dtype)]
    labels: list[str] = []
    with _opened(path) as file:
        import pyarrow
        from pyarrow import csv as arrow_csv

        names = [str(i) for i in range(len(head.cells))]  # those of the file may repeat
        chosen = [names[i] for i in (head.label, *head.pixels)]
        types = dict.fromkeys(chosen, pyarrow.from_numpy_dtype(dtype))
        types[chosen[0]] = pyarrow.string()
        options = (
            # With threads an error would not say its line.
            arrow_csv.ReadOptions(
                use_threads=False,
                block_size=_LONGEST if len(names) > 2**18 else 2**23,
                skip_rows=int(head.named),
                column_names=names,
            ),
            arrow_csv.ParseOptions(),
            arrow_csv.ConvertOptions(column_types=types, null_values=[], include_columns=chosen),
        )
        total = label_bytes = 0
        try:
            with arrow_csv.open_csv(file, *options) as batches:
                for batch in batches:
                    total += batch.num_rows * len(head.pixels) * np.dtype(dtype).itemsize
                    raw.check_size(total, path)
                    label_bytes += batch.column(0).nbytes
                    raw.check_size(label_bytes, f"{path} (labels)", raw.MOST_LABEL_BYTES)
                    images.append(_pixels(batch, dtype))
                    labels += batch.column(0).to_pylist()
        except pyarrow.ArrowInvalid as error:
            if dtype == np.uint8 and (why := _float_in(str(error))):
                return why
            raise _explained(path, head, str(error)) from None
    return np.concatenate(images), labels


def _pixels(batch, dtype: type) -> np.ndarray:
    pixels = np.empty((batch.num_rows, batch.num_columns - 1), dtype)
    for place in range(batch.num_columns - 1):
        pixels[:, place] = batch.column(place + 1).to_numpy()
    return pixels


_INVALID = re.compile(r"column #(\d+): Row #(\d+): .*: invalid value '(.*)'", re.DOTALL)


def _float_in(error: str) -> str:
    """Says which number that is not whole pyarrow refused; empty if it was another fault."""
    if not (match := _INVALID.search(error)):
        return ""
    column, line, cell = match.groups()
    if not cell or not _is_number(cell) or re.fullmatch(r"[-+]?\d+", cell):
        return ""
    return f" (line {line} has {cell[:40]!r} in column {int(column) + 1}, which is no whole number)"


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
