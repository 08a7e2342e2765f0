"""The files of a report: where they may go, and how they are written."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_jax import UserError, disk, run_files
from mnist_jax.report.figures import canvas
from mnist_jax.report.render import GENERATOR, Picture, Section, Warn, to_html, to_markdown
from mnist_jax.runs import made_files
from mnist_jax.text import error_line, one_line


def check_output(output: str | os.PathLike, of_run: bool = False) -> Path:
    """Refuses a directory in which a report, or all files of a run, would replace others.

    Raises:
        UserError: It has no name, holds a run or another report, is a file, or an address.
    """
    path = disk.output_folder(os.fspath(output), "--output")
    report = ("report.html", "report.md", "figures")
    try:
        there = {name for name in (*made_files.FILES, *made_files.FOLDERS) if _exists(path / name)}
        is_report = "report.html" in there and _is_report(path / "report.html")
        if _exists(path) and not path.is_dir():
            problem = "is a file"
        elif "config.json" in there:
            problem = "holds a run"
        elif others := sorted(there.difference(report)) if of_run else []:
            problem = f"holds {', '.join(others)}, which would be replaced"
        elif there.intersection(report) and not is_report:
            problem = "holds a report that this command did not make"
        else:
            return path
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        problem = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    raise UserError(f"--output={path}: {problem}; expected a directory without it; choose another")


def _exists(path: Path) -> bool:
    """Says whether a path names anything, even a broken link."""
    try:
        return bool(path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_report(page: Path) -> bool:
    try:
        with run_files.opened(page) as file:
            return GENERATOR.encode() in file.read(4096)
    except run_files.BadFileError:
        return False


def save_figures(folder: Path, drawn: Mapping[str, Callable[[], Any]]) -> list[Picture | str]:
    """Draws figures, each a function by its name, and saves them as PNG and SVG.

    In place of a figure that fails, or has nothing to show, there is a line.
    """
    shown: list[Picture | str] = []
    for name, draw in drawn.items():
        paths = [folder / "figures" / f"{name}.{kind}" for kind in ("png", "svg")]
        found = _try_to_draw(name, draw)
        if isinstance(found, str):
            shown.append(found)
            with contextlib.suppress(OSError):
                for path in paths:  # of an older report
                    path.unlink(missing_ok=True)
            continue
        *contents, caption = found
        with writing(folder / "figures"):
            (folder / "figures").mkdir(parents=True, exist_ok=True)
            for path, content in zip(paths, contents, strict=True):
                disk.write_bytes(path, content)
        shown.append(Picture(name, caption, contents[1]))
    return shown


def draw_figures(drawn: Mapping[str, Callable[[], Any]]) -> list[Picture | str]:
    """Draws figures as `save_figures` does, but saves none: PNGs, which every notebook shows."""
    shown: list[Picture | str] = []
    for name, draw in drawn.items():
        found = _try_to_draw(name, draw)
        shown.append(found if isinstance(found, str) else Picture(name, found[2], found[0], "png"))
    return shown


def _try_to_draw(name: str, draw: Callable[[], Any]) -> tuple[bytes, bytes, str] | str:
    """Returns what `_draw` does, or the line in place of a figure that cannot be drawn."""
    try:
        return _draw(draw)
    except UserError:  # a damaged file
        raise
    except Exception as error:  # from matplotlib, its fonts, its settings
        return _why_missing(name, error)


def _why_missing(name: str, error: Exception) -> str:
    """Returns the line in place of a figure, and warns if it failed."""
    if isinstance(error, canvas.NothingToDrawError):
        return f"There is no figure {name}: {one_line(str(error))}."
    reason = error_line(error, 200)
    missing = Warn(f"The figure {name} is missing, since it cannot be drawn ({reason}).")
    print(f"warning: {missing[0].lower()}{missing[1:]}", file=sys.stderr, flush=True)
    return missing


def _draw(draw: Callable[[], Any]) -> tuple[bytes, bytes, str]:
    """Returns a figure as PNG and as SVG, and its caption."""
    with canvas.drawing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        figure, caption = draw()
        png, svg = io.BytesIO(), io.BytesIO()
        # As figure.savefig does, but that draws everything twice and lays it out each time.
        FigureCanvasAgg(figure).print_png(png)
        figure.set_layout_engine("none")
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    return png.getvalue(), svg.getvalue(), caption


def write(folder: Path, title: str, sections: Sequence[Section], reload: int = 0) -> None:
    """Writes report.md and report.html, which loads itself again after `reload` seconds if any."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        disk.write_text(folder / "report.md", to_markdown(title, sections))
        disk.write_text(folder / "report.html", to_html(title, sections, reload))


class UnwritableError(UserError):
    """A report cannot be written."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says in one line why something in a folder cannot be written."""
    try:
        yield
    except OSError as error:
        cure = "make the run's directory writable, or name another by"
        command = "python -m mnist_jax.report DIR --output=DIR"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cure, command = "free space, then", "python -m mnist_jax.report DIR"
        raise UnwritableError(
            f"{error.filename or folder} cannot be written ({error.strerror}); {cure} {command}"
        ) from None
