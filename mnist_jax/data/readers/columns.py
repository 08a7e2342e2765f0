"""Which columns of a table with names hold the label and the pixels, and in which order."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from mnist_jax.data.readers.raw import bad, caution
from mnist_jax.text import first_of, one_line

LABEL_NAMES = ("label", "labels", "class", "target", "y")
_INDEX = re.compile(r"|unnamed: \d+|__index_level_\d+__")  # pandas' names of one that has none
_NUMBERS = ("id", "imageid", "image_id", "index")
_NAME_IT = "name that of the labels `label`"


class Columns(NamedTuple):
    """The columns of a table, by number."""

    label: int
    pixels: list[int]  # in the order of the image


def known_label(names: Sequence[str]) -> int | None:
    """Returns the column that has the first of the known names of labels."""
    lower = [name.strip().lower() for name in names]
    return next((lower.index(name) for name in LABEL_NAMES if name in lower), None)


def pandas_index(metadata: dict[bytes, bytes] | None) -> list[str]:
    """Returns the columns of a Parquet table that pandas notes as the index."""
    try:
        noted = json.loads((metadata or {})[b"pandas"])["index_columns"]
        return [name for name in noted if isinstance(name, str)]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []


def used(names: Sequence[str], place: object, index: Sequence[str] = ()) -> list[int]:
    """Returns the columns without those of an index, which a line names.

    Args:
        names: Of all columns.
        place: The table, for the line.
        index: Names that are known to be those of an index; one of a label is not believed.
    """
    label = known_label(names)
    left = [
        i
        for i, name in enumerate(names)
        if i != label and (name in index or _INDEX.fullmatch(name.strip().lower()))
    ]
    if left:
        shown = first_of([repr(_short(names[i])) for i in left], 3)
        caution(place, f"the column {shown} is an index, which is not used")
    return [i for i in range(len(names)) if i not in {*left}]


def choose(names: Sequence[str], among: Sequence[int], place: object) -> Columns:
    """Chooses the columns of the label and the pixels.

    The label has a known name, or else all columns but it are numbered: `pixel0`, `pixel1`, or
    `1x1`, `1x2`. The pixels are then in the order of their numbers.

    Args:
        names: Of all columns.
        among: The numbers of those that may be chosen.
        place: The table, for an error or a line.

    Raises:
        UserError: It would be a guess.
    """
    label = known_label(names)
    series = _series(names, [i for i in among if i != label])
    others = [i for i in among if i not in {*series, label}]
    shown = first_of([_short(names[i]) for i in others], 5)
    if label is None:
        if not series:
            expected = f"no column has a name of labels ({', '.join(LABEL_NAMES)})"
            raise bad(place, f"{expected}; {_NAME_IT}")
        if not others:
            raise bad(place, f"every column is one of pixels ({_ends(names, series)}); {_NAME_IT}")
        if len(others) > 1:
            problem = f"the columns {shown} are none of pixels"
            raise bad(place, f"{problem}; {_NAME_IT}, and leave the others out")
        return Columns(others[0], _sorted(names, series, place))
    if not series:
        return Columns(label, [i for i in among if i != label])
    if others:
        what = f"neither the label ({_short(names[label])}) nor pixels ({_ends(names, series)})"
        raise bad(place, f"among its columns {shown}: {what}; leave that out")
    return Columns(label, _sorted(names, series, place))


def lacks_labels(names: Sequence[str], label: str, pixels: Sequence[str]) -> bool:
    """Says whether a table has the columns of pixels of another, and no label beside them."""
    others = {name.strip().lower() for name in names if name not in pixels}
    numbers = all(name in _NUMBERS or _INDEX.fullmatch(name) for name in others)
    return label not in names and {*pixels} <= {*names} and numbers


def _series(names: Sequence[str], among: Sequence[int]) -> list[int]:
    """Returns the columns whose names differ in their numbers alone, or, of RGB, in a letter."""
    kinds = defaultdict[str, list[int]](list)
    for i in among:
        if (kind := re.sub(r"\d+", "#", names[i])) != names[i]:
            kinds[kind].append(i)
    if not kinds:
        return []
    most = max(kinds.values(), key=len)
    numbers = {_numbers(names[i]) for i in most}
    same = [each for each in kinds.values() if {_numbers(names[i]) for i in each} == numbers]
    size = len(most)
    if size < 2 or not (len(same) == 1 or (len(same) == 3 and math.isqrt(size) ** 2 == size)):
        return []
    return sorted(i for each in same for i in each)


def _sorted(names: Sequence[str], series: list[int], place: object) -> list[int]:
    """Returns columns by their numbers; those of one number as they are."""
    if len({names[i] for i in series}) < len(series):
        first = next(names[i] for k, i in enumerate(series) if names[i] in names[: series[k]])
        raise bad(place, f"two columns have the name {_short(first)}; rename one")
    result = sorted(series, key=lambda i: _numbers(names[i]))
    if result != series:
        first, then = _ends(names, series), _ends(names, result)
        caution(place, f"columns of pixels ({first}) are sorted by their numbers ({then})")
    return result


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(digits[:18]) for digits in re.findall(r"\d+", name))


def _ends(names: Sequence[str], columns: Sequence[int]) -> str:
    few = [_short(names[i]) for i in columns[:3]]
    return ", ".join([*few, "...", _short(names[columns[-1]])] if len(columns) > 3 else few)


def _short(name: str) -> str:
    return one_line(name)[:40]
