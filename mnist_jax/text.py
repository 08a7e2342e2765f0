"""What is printed: names and errors as one line, whatever they hold; tables."""

import itertools
import re
import textwrap
from collections.abc import Collection, Sequence

_NARROWEST = 10  # characters that a column of text keeps, whatever the width


def one_line(text: str) -> str:
    """Returns a name that can be printed, drawn and written: no newlines, no control characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def bare(name: str) -> str:
    """Returns a name in lower case without `-` and `_`: all spellings of a name have one form."""
    return re.sub("[-_]", "", name.lower())


def first_of(names: Sequence[str], most: int) -> str:
    """Returns the first of some names between commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def error_line(error: BaseException, limit: int = 300) -> str:
    """Returns the type of an error and its message, of at most `limit` characters."""
    return one_line(" ".join(f"{type(error).__name__}: {error}".split())[:limit])


def text_table(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    groups: Sequence[str] = (),
    left: Collection[int] = (0,),
    width: int = 0,
) -> str:
    """Lays out cells in columns, two spaces apart.

    Args:
        names: Of the columns; may have several lines.
        rows: The cells below them, as many a row; may have several lines, too.
        groups: By column, what stands above it and above neighbours of the same group.
        left: Numbers of the columns that hold text; the others, of numbers, end on the right.
        width: Characters in a line, or 0 for any number: in the widest columns of text, cells
            continue in further lines where they must.
    """
    cells = [[cell.split("\n") for cell in row] for row in (names, *rows)]
    widths = [
        max(len(line) for cell in column for line in cell) for column in zip(*cells, strict=True)
    ]
    spans = [(group, len(list(members))) for group, members in itertools.groupby(groups)]
    start, above = 0, list[str]()
    for group, span in spans:
        gaps = 2 * (span - 1)
        widths[start] += max(0, len(group) - sum(widths[start : start + span]) - gaps)
        above.append(group.center(sum(widths[start : start + span]) + gaps))
        start += span
    room = list(widths)
    longest = {i: max((len(x) for row in rows for x in row[i].split()), default=0) for i in left}
    while width and sum(room) + 2 * (len(room) - 1) > width:
        wide = [i for i in left if room[i] > _NARROWEST]
        if not wide:
            break
        # Words break where nothing else is left.
        room[max(wide, key=lambda i: (room[i] > longest[i], room[i]))] -= 1
    if room != widths:
        wrapped = [
            [_wrap(cell, room[i]) if i in left else cell for i, cell in enumerate(row)]
            for row in rows
        ]
        return text_table(names, wrapped, groups=groups, left=left)
    lines: list[Sequence[str]] = [above] if any(groups) else []
    for i, row_cells in enumerate(cells):
        height = max(map(len, row_cells))
        padded = []
        for j, cell in enumerate(row_cells):
            filler = [""] * (height - len(cell))
            align = str.ljust if j in left else str.rjust
            whole = filler + cell if i == 0 else cell + filler
            padded.append([align(line, widths[j]) for line in whole])
        lines += zip(*padded, strict=True)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _wrap(cell: str, width: int) -> str:
    """Wraps a cell between words; if one is too long, after underscores too."""
    wrapper = textwrap.TextWrapper(width, break_on_hyphens=False)
    if any(len(word) > width for word in cell.split()):
        wrapper.wordsep_simple_re = re.compile(r"(\s+)|(?<=_)")
    return wrapper.fill(cell)
