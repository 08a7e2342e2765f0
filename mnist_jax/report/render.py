"""What a report is made of, and what becomes of it: text in a terminal, Markdown, and one page.

That page is HTML that needs no other file. The tables are those of `tables.py`; what is said
between them is in `one_run.py` and `several_runs.py`.
"""

import base64
import contextlib
import html
import io
import itertools
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_jax import UserError, disk, run_files
from mnist_jax.report import canvas
from mnist_jax.report.tables import Table
from mnist_jax.runs import workdirs
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run
from mnist_jax.text import error_line, one_line, text_table

_GENERATOR = '<meta name="generator" content="mnist_jax.report">'  # marks what may be overwritten


class Picture(NamedTuple):
    """A saved figure."""

    name: str
    caption: str
    svg: bytes


class Code(str):
    """A line to type."""


class Warn(str):
    """A paragraph that must not be overlooked."""


# A report is a list of sections: a title, and blocks, of which a plain string is a paragraph.
Section = tuple[str, Sequence[str | Code | Warn | Table | Picture]]


# --- renderers ---


def _groups(table: Table) -> list[tuple[str, int]]:
    """Returns each group of columns and how many it spans."""
    grouped = itertools.groupby(group for group, _ in table.columns)
    return [(group, len(list(members))) for group, members in grouped]


def to_terminal(table: Table) -> str:
    """Renders a table for a fixed-width font."""
    groups, names = zip(*table.columns, strict=True)
    rows = [[one_line(cell) for cell in row] for row in table.rows]
    return text_table(names, rows, groups=groups, left=())


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
                case _:  # which is no list, though it begins with a number and a dot
                    text = plain_markdown(block).strip()
                    parts.append(re.sub(r"^(\d*)(?=[-+=.)])", r"\1\\", text))
    return "\n\n".join(parts) + "\n"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{generator}
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


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Renders a report as one page that needs no other file, network or script."""

    def plain(text):
        return html.escape(one_line(text))

    def row(cells, tag="td"):
        return f"<tr>{''.join(f'<{tag}>{plain(cell)}</{tag}>' for cell in cells)}</tr>"

    parts = []
    for heading, blocks in sections:
        parts.append(f"<h2>{plain(heading)}</h2>")
        for block in blocks:
            match block:
                case Picture(name, caption, svg):
                    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
                    image = f'<div><img src="{source}" alt="{plain(name)}"></div>'
                    caption = f"<figcaption>{plain(caption)}</figcaption>"
                    parts.append(f"<figure>{image}{caption}</figure>")
                case Table(columns, rows):
                    spans = "".join(
                        f'<th colspan="{span}">{plain(group)}</th>'
                        for group, span in _groups(block)
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
    body = "\n".join(parts)
    return PAGE.format(title=plain(title), generator=_GENERATOR, body=body)


# --- files ---


def check_output(output: str | os.PathLike, of_run: bool = False) -> Path:
    """Refuses a directory in which a report would replace what this command did not make.

    Args:
        output: The directory.
        of_run: Whether the other files of a run go there too.

    Raises:
        UserError: It holds a run or another report, is a file, or an address.
    """
    path = disk.local_path(os.fspath(output), "--output")
    report = ("report.html", "report.md", "figures")
    try:
        there = {name for name in (*workdirs.FILES, *workdirs.FOLDERS) if _lies(path / name)}
        ours = "report.html" in there and _is_ours(path / "report.html")
        if _lies(path) and not path.is_dir():
            problem = "is a file"
        elif "config.json" in there:
            problem = "holds a run"
        elif others := sorted(there.difference(report)) if of_run else []:
            problem = f"holds {', '.join(others)}, which would be replaced"
        elif there.intersection(report) and not ours:
            problem = "holds a report that this command did not make"
        else:
            return path
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        problem = f"cannot be looked at ({getattr(error, 'strerror', None) or error})"
    raise UserError(f"--output={path}: {problem}; expected a directory without; choose another")


def _lies(path: Path) -> bool:
    """Says whether there is anything by a name, be it a link to nowhere."""
    try:
        return bool(path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_ours(page: Path) -> bool:
    try:
        with run_files.opened(page) as file:
            return _GENERATOR.encode() in file.read(4096)
    except run_files.BadFileError:
        return False


def save_figures(
    folder: Path, drawn: Mapping[str, Callable[[], Any]]
) -> list[Picture | Warn | str]:
    """Draws figures, each a function by its name, and saves them as PNG and SVG.

    What a run found does not hang on them: one that fails, or has nothing to show, is a line in
    place of the picture. Of one that fails a warning is printed too.
    """
    shown: list[Picture | Warn | str] = []
    for name, draw in drawn.items():
        paths = [folder / "figures" / f"{name}.{kind}" for kind in ("png", "svg")]
        try:
            *contents, caption = _draw(draw)
        except UserError:  # a damaged file, which is no matter of figures
            raise
        except Exception as error:  # of ours, of matplotlib, its fonts, its settings
            shown.append(_why_missing(name, error))
            with contextlib.suppress(OSError):
                for path in paths:  # of an older report
                    path.unlink(missing_ok=True)
            continue
        with writing(folder / "figures"):
            (folder / "figures").mkdir(parents=True, exist_ok=True)
            for path, content in zip(paths, contents, strict=True):
                disk.write_bytes(path, content)
        shown.append(Picture(name, caption, contents[1]))
    return shown


def _why_missing(name: str, error: Exception) -> Warn | str:
    """Returns the line in place of a figure; if it failed, that is printed as well."""
    if isinstance(error, canvas.NothingToDrawError):
        return f"There is no figure {name}: {one_line(str(error))}."
    said = error_line(error, 200)
    missing = Warn(f"The figure {name} is missing, since it cannot be drawn ({said}).")
    print(f"warning: {missing[0].lower()}{missing[1:]}", file=sys.stderr, flush=True)
    return missing


def _draw(draw: Callable[[], Any]) -> tuple[bytes, bytes, str]:
    """Returns a figure as PNG and as SVG, and its caption."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's backend may be missing here, and none is needed
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # Reset first: whatever the user's own matplotlibrc says.
    with style.context(canvas.STYLE, after_reset=True):
        figure, caption = draw()
        png, svg = io.BytesIO(), io.BytesIO()
        # As figure.savefig does, but that draws everything twice and lays it out each time.
        FigureCanvasAgg(figure).print_png(png)
        figure.set_layout_engine("none")
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return png.getvalue(), svg.getvalue(), caption


def write(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """Writes report.md and report.html, and makes the folder if there is none."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        disk.write_text(folder / "report.md", to_markdown(title, sections))
        disk.write_text(folder / "report.html", to_html(title, sections))


class UnwritableError(UserError):
    """A report cannot be written."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says in one line why something in a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(
            f"{error.filename or folder} cannot be written ({error.strerror}); make the run's"
            " directory writable, or name another by python -m mnist_jax.report DIR --output=DIR"
        ) from None


def to_print(title: str, table: Table, said: Sequence[str], folder: Path | None = None) -> str:
    """Returns what a terminal shows of a report: title, table, paragraphs, where it lies."""
    paragraphs = "\n".join(textwrap.fill(one_line(paragraph), 100) for paragraph in said)
    parts = [title, to_terminal(table), paragraphs]
    if folder:
        parts.append(
            f"Report: {one_line(str(folder / 'report.html'))} (also report.md and figures/ there)"
        )
    return "\n\n".join(parts)


# --- for the studies in experiments/ ---


def commit_of(provenance: Row) -> str:
    """Shortens the recorded commit, and says where the checkout had changes of its own."""
    commit, *changed = str(provenance["commit"]).partition("-")
    return commit[:12] + "".join(changed)


def record(runs: Sequence[Run]) -> str:
    """Lists what made the numbers of a study, as Markdown.

    Args:
        runs: At least one; machine, versions and data are those of the last.
    """
    rows, made = [], runs[-1].summary["provenance"]
    for each in (run.summary["provenance"] for run in runs):
        seconds = [f"{each['seconds'][phase]:.0f}" for phase in ("compile", "train")]
        rows.append([f"`{each['command']}`", commit_of(each), *seconds])
    devices, versions = made["devices"], made["versions"]
    machine = (
        f"Machine: {devices['cores']} cores of {made['machine']}; {devices['count']} "
        f"{devices['platform']} devices, matmul precision {devices['matmul_precision']}. Versions: "
        + ", ".join(f"{package} {version}" for package, version in versions.items())
        + f". Data: {made['data_checksum']}."
    )
    return f"{markdown_table(['command', 'commit', 'compile, s', 'train, s'], rows)}\n\n{machine}"


def fill_in(path: Path, sections: Mapping[str, str]) -> None:
    """Replaces what stands between `<!-- NAME -->` and `<!-- end NAME -->` in a Markdown file."""
    text = path.read_text(encoding="utf-8")
    for name, section in sections.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}\n{section}\n{end}{after}"
    disk.write_text(path, text)
