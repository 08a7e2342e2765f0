"""A report as Markdown, and as one page of HTML that needs no other file."""

import base64
import html
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from mnist_jax.report.tables import Table
from mnist_jax.text import one_line

# Marks a page that may be overwritten.
GENERATOR = '<meta name="generator" content="mnist_jax.report">'


class Picture(NamedTuple):
    """A saved figure."""

    name: str
    caption: str
    content: bytes
    kind: str = "svg+xml"  # or png, as of `image/png`


class Code(str):
    """A line to type."""


class Warn(str):
    """A paragraph that stands out."""


# A title and the blocks below it; a plain string is a paragraph.
Section = tuple[str, Sequence[str | Code | Warn | Table | Picture]]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Renders cells that are Markdown already; columns after the first are aligned as numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def plain_markdown(text: str) -> str:
    """Returns text in a line of Markdown; underscores mark up where words begin and end."""
    marks = r"([\\`*\[\]<>|$~&#]|(?<![^\W_])_|_(?![^\W_]))"
    return re.sub(marks, r"\\\1", one_line(text))


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Renders a report as Markdown, with links to the pictures."""
    parts = [f"# {plain_markdown(title)}"]
    for heading, blocks in sections:
        parts.append(f"## {heading}")
        for block in blocks:
            match block:
                case Picture(name, caption):
                    image = f"![{plain_markdown(name)}](figures/{name}.png)"
                    parts += [image, plain_markdown(caption)]
                case Table(columns, rows):
                    names = [f"{group}: {name}" if group else name for group, name in columns]
                    escaped = [[plain_markdown(cell) for cell in cells] for cells in (names, *rows)]
                    parts.append(markdown_table(escaped[0], escaped[1:]))
                case Code():
                    parts.append("\n".join(f"    {one_line(x)}" for x in block.splitlines()))
                case Warn():
                    parts.append(f"> **{plain_markdown(block)}**")
                case _:  # no list, even if it begins with a number and a dot
                    text = plain_markdown(block).strip()
                    parts.append(re.sub(r"^(\d*)(?=[-+=.)])", r"\1\\", text))
    return "\n\n".join(parts) + "\n"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{head}
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #8886; }}
th[colspan] {{ text-align: center; }}
:is(th, td):is(:first-child, :nth-child(2):last-child) {{ text-align: left; }}
td:nth-child(2):last-child {{ overflow-wrap: anywhere; }}
.warning {{ border: 2px solid #d55e00; padding: 0.5rem 0.8rem; font-weight: bold; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.6rem; background: #8882; }}
pre span {{ display: inline-block; }}
figure {{ margin: 1.5rem 0; break-inside: avoid; }}
img {{ max-width: 100%; min-width: 34rem; background: white; }}
@media print {{ body {{ max-width: none; padding: 0; }} img {{ min-width: 0; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def to_html(title: str, sections: Sequence[Section], reload: int = 0) -> str:
    """Renders a report as one page that needs no other file, network or script.

    With `reload`, a browser loads it again after so many seconds.
    """
    again = f'\n<meta http-equiv="refresh" content="{reload}">' * bool(reload)
    body = html_body(sections)
    return PAGE.format(title=_plain(title), head=GENERATOR + again, body=body)


def _plain(text: str) -> str:
    return html.escape(one_line(text))


def html_body(sections: Sequence[Section]) -> str:
    """Renders sections as HTML, as it stands in a page or in a notebook."""
    plain = _plain

    def row(cells, tag="td"):
        return f"<tr>{''.join(f'<{tag}>{plain(cell)}</{tag}>' for cell in cells)}</tr>"

    parts = []
    for heading, blocks in sections:
        if heading:
            parts.append(f"<h2>{plain(heading)}</h2>")
        for block in blocks:
            match block:
                case Picture(name, caption, content, kind):
                    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
                    image = f'<div><img src="{source}" alt="{plain(name)}"></div>'
                    caption = f"<figcaption>{plain(caption)}</figcaption>"
                    parts.append(f"<figure>{image}{caption}</figure>")
                case Table(columns, rows):
                    spans = "".join(
                        f'<th colspan="{len(list(members))}">{plain(group)}</th>'
                        for group, members in itertools.groupby(group for group, _ in columns)
                    )
                    head = f"<tr>{spans}</tr>" if any(group for group, _ in columns) else ""
                    lines = [head, row([name for _, name in columns], "th"), *map(row, rows)]
                    parts.append("<div><table>{}</table></div>".format("\n".join(lines)))
                case Code():
                    # Lines break between words alone, where a copy can be pasted.
                    typed = (
                        " ".join(f"<span>{plain(word)}</span>" for word in line.split(" "))
                        for line in block.splitlines()
                    )
                    parts.append("<pre>{}</pre>".format("\n".join(typed)))
                case Warn():
                    parts.append(f'<p class="warning">{plain(block)}</p>')
                case _:
                    parts.append(f"<p>{plain(block)}</p>")
    return "\n".join(parts)
