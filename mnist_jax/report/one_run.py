"""The report of one run: its figures, its sections, its files."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mnist_jax.report import render, saving, tables
from mnist_jax.report.figures import (
    accuracy_by_point,
    accuracy_vs_axis,
    confusion_matrix,
    curves,
    first_layer,
    heat_map,
    mistakes,
    scales,
    search,
)
from mnist_jax.report.formatting import MAX_POINTS, Line, criterion_words, shown_points
from mnist_jax.report.reading import read_run, with_weights
from mnist_jax.report.render import Code, Picture, Section, Warn
from mnist_jax.report.tables import Table
from mnist_jax.report.verdict import Found, chosen_trial, compare_best, paragraphs
from mnist_jax.runs import shards, workdirs
from mnist_jax.runs.choosing import is_finite
from mnist_jax.runs.labels import count, label, varying
from mnist_jax.runs.results import Run, protocol
from mnist_jax.text import one_line


def write_report(workdir: str | os.PathLike, output: str | os.PathLike | None = None) -> str:
    """Writes report.md, report.html and figures/*.png and *.svg of a finished run.

    Args:
        workdir: Its directory.
        output: Where the report goes; by default there.

    Returns:
        What to print: a header, the table, the verdict, where the report lies.

    Raises:
        UserError: The directory holds no finished run, or, as `saving.UnwritableError`, the report
            cannot be written.
    """
    run, chosen = with_weights(read_run(workdir))
    folder = run.workdir if output is None else saving.check_output(output)
    title = name_of(run)
    found = compare_best(run)
    said = _paragraphs(run, found)
    pictures = saving.save_figures(folder, figures_of_run(run, chosen))
    saving.write(folder, title, make_sections(run, found, said, pictures))
    return render.to_print(headline(run), tables.results_table(run), said, folder)


def describe(workdir: str | os.PathLike) -> str:
    """Returns what `write_report` does, where nothing can be written.

    Raises:
        UserError: The directory holds no finished run.
    """
    run, _ = with_weights(read_run(workdir))
    said = _paragraphs(run, compare_best(run))
    return render.to_print(headline(run), tables.results_table(run), said)


def _paragraphs(run: Run, found: "Found") -> list[str]:
    return [*map(Warn, shards.cautions(run)), *paragraphs(run, found), chosen_trial(run)]


def write_merged(
    runs: Sequence[Run], output: str | os.PathLike | None = None, data_dir: str | None = None
) -> str:
    """Puts the shards of a run together, and writes its report.

    Args:
        runs: The shards, as `read_runs` gives them.
        output: Where the run goes; by default a new directory, runs/<name>/<UTC time>_merged.
        data_dir: As `shards.merge` takes it.

    Returns:
        What to print, as `write_report`.

    Raises:
        UserError: They are not all the shards of one run, or it cannot be written.
    """
    name = runs[0].config["name"]
    folder = saving.check_output(output or workdirs.new_workdir(name, "_merged"), of_run=True)
    with saving.writing(folder):
        shards.merge(runs, folder, data_dir)
    return write_report(folder)


def figures_of_run(
    run: Run, chosen: Mapping[str, np.ndarray] | None = None
) -> dict[str, Callable[[], Any]]:
    """Returns what draws the figures of a run, by name of the file.

    Args:
        run: A finished run.
        chosen: The arrays of its chosen trial, whose figures are left out without them.
    """
    p, grid, axes = protocol(run), run.summary["grid"], varying(run.summary["grid"])
    drawn: dict[str, Callable[[], Any]] = {"accuracy_curves": partial(curves.draw_curves, run)}
    if axes and run.config["grid"] in ("random", "halton"):
        drawn["search"] = partial(search.draw_search, run)
    else:
        crossed = [axis for axis in axes if scales.is_crossed(grid, axis)]
        for axis in crossed:
            drawn[f"accuracy_vs_{axis}"] = partial(accuracy_vs_axis.draw_axis, run, axis)
        if len(axes) == len(crossed) == 2:
            drawn["heat_map"] = partial(heat_map.draw_heat_map, run)
    if len(axes) > 1:
        lines = [Line(label(point, axes), run, point) for point in shown_points(run)]
        which = ("the best " if p.criterion else "the first ") * (len(lines) < len(grid))
        title = f"{run.summary['dataset']}: {p.measure} of {which}{len(lines)} grid points"
        drawn["accuracy_by_point"] = partial(
            accuracy_by_point.draw_points, lines, f"{title} ({p.words})"
        )
    if chosen is not None and np.isfinite(chosen["probabilities"]).all():
        drawn["classes"] = partial(confusion_matrix.draw_classes, run, chosen)
        if len(chosen["mistakes"]):
            drawn["mistakes"] = partial(mistakes.draw_mistakes, run, chosen)
        drawn["first_layer"] = partial(first_layer.draw_weights, run, chosen)
    return drawn


def name_of(run: Run) -> str:
    """Names the experiment and the data set, and the shard if it is not the whole run."""
    number, num_shards = shards.shard_of(run.config)
    shard = f", shard {number} of {num_shards}" if num_shards > 1 else ""
    return f"{one_line(run.config['name'])} on {run.summary['dataset']}{shard}"


def headline(run: Run) -> str:
    """Names the experiment, the data set, the protocol, and how much was run."""
    epochs = sorted({point["num_epochs"] for point in run.summary["grid"]})
    sizes = [count(len(run.summary["grid"]), "grid point"), count(len(run.results), "trial")]
    sizes.append(f"{epochs[0]} to " * (len(epochs) > 1) + count(epochs[-1], "epoch"))
    return f"{name_of(run)}: {protocol(run).words}; {', '.join(sizes)}"


def make_sections(
    run: Run, found: Found, said: Sequence[str], pictures: Sequence[Picture | Warn | str]
) -> list[Section]:
    """Returns what report.md and report.html say of a run."""
    p, grid = protocol(run), run.summary["grid"]
    provenance = dict(run.summary["provenance"])
    command, seconds = Code(provenance.pop("command")), provenance.pop("seconds")
    commands = ["To repeat it, with a --workdir that holds no run:", command]
    clock = (
        "Wall-clock time; training includes scoring the held-out images after each epoch. Of a run"
        " that was interrupted, it is that of all its processes, as far as they came to note it."
    )
    if "shards" in provenance:
        parts = {key: dict(record) for key, record in provenance["shards"].items()}
        commands = [
            f"To repeat its {len(parts)} shards, each with a --workdir that holds no run:",
            *(Code(record.pop("command")) for record in parts.values()),
            "To put them together:",
            command,
        ]
        provenance["shards"] = parts
        clock += " Added up over the shards."
    each = seconds["train"] / sum(row["num_epochs"] for row in run.results)
    timing = [[phase, f"{value:.2f}"] for phase, value in seconds.items()]
    timing.append(["train, by trial and epoch", f"{each:.4f}"])
    timings = [Table([("", "phase"), ("", "seconds")], timing)]
    if processes := provenance.pop("seconds_by_process", []):
        by_process = [
            [str(i), *(f"{taken.get(phase, 0):.2f}" for phase in seconds)]
            for i, taken in enumerate(processes, start=1)
        ]
        timings.append(Table([("", name) for name in ("process", *seconds)], by_process))
    meaning = (
        f"{p.note} Statistics are over the n trials of a grid point that did not diverge, that is,"
        " whose numbers stayed finite: a network that predicts one class for all images counts. sd"
        " is the standard deviation of the sample (ddof=1). The interval is that of the mean"
        " (Student) over seeds, on these test images: it says nothing of other images. It ends at 0"
        " and 100 %, and the scatter is never taken to be smaller than rounding to whole images"
        " makes it."
    )
    if len(grid) > 1:
        order = f"from best to worst by mean {criterion_words(p)}" if p.criterion else "in order"
        meaning += f" Grid points are listed {order}."
    if len(grid) > MAX_POINTS:
        meaning += f" Of {len(grid)} the first {MAX_POINTS} are here; all are in summary.json, and"
        meaning += " every trial in results.csv."
    last = (
        "Means after the last epoch. The loss is cross-entropy in nats an image, with labels that"
        " are not smoothed; the objective adds the L2 penalty to it, and is what training minimises"
        " where label smoothing is 0. Training accuracy and loss are running means over the epoch."
    )
    tested = (
        f"{label(found.point, varying(grid))} less each of the others: {p.measure} ({p.words})."
        " Intervals are Student's and uncorrected; Holm's correction is for every pair of the"
        f" {len(grid)} points."
    )
    measured: list[Section] = [("Metrics", [tables.metrics_table(run), tables.metrics_words(run)])]
    judged = any(is_finite(test["p"]) for _, test in found.others)
    differences = tables.comparison_table(run, found.others)
    compared: list[Section] = [("Comparisons", [differences, tested])]
    return [
        ("What was run", [f"{headline(run)}.", *commands]),
        ("Verdict", said),
        ("Results", [tables.results_table(run), meaning, tables.last_epoch_table(run), last]),
        *(measured if run.config["metrics"] else []),
        *(compared if judged else []),
        ("Figures", pictures),
        ("Timing", [clock, *timings]),
        ("Provenance", [tables.key_values(provenance)]),
        ("Config", [tables.key_values(run.config)]),
    ]
