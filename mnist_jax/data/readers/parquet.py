"""Parquet tables: a label and an image, as encoded bytes, lists or columns of pixels, a row."""

import contextlib
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax.data import formats
from mnist_jax.data.readers import columns, raw
from mnist_jax.data.readers.columns import LABEL_NAMES
from mnist_jax.data.readers.pictures import decode_all
from mnist_jax.data.readers.raw import bad
from mnist_jax.text import first_of

_BATCH = 256  # rows in memory beside the arrays
_MOST_ROWS = 2**26


class _Layout(NamedTuple):
    """What the columns of a table are."""

    label: str
    pixels: list[str]  # one column of images, or the pixels' in the order of the image
    class_names: list[str] | None


def find(path: Path) -> raw.Found | None:
    """Returns a table, or those of a folder, each of which may be in several files."""
    files = raw.find_tables(path, (".parquet",))
    if not files:
        return None
    train, test = files["train"], files.get("test", [])
    return raw.Found("Parquet", train + test, functools.partial(_read, train, test))


def _read(train: list[Path], test: list[Path]) -> raw.RawData:
    first = _layout(train[0])
    tests = [path for path in test if not _lacks_labels(path, first)]
    if 0 < len(tests) < len(test):
        raise bad(test[0].parent, f"of its test tables only some have a column {first.label}")
    splits = [
        _join([_read_file(path, first, train[0]) for path in paths])
        for paths in (train, tests)
        if paths
    ]
    shape = splits[0].images.array.shape[1:]
    guess = raw.guess_of(shape) if _is_of_rows(train[0], first) else ""
    both = splits[1] if len(splits) > 1 else None
    return raw.RawData(splits[0], both, first.class_names, guess)


def _join(shards: list[raw.Split]) -> raw.Split:
    if len(shards) == 1:
        return shards[0]
    raw.check_size(sum(shard.images.array.nbytes for shard in shards), shards[0].images.place)
    joined = []
    for parts in zip(*shards, strict=True):
        kinds = [f"{c.array.dtype} {list(c.array.shape[1:])}" for c in parts]
        for kind, column in zip(kinds, parts, strict=True):
            if column.array.dtype.kind != "U" and kind != kinds[0]:
                problem = f"it holds {kind}, but {parts[0].place} {kinds[0]}"
                raise bad(column.place, f"{problem}; expected the same")
        ends = np.cumsum([len(column.array) for column in parts])

        def at(i: int, parts=parts, ends=ends) -> str:
            shard = int(np.searchsorted(ends, i, side="right"))
            return parts[shard].at(i - int(ends[shard - 1] if shard else 0))

        array = np.concatenate([column.array for column in parts])
        joined.append(raw.Column(array, parts[0].place, at))
    return raw.Split(*joined)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a table, as `pyarrow.parquet.ParquetFile`."""
    with raw.reading(path), formats.open_file(path, raw.MOST_BYTES) as file:
        from pyarrow import parquet

        if (kind := formats.kind_of(file.read(512))) and kind != "a Parquet file":
            raise bad(path, f"it is {kind}, not a Parquet file; replace it")
        file.seek(0)
        with parquet.ParquetFile(file) as table:
            yield table


def _layout(path: Path) -> _Layout:
    with _opened(path) as table:
        schema = table.schema_arrow
        label, pixels = _columns(path, schema)
        return _Layout(label, pixels, _class_names(_features(schema), label))


def _lacks_labels(path: Path, first: _Layout) -> bool:
    """Says, and tells, whether a table of the test part has no labels."""
    with _opened(path) as table:
        lacks = columns.lacks_labels(table.schema_arrow.names, first.label, first.pixels)
    if lacks:
        problem = f"it has no column {first.label}, so it is not used as the test part"
        raw.caution(path, problem)
    return lacks


def _is_of_rows(path: Path, layout: _Layout) -> bool:
    """Says whether images are rows of numbers, which do not say their shape."""
    with _opened(path) as table:
        kind = table.schema_arrow.field(layout.pixels[0]).type
        return _is_number(kind) or (_is_list(kind) and _is_number(kind.value_type))


def _read_file(path: Path, first: _Layout, first_path: Path) -> raw.Split:
    """Reads a table whose columns are to be those of the first."""
    layout = _layout(path)
    label, pixels, names = layout
    if (label, pixels) != (first.label, first.pixels):
        raise bad(path, f"its columns differ from those of {first_path}; expected the same")
    if names and first.class_names and names != first.class_names:
        shown = [first_of(each, 5) for each in (names, first.class_names)]
        problem = f"its classes are {shown[0]}, those of {first_path} {shown[1]}"
        raise bad(path, f"{problem}; expected the same, in the same order")
    with _opened(path) as table:
        count = table.metadata.num_rows
        if not 0 < count <= _MOST_ROWS:
            raise bad(path, f"it claims {count} rows; expected 1 to {_MOST_ROWS}")
        labels = _labels(path, table, label, count)
        batches = table.iter_batches(_BATCH, columns=pixels)
        if _is_number(table.schema_arrow.field(pixels[0]).type):
            images = _rows(path, batches, pixels, count)
        else:
            images = _images(path, batches, count)
    at = functools.partial(_at, path)
    return raw.Split(
        raw.Column(images, f"{path} (images)", at), raw.Column(labels, f"{path} ({label})", at)
    )


def _at(path: Path, row: int) -> str:
    return f"{path}, row {row}"


def _features(schema) -> dict[str, Any]:
    """Returns what Hugging Face notes of the columns."""
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])
        return {**noted["info"]["features"]}
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}


def _class_names(features: dict[str, Any], label: str) -> list[str] | None:
    noted = features.get(label)
    names = noted.get("names") if isinstance(noted, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names


def _columns(path: Path, schema) -> tuple[str, list[str]]:
    """Returns the column of the labels, and that or those of the pixels."""
    from pyarrow import types

    if len({*schema.names}) < len(schema.names):
        raise bad(path, "two columns have the same name; rename one")
    among = columns.used(schema.names, path, columns.pandas_index(schema.metadata))
    fields = [schema.field(i) for i in among]
    whole = [f.name for f in fields if types.is_nested(f.type) or _is_bytes(f.type)]
    rest = [f.name for f in fields if f.name not in whole]
    shown = first_of([f"{f.name} ({f.type})" for f in schema], 5)
    if len(whole) > 1:
        whole = [name for name in whole if name.lower() in ("image", "img")] or whole
    known = columns.known_label(rest)
    if not rest or (whole and known is None and len(rest) > 1):
        expected = f"a column of labels named {', '.join(LABEL_NAMES)}"
        raise bad(path, f"its columns are {shown}; expected {expected}")
    if whole:
        label, pixels = rest[known or 0], whole
        if others := [f.name for f in fields if f.name not in (label, *whole)]:
            raw.caution(path, f"columns that are not used: {first_of(others, 5)}")
    else:
        chosen = columns.choose(schema.names, among, path)
        label, pixels = schema.names[chosen.label], [schema.names[i] for i in chosen.pixels]
    numbers = all(_is_number(schema.field(name).type) for name in pixels)
    if len(whole) > 1 or not pixels or not (whole or numbers):
        expected = "one column of images (bytes or lists), or columns of pixels"
        raise bad(path, f"its columns are {shown}; expected {expected}")
    return label, pixels


def _is_bytes(kind) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _is_list(kind) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_number(kind) -> bool:
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def _labels(path: Path, table, label: str, count: int) -> np.ndarray:
    import pyarrow
    from pyarrow import types

    parts = []
    for batch in table.iter_batches(2**14, columns=[label]):
        parts.append(batch.column(0))
        raw.check_size(sum(p.nbytes for p in parts), f"{path} ({label})", raw.MOST_LABEL_BYTES)
    column = pyarrow.chunked_array(parts, table.schema_arrow.field(label).type)
    raw.check_count(count, len(column), str(path), label)
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise bad(_at(path, row), f"its {label} is missing; add it, or leave the row out")
    if _is_number(column.type):
        return column.to_numpy()
    if not types.is_string(column.type) and not types.is_large_string(column.type):
        problem = f"labels are {column.type}; expected whole numbers or text"
        raise bad(f"{path} ({label})", problem)
    texts = column.to_pylist()
    raw.check_texts(texts, functools.partial(_at, path))
    return np.array(texts, str)


def _rows(path: Path, batches: Iterator, pixels: list[str], count: int) -> np.ndarray:
    """Returns images whose pixels are columns."""
    shape = raw.pixel_shape(len(pixels), str(path))

    def images() -> Iterator[tuple[int, np.ndarray]]:
        start = 0
        for batch in batches:
            for name, column in zip(pixels, batch.columns, strict=True):
                _check_nulls(path, column, start, name)
            columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
            yield start, np.stack(columns, axis=1).reshape(-1, *shape)
            start += batch.num_rows

    return _fill(path, images(), count)


def _images(path: Path, batches: Iterator, count: int) -> np.ndarray:
    """Returns images that are each in a cell: encoded, or as lists."""
    first = next(batches, None)
    if first is None:
        raise bad(path, "it holds no row")
    batches = _chain(first, batches)
    kind = first.schema.field(0).type
    from pyarrow import types

    if types.is_struct(kind) or _is_bytes(kind):
        if types.is_struct(kind) and (
            kind.get_field_index("bytes") < 0 or not _is_bytes(kind.field("bytes").type)
        ):
            raise bad(path, f"its images are {kind}; expected a struct with bytes, bytes, or lists")
        return decode_all(_contents(path, batches), count, functools.partial(_at, path))
    return _fill(path, _lists(path, batches), count)


def _chain(first, batches: Iterator) -> Iterator:
    yield first
    yield from batches


def _contents(path: Path, batches: Iterator) -> Iterator[bytes]:
    row = 0
    for batch in batches:
        for cell in batch.column(0).to_pylist():
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            if content is None:
                raise bad(_at(path, row), "its image has no bytes; embed the files' contents")
            yield content
            row += 1
    raise bad(path, f"it ends after {row} rows, fewer than it claims; replace it")


def _lists(path: Path, batches: Iterator) -> Iterator[tuple[int, np.ndarray]]:
    """Yields images from nested lists of equal lengths."""
    from pyarrow import compute

    start = 0
    for batch in batches:
        column, shape = batch.column(0), list[int]()
        while _is_list(column.type):
            _check_nulls(path, column, start, "a list", max(1, math.prod(shape)))
            lengths = np.asarray(compute.list_value_length(column))
            if (lengths != lengths[0]).any():
                row = int(np.argmax(lengths != lengths[0])) // max(1, math.prod(shape))
                problem = f"its lists have other lengths than {int(lengths[0])}"
                raise bad(_at(path, start + row), f"{problem}; expected images of one size")
            shape.append(int(lengths[0]))
            column = column.flatten()
        if not _is_number(column.type):
            raise bad(
                path, f"its images are {batch.schema.field(0).type}; expected lists of numbers"
            )
        _check_nulls(path, column, start, "a pixel", max(1, math.prod(shape)))
        if len(shape) == 1:
            shape = [*raw.pixel_shape(shape[0], _at(path, start))]
        values = column.to_numpy(zero_copy_only=False)
        yield start, values.reshape(batch.num_rows, *shape)
        start += batch.num_rows


def _check_nulls(path: Path, column, start: int, what: str, each: int = 1) -> None:
    if column.null_count:
        row = start + column.is_null().to_pylist().index(True) // each
        raise bad(_at(path, row), f"{what} is missing; add it, or leave the row out")


def _fill(path: Path, parts: Iterator[tuple[int, np.ndarray]], count: int) -> np.ndarray:
    """Joins parts, checked before memory is taken for all of them."""
    images, end = np.empty(0, np.uint8), 0
    for start, part in parts:
        if not end:
            raw.check_shape((count, *part.shape[1:]), part.dtype, str(path))
            images = np.empty((count, *part.shape[1:]), part.dtype)
        elif part.shape[1:] != images.shape[1:]:
            problem = f"images of {list(part.shape[1:])}, not {list(images.shape[1:])}, as before"
            raise bad(_at(path, start), f"{problem}; expected the same")
        end = start + len(part)
        images[start:end] = part
    if end != count:
        raise bad(path, f"it holds {end} rows, not the {count} that it claims; replace it")
    return images
