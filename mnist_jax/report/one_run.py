"""What a finished run says: its verdict, its figures and its report."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_jax import UserError, stats
from mnist_jax.config.experiment import MAX_TRIALS
from mnist_jax.data import datasets
from mnist_jax.report import (
    epoch_figures,
    grid_figures,
    render,
    tables,
    trial_figures,
)
from mnist_jax.report.canvas import MAX_POINTS, Line, criterion_words
from mnist_jax.report.render import Code, Picture, Section, Warn
from mnist_jax.report.tables import (
    LEVEL,
    Table,
    diverged,
    interval,
    level_words,
    listed,
    percent,
    sentence,
    shown_points,
    signed,
)
from mnist_jax.report.trial_figures import chosen_words
from mnist_jax.run_files import BadFileError
from mnist_jax.runs import results, shards, workdirs
from mnist_jax.runs.choosing import count_diverged, is_finite
from mnist_jax.runs.chosen_trial import read_chosen_trial as read_arrays
from mnist_jax.runs.comparing import compare_points
from mnist_jax.runs.labels import count, label, varying
from mnist_jax.runs.records import Row, columns_of
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
        UserError: The directory holds no finished run, or, as `render.UnwritableError`, the report
            cannot be written.
    """
    run, chosen = with_weights(read_run(workdir))
    folder = run.workdir if output is None else render.check_output(output)
    title = name_of(run)
    found = compare_best(run)
    said = _paragraphs(run, found)
    pictures = render.save_figures(folder, figures_of_run(run, chosen))
    render.write(folder, title, make_sections(run, found, said, pictures))
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
    return [*map(Warn, shards.cautions(run)), *verdict(run, found), chosen_trial(run)]


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
    folder = render.check_output(output or workdirs.new_workdir(name, "_merged"), of_run=True)
    with render.writing(folder):
        shards.merge(runs, folder, data_dir)
    return write_report(folder)


def read_runs(workdirs: Sequence[str | os.PathLike]) -> list[Run]:
    """Reads finished runs.

    Raises:
        UserError: As `read_run`, or a directory is named twice.
    """
    paths = [Path(workdir).resolve() for workdir in workdirs]
    for path, workdir in zip(paths, workdirs, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{workdir}: named twice; expected different runs, name each once")
    return [read_run(workdir) for workdir in workdirs]


def read_run(workdir: str | os.PathLike) -> Run:
    """Reads a finished run, and checks that a report can be made of it.

    Raises:
        UserError: It is not finished, damaged, or not of this version.
    """
    try:
        run = results.read_run(workdir)
        whole = _is_whole(run)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise workdirs.damaged(workdir, "its files are damaged, or another version wrote them")
    path, num_rows = run.workdir / "metrics.jsonl", sum(row["num_epochs"] for row in run.results)
    if path.stat().st_size < 20 * num_rows:  # bytes; a row has more
        error = BadFileError(path, "some epochs of some trials are missing")
        raise results.unreadable(run.workdir, error)
    return run


def _is_whole(run: Run) -> bool:
    """Says whether a run has all that a report reads of it, or raises what a gap in it raises."""
    summary, rows = run.summary, run.results
    varying(summary["grid"])
    shards.cautions(run)
    number, num_shards = shards.shard_of(run.config)
    sound = [row for row in rows if not row["diverged_epoch"]]
    axes = {point["point"]: [str(point[axis]) for axis in run.axes] for point in summary["grid"]}
    kinds = columns_of(summary["protocol"], ())  # without metrics of one's own, which may be any
    columns = [column for column, kind in kinds.items() if kind is float]
    shares = [column for column in columns if "accuracy" in column]
    return (
        0 <= number < num_shards <= MAX_TRIALS
        and run.config.get("dataset", summary["dataset"]) == summary["dataset"]
        and all([str(row[axis]) for axis in run.axes] == axes[row["point"]] for row in rows)
        and all(row["num_epochs"] > 0 for row in rows)
        and len({row["trial"] for row in rows}) == len(rows)
        and len({(row["point"], row["seed"]) for row in rows}) == len(rows)
        and all(is_finite(row[column]) for row in sound for column in columns)
        and all(0 <= row[column] <= 1 for row in sound for column in shares)
        and {row["dataset"] for row in rows} == {summary["dataset"]} <= datasets.CLASS_NAMES.keys()
    )


def read_chosen_trial(run: Run) -> dict[str, np.ndarray]:
    """Reads the arrays of `write_chosen_trial`.

    Raises:
        BadFileError: They are missing or damaged, or not of the run's chosen trial.
    """
    chosen = read_arrays(run.workdir)
    classes, trial = len(datasets.CLASS_NAMES[run.summary["dataset"]]), run.summary["chosen_trial"]
    if chosen["probabilities"].shape[1] != classes or chosen["trial"] != trial:
        said = f"it is not of trial {trial}, which was chosen"
        raise BadFileError(run.workdir / "chosen_trial.npz", said)
    return chosen


def with_weights(run: Run) -> tuple[Run, dict[str, np.ndarray] | None]:
    """Returns a run and the arrays of its chosen trial; without them it says why there are none."""
    if "chosen_trial_missing" in run.summary:
        return run, None
    try:
        return run, read_chosen_trial(run)
    except BadFileError as error:  # which is for show: the results are in other files
        missing = {"chosen_trial_missing": str(error)}
        return run._replace(summary=run.summary | missing), None


def figures_of_run(
    run: Run, chosen: Mapping[str, np.ndarray] | None = None
) -> dict[str, Callable[[], Any]]:
    """Returns what draws the figures of a run, by name of the file.

    Args:
        run: A finished run.
        chosen: The arrays of its chosen trial, whose figures are left out without them.
    """
    p, grid, axes = protocol(run), run.summary["grid"], varying(run.summary["grid"])
    drawn: dict[str, Callable[[], Any]] = {
        "accuracy_curves": partial(epoch_figures.draw_curves, run)
    }
    if axes and run.config["grid"] in ("random", "halton"):
        drawn["search"] = partial(grid_figures.draw_search, run)
    else:
        crossed = [axis for axis in axes if grid_figures.is_crossed(grid, axis)]
        for axis in crossed:
            drawn[f"accuracy_vs_{axis}"] = partial(grid_figures.draw_axis, run, axis)
        if len(axes) == len(crossed) == 2:
            drawn["heat_map"] = partial(grid_figures.draw_heat_map, run)
    if len(axes) > 1:
        lines = [Line(label(point, axes), run, point) for point in shown_points(run)]
        which = ("the best " if p.criterion else "the first ") * (len(lines) < len(grid))
        title = f"{run.summary['dataset']}: {p.measure} of {which}{len(lines)} grid points"
        drawn["accuracy_by_point"] = partial(
            grid_figures.draw_points, lines, f"{title} ({p.words})"
        )
    if chosen is not None and np.isfinite(chosen["probabilities"]).all():
        drawn["classes"] = partial(trial_figures.draw_classes, run, chosen)
        if len(chosen["mistakes"]):
            drawn["mistakes"] = partial(trial_figures.draw_mistakes, run, chosen)
        drawn["first_layer"] = partial(trial_figures.draw_weights, run, chosen)
    return drawn


class Found(NamedTuple):
    """The best grid point of a run, or the first where nothing was chosen, against those after it.

    Attributes:
        point: The point.
        others: Each other one, with what `comparing.compare_points` returns of it.
    """

    point: Row
    others: Sequence[tuple[Row, Row]]


def compare_best(run: Run) -> Found:
    """Compares the first of the points that are shown with the others."""
    point, *others = shown_points(run)
    numbers = {point["point"], *(other["point"] for other in others)}
    few = run._replace(results=[row for row in run.results if row["point"] in numbers])
    return Found(point, list(zip(others, compare_points(few, point, others), strict=True)))


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


def verdict(run: Run, found: Found) -> list[str]:
    """Says, in a paragraph each: the result, what it can be told apart from, what diverged."""
    p, grid, point = protocol(run), run.summary["grid"], found.point
    accuracy = f"{'mean ' * (point['num_trials'] > 1)}{p.measure} ({p.words})"
    accuracy += f": {accuracy_words(run, point)}."
    name = label(point, varying(grid))
    if count_diverged(run.results) == len(run.results):
        return ["Every trial diverged, so there is no result.", *diverged(run)]
    if len(grid) == 1:
        return [sentence(accuracy), *diverged(run)]
    chosen = (
        "Nothing was chosen, so none of the grid points is named the best: they stand in their"
        f" order, and the first, {name}, is compared with the others. Its {accuracy}"
    )
    if p.criterion:
        by = f"{'mean ' * (point['num_trials'] > 1)}{criterion_words(p)}"
        chosen = f"Best of {len(grid)} grid points by {by}: {name}. Its {accuracy}"
    return [chosen, apart(run, found), *diverged(run)]


def accuracy_words(run: Run, point: Row) -> str:
    """Says the test accuracy of a point, and how sure it is."""
    found = point["statistics"][protocol(run).column]
    if not found["n"]:
        return "not known, since every trial diverged"
    said = f"{percent(found['mean'])} %"
    if found["n"] == 1:
        return f"{said} of one trial. With one seed nothing can be said about its uncertainty"
    ends = interval(found["interval_95"])
    return f"{said}, 95 % interval {ends} (Student, n = {found['n']} seeds)"


def apart(run: Run, found: Found) -> str:
    """Says which grid points can be told apart from one, and which difference could be shown."""
    grid, axes = run.summary["grid"], varying(run.summary["grid"])
    judged = [(point, test) for point, test in found.others if is_finite(test["p_holm"])]
    same = [label(point, axes) for point, test in found.others if test["identical"]]
    alike = f"It has identical results, trial by trial, to {listed(same)}."
    few = f"fewer than {stats.MIN_SEEDS} sound trials"
    if not judged:
        unknown = (
            f"With {few} at a point, the scatter between seeds is hardly known, so differences"
            " between grid points are not judged."
        )
        return " ".join([alike] * bool(same) + [unknown] * (len(same) < len(found.others)))
    tied = [label(point, axes) for point, test in judged if test["p_holm"] >= LEVEL]
    differing = [
        f"{label(point, axes)} (by {signed(test['difference'])} points)"
        for point, test in judged
        if test["p_holm"] < LEVEL
    ]
    others = "further point" if same else "other point"
    if len(found.others) < len(grid) - 1:
        others = f"of the {len(found.others)} next{' best' * bool(protocol(run).criterion)} points"
    said = f"It cannot be told apart from {listed(tied)}. It differs from {listed(differing)}"
    if not differing:
        said = f"It cannot be told apart from any {others}"
    elif not tied:
        said = f"It differs from every {others}: {listed(differing)}"
    family = len(grid) * (len(grid) - 1) // 2
    said += f". {level_words(family, 'pairs of points')}."
    if same:
        said = f"{alike} {said}"
    if unjudged := len(found.others) - len(judged) - len(same):
        said += f" {count(unjudged, 'point')} cannot be judged, with {few}."
    n = found.point["num_trials"]
    if scatter := [test["std"] for _, test in judged if test["paired"] and test["n"] == n]:
        alone, corrected = (shown_by(scatter, n, LEVEL / tests) for tests in (1, family))
        said += f" {n} seeds are likely (four times in five) to show a difference of {alone} points"
        said += " between two points that are compared alone"
        said += f", of {corrected} points with that correction" * (family > 1)
        said += ", depending on the pair." if "to" in alone.split() else "."
    return said


def shown_by(scatter: Sequence[float], n: int, level: float) -> str:
    """Writes which differences n seeds can show, from the pair that scatters least to the most."""
    reach = (stats.minimum_difference(f(scatter), n, level=level) for f in (min, max))
    texts = [percent(x) if x < 0.1 else "more than 10" for x in reach]
    return " to ".join(dict.fromkeys(texts))


def chosen_trial(run: Run) -> str:
    """Names the trial whose weights are kept, and its score."""
    p = protocol(run)
    row = next(row for row in run.results if row["trial"] == run.summary["chosen_trial"])
    kind = "Chosen trial" if p.criterion else "Trial that is shown (the first; nothing chose it)"
    if row["diverged_epoch"]:
        return f"{kind}: {chosen_words(run)}, which diverged."
    at = f", epoch {row[f'best_{p.held_out}_epoch']}" if p.choose_epoch else ""
    said = f"{kind}: {chosen_words(run)}; {percent(row[p.column])} % {p.measure}{at}."
    if "chosen_trial_missing" in run.summary:
        said += f" Its pictures are left out: {run.summary['chosen_trial_missing']}."
    return said


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
