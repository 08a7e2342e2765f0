"""What a terminal shows of a report: a title, a table, a short verdict, in lines of 80 columns."""

import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

from mnist_jax.report import tables
from mnist_jax.report.points import MAX_POINTS, NamedPoint, shown_points
from mnist_jax.report.tables import Table
from mnist_jax.runs.labels import label, varying
from mnist_jax.runs.results import Run, protocol
from mnist_jax.text import one_line, text_table

WIDTH = 80
MAX_WRAPPED = 8  # points whose names are wrapped
MAX_LINES = 5  # of a verdict


def to_terminal(
    title: str,
    table: str,
    verdict: str,
    *,
    cautions: Sequence[str] = (),
    folder: Path | None = None,
) -> str:
    """Returns what a terminal shows of a report.

    Args:
        title: Of several lines, where they break at "; ".
        table: As `results` or `runs` lays it out.
        verdict: Cut to a few lines.
        cautions: What must be read whole.
        folder: Where the report is; it has none if it could not be written.
    """
    rest = " ... (the report has the rest)" if folder else " ..."
    parts = [
        title if len(title) <= WIDTH else title.replace("; ", "\n", 1),
        table,
        *(textwrap.fill(one_line(text), WIDTH) for text in cautions),
        textwrap.fill(one_line(verdict), WIDTH, max_lines=MAX_LINES, placeholder=rest),
    ]
    if folder:
        parts.append(f"Report: {one_line(str(folder / 'report.html'))}")
    return "\n\n".join(parts)


def results(run: Run) -> str:
    """Lays out the results of a run's grid points; says what is left out for want of room."""
    axes, points = varying(run.summary["grid"]), shown_points(run)
    text, notes = _lay_out(tables.results_table(run)), []
    if not _fits(text):
        brief = _without_empty(tables.brief_results_table(run))
        text = _lay_out(brief)
        notes.append("The report has more columns.")
    if not _fits(text):  # the names of points in one column, which may be wrapped
        points, rest = points[:MAX_WRAPPED], slice(len(axes), None)
        columns = [*brief.columns[rest], ("", "grid point")]
        rows = [[*row[rest], label(x, axes)] for row, x in zip(brief.rows, points, strict=False)]
        text = _lay_out(Table(columns, rows), left=[len(columns) - 1])
    if len(points) < (num_points := len(run.summary["grid"])):
        which = "best" if protocol(run).criterion else "first"
        notes.append(
            f"These are the {which} {len(points)} of {num_points} grid points; the report has"
            f" {min(num_points, MAX_POINTS)}, summary.json all."
        )
    return "\n".join([text, *notes])


def _without_empty(table: Table) -> Table:
    """Returns a table without the columns that have nothing but dashes."""
    kept = [i for i, cells in enumerate(zip(*table.rows, strict=True)) if {*cells} != {"—"}]
    columns = [table.columns[i] for i in kept]
    return Table(columns, [[row[i] for i in kept] for row in table.rows])


def runs(points: Sequence[NamedPoint]) -> str:
    """Lays out the results of several runs; what all have in common stands below."""
    table = tables.runs_table(points)
    text = _lay_out(table)
    if _fits(text):
        return text
    columns = list(zip(*table.rows, strict=True))
    common = [i for i in range(1, 5) if len(set(columns[i])) == 1]
    kept = [i for i in range(len(columns)) if i not in common]
    few = Table([table.columns[i] for i in kept], [[row[i] for i in kept] for row in table.rows])
    notes = [f"{table.columns[i][1]} ({columns[i][0]})" for i in common]
    text = _lay_out(few, left=range(1 + sum(i in kept for i in range(1, 5))))
    common_words = textwrap.fill(f"All have the same {', '.join(notes)}.", WIDTH)
    return "\n".join([text, *[common_words] * bool(notes)])


def _lay_out(table: Table, left: Collection[int] = ()) -> str:
    groups, names = zip(*table.columns, strict=True)
    rows = [[one_line(cell) for cell in row] for row in table.rows]
    return text_table(names, rows, groups=groups, left=left, width=WIDTH)


def _fits(text: str) -> bool:
    return max(map(len, text.splitlines())) <= WIDTH
