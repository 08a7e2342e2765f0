"""What a terminal shows of a report: a title, a table, a short verdict, in lines of 80 columns."""

import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

from mnist_jax.report import tables
from mnist_jax.report.halving import rungs_of
from mnist_jax.report.points import MAX_POINTS, NamedPoint, shown_points
from mnist_jax.report.tables import Table
from mnist_jax.runs.labels import label, varying
from mnist_jax.runs.results import Run, protocol
from mnist_jax.text import one_line, text_table

WIDTH = 80
MAX_WRAPPED = 8  # points whose names are wrapped
MAX_LINES = 5  # of a verdict


def to_terminal(
    title: str, table: str, verdict: str, *, cautions: Sequence[str] = (), folder: Path | None
) -> str:
    """Returns what a terminal shows of a report; without a folder, it was not written.

    The verdict is cut to a few lines, and cautions are whole; a long title breaks at "; ".
    """
    rest = " ... (the report has the rest)" if folder else " ..."
    parts = [
        title if len(title) <= WIDTH else title.replace("; ", "\n", 1),
        table,
        *(paragraph(text.replace("WARNING", "warning", 1)) for text in cautions),
        textwrap.fill(one_line(verdict), WIDTH, max_lines=MAX_LINES, placeholder=rest),
    ]
    if folder:
        parts.append(f"Report: {one_line(str(folder / 'report.html'))}")
    return "\n\n".join(parts)


def paragraph(text: str) -> str:
    """Lays out a sentence or several."""
    return textwrap.fill(one_line(text), WIDTH)


def results(run: Run) -> str:
    """Lays out the results of a run's grid points, and says what has no room."""
    axes, points = varying(run.summary["grid"]), shown_points(run)
    text, notes = _lay_out(tables.results_table(run)), []
    if not _fits(text):
        brief = tables.results_table(run, brief=True)
        columns = enumerate(zip(*brief.rows, strict=True))
        kept = [i for i, cells in columns if {*cells} != {"—"}]
        brief = brief.select(kept)
        narrow = [(group, name.replace("_", "\n_")) for group, name in brief.columns]
        text = _lay_out(Table(narrow, brief.rows))
        notes.append("The report has more columns.")
        if not _fits(text):  # the names of points share one column of text, so they can be wrapped
            points, start = points[:MAX_WRAPPED], sum(i < len(axes) for i in kept)
            names = [*brief.columns[start:], ("", "grid point")]
            shown = zip(brief.rows, points, strict=False)
            rows = [[*row[start:], label(point, axes)] for row, point in shown]
            text = _lay_out(Table(names, rows), left=[len(names) - 1])
    if len(points) < (num_points := len(run.summary["grid"])):
        which = "best" if protocol(run).criterion and not rungs_of(run) else "first"
        these = f"These are the {which} {len(points)} of {num_points} grid points"
        rest = f"the report has {min(num_points, MAX_POINTS)}"
        notes.append(f"{these}; {rest}{'.' if run.progress else ', summary.json all.'}")
    return "\n".join([text, *notes])


def runs(points: Sequence[NamedPoint]) -> str:
    """Lays out the results of several runs, with what all have in common below."""
    table = tables.runs_table(points)
    text = _lay_out(table)
    if _fits(text):
        return text
    columns = list(zip(*table.rows, strict=True))
    common = [i for i in range(1, 5) if len(set(columns[i])) == 1]
    kept = [i for i in range(len(columns)) if i not in common]
    text = _lay_out(table.select(kept), left=range(5 - len(common)))
    if not common:
        return text
    notes = ", ".join(f"{table.columns[i][1]} ({columns[i][0]})" for i in common)
    return f"{text}\n{textwrap.fill(f'All have the same {notes}.', WIDTH)}"


def _lay_out(table: Table, left: Collection[int] = ()) -> str:
    groups, names = zip(*table.columns, strict=True)
    rows = [[one_line(cell) for cell in row] for row in table.rows]
    return text_table(names, rows, groups=groups, left=left, width=WIDTH)


def _fits(text: str) -> bool:
    return max(map(len, text.splitlines())) <= WIDTH
