"""The report of one run: what is read, drawn, written and printed."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax.report import saving, tables, terminal
from mnist_jax.report.figures import (
    accuracy_by_point,
    accuracy_vs_axis,
    confusion_matrix,
    curves,
    first_layer,
    halving,
    heat_map,
    mistakes,
    parallel_coordinates,
    scales,
    search,
)
from mnist_jax.report.halving import rungs_of
from mnist_jax.report.points import (
    MAX_POINTS,
    BestPoint,
    NamedPoint,
    compare_best,
    compared,
    shown_points,
)
from mnist_jax.report.reading import read_so_far, with_weights
from mnist_jax.report.render import Warn, html_body
from mnist_jax.report.sections import headline, make_sections, title_of
from mnist_jax.report.standing import standing
from mnist_jax.report.verdict import missing_pictures, write_verdict
from mnist_jax.runs import pooling, results, shards, workdirs
from mnist_jax.runs.labels import label, varying
from mnist_jax.runs.results import Run, protocol

RELOAD = 10  # seconds after which a page loads itself again while the run goes on


def write_report(workdir: str | os.PathLike, output: str | os.PathLike | None = None) -> str:
    """Writes report.md, report.html and figures/*.png and *.svg of a run, as far as it is.

    They go into its directory, or into `output`. Returns what to print: a title, the table, a short
    verdict, where the report is.

    Raises:
        UserError: The directory holds no run, no epoch of it has ended, or, as
            `saving.UnwritableError`, the report cannot be written.
    """
    run = read_so_far(workdir)
    text = write_run(run, output)
    if run.progress and results.is_finished(workdir):  # whose own report may be older by now
        return write_report(workdir, output)
    return text


def write_run(run: Run, output: str | os.PathLike | None = None) -> str:
    """Does what `write_report` does, of a run that has been read."""
    run, chosen = with_weights(run)
    folder = run.workdir if output is None else saving.check_output(output)
    best = compare_best(run)
    pictures = saving.save_figures(folder, figures_of_run(run, chosen))
    reload = RELOAD if run.progress and run.progress.is_running else 0
    saving.write(folder, title_of(run), make_sections(run, best, pictures), reload)
    return _in_terminal(run, best, folder)


def describe(workdir: str | os.PathLike) -> str:
    """Returns what `write_report` does, but writes nothing."""
    run, _ = with_weights(read_so_far(workdir))
    return _in_terminal(run, compare_best(run))


def in_notebook(run: Run) -> str:
    """Returns a run as HTML for a notebook: headline, verdict, table, figures of all trials."""
    best = compare_best(run)
    warnings = filter(None, [standing(run), *shards.cautions(run)])
    said = [*map(Warn, warnings), f"{headline(run)}.", write_verdict(run, best)]
    pictures = saving.draw_figures(figures_of_run(run))
    return html_body([("", [*said, tables.results_table(run), *pictures])])


def _in_terminal(run: Run, best: BestPoint, folder: Path | None = None) -> str:
    text = terminal.to_terminal(
        headline(run),
        terminal.results(run),
        write_verdict(run, best, brief=True),
        cautions=[*shards.cautions(run), *missing_pictures(run), *tables.lost_metrics(run)],
        folder=folder,
    )
    return "\n\n".join(filter(None, [terminal.paragraph(standing(run)), text]))


def write_merged(
    runs: Sequence[Run], output: str | os.PathLike | None = None, data_dir: str | None = None
) -> str:
    """Merges the shards of a run as `shards.merge` does, and writes its report.

    The run goes to `output`, by default a new directory, runs/<name>/<UTC time>_merged.

    Raises:
        UserError: They are not all the shards of one run, or the run cannot be written.
    """
    if output is None:
        output = workdirs.new_workdir(runs[0].config["name"], "_merged")
    folder = saving.check_output(output, of_run=True)
    with saving.writing(folder):
        shards.merge(runs, folder, data_dir)
    return write_report(folder)


def write_pooled(
    runs: Sequence[Run], output: str | os.PathLike | None = None, data_dir: str | None = None
) -> str:
    """Pools runs as `pooling.pool` does, and writes the report, as `write_merged`.

    By default the run goes to a new directory, runs/<name>/<UTC time>_pooled.
    """
    if output is None:
        output = workdirs.new_workdir(runs[0].config["name"], "_pooled")
    folder = saving.check_output(output, of_run=True)
    with saving.writing(folder):
        pooling.pool(runs, folder, data_dir)
    said = f"{len(runs)} runs that differ in seeds alone are pooled into one in {folder}"
    return f"{said}\n\n{write_report(folder)}"


def figures_of_run(
    run: Run, chosen: Mapping[str, np.ndarray] | None = None
) -> dict[str, Callable[[], Any]]:
    """Returns what draws the figures of a run, by name of the file.

    Without the arrays of the chosen trial, its figures are left out.
    """
    drawn: dict[str, Callable[[], Any]] = {}
    halved, whole = bool(rungs_of(run)), compared(run, with_stopped=True)
    if halved:
        drawn["halving"] = partial(halving.draw_halving, run)
    for what in ("accuracy", "loss"):
        of = compared(run) if halved else run
        drawn[f"{what}_curves"] = partial(curves.draw_curves, of, what)
    run = compared(run)
    p, grid, axes = protocol(run), run.summary["grid"], varying(run.summary["grid"])
    is_search, searched = (
        halved or run.config["grid"] in ("random", "halton"),
        varying(whole.summary["grid"]),
    )
    if len(searched) > 2 and (is_search or len(grid) > MAX_POINTS):
        drawn["parallel_coordinates"] = partial(parallel_coordinates.draw_lines, whole)
    if searched and is_search:
        drawn["search"] = partial(search.draw_search, whole)
    else:
        crossed = [axis for axis in axes if scales.is_crossed(grid, axis)]
        for axis in crossed:
            drawn[f"accuracy_vs_{axis}"] = partial(accuracy_vs_axis.draw_axis, run, axis)
        if len(axes) == len(crossed) == 2:
            drawn["heat_map"] = partial(heat_map.draw_heat_map, run)
    if len(axes) > 1:
        points = [NamedPoint(label(point, axes), run, point) for point in shown_points(run)]
        which = ("the best " if p.criterion else "the first ") * (len(points) < len(grid))
        left = " that were not stopped" * halved
        title = f"{p.measure} of {which}{len(points)} grid points{left} ({p.words})"
        title = f"{run.summary['dataset']}: {title}"
        drawn["accuracy_by_point"] = partial(accuracy_by_point.draw_points, points, title)
    if chosen is not None and np.isfinite(chosen["probabilities"]).all():
        drawn["classes"] = partial(confusion_matrix.draw_classes, run, chosen)
        if len(chosen["mistakes"]):
            drawn["mistakes"] = partial(mistakes.draw_mistakes, run, chosen)
        drawn["first_layer"] = partial(first_layer.draw_weights, run, chosen)
    return drawn
