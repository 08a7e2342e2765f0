"""Finished runs become figures, tables, Markdown and one self-contained HTML page.

    python -m mnist_jax.report DIR [DIR ...] [--output=DIR]

DIR is the work directory of a finished run. Of one, the report is made anew where it lies; several
are set side by side in a new directory. The shards of one run, which `--shard=i/n` made, are put
together in a new directory as the run that they are. Everything is read from files; nothing is
trained.
"""

import itertools
import math
import os
import shlex
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from mnist_jax import UserError, data, figures, pages, results, shards, stats
from mnist_jax.figures import MAX_POINTS, Line, chosen_words, criterion_words
from mnist_jax.grid import AXES
from mnist_jax.pages import (
    LAST_EPOCH,
    LEVEL,
    Code,
    Pair,
    Picture,
    Section,
    Table,
    Warn,
    interval,
    level_words,
    listed,
    p_value,
    percent,
    sentence,
    shown_points,
    signed,
)
from mnist_jax.results import (
    Row,
    Run,
    by_seed,
    compare_points,
    count,
    count_diverged,
    is_finite,
    label,
    protocol,
    varying,
)

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "output",
    None,
    "Where the report goes; by default the directory of the run, or runs/report/<UTC time> for "
    "several runs, or runs/<name>/<UTC time>_merged for the shards of one.",
)


def write_report(workdir: str | os.PathLike, output: str | os.PathLike | None = None) -> str:
    """Writes report.md, report.html and figures/*.png and *.svg of a finished run.

    Args:
        workdir: Its directory.
        output: Where the report goes; by default there.

    Returns:
        What to print: a header, the table, the verdict, where the report lies.

    Raises:
        UserError: The directory holds no finished run, or the report cannot be written.
    """
    run = read_run(workdir)
    folder = run.workdir if output is None else pages.check_output(output)
    title = name_of(run)
    found = compare_best(run)
    said = [*map(Warn, shards.cautions(run)), *verdict(run, found), chosen_trial(run)]
    pictures = pages.save_figures(folder, figures_of_run(run))
    pages.write(folder, title, make_sections(run, found, said, pictures))
    return pages.to_print(headline(run), pages.results_table(run), said, folder)


def write_comparison(runs: Sequence[Run], output: str | os.PathLike | None = None) -> str:
    """Writes a report that sets several finished runs side by side.

    Args:
        runs: As `read_runs` gives them.
        output: Where the report goes; by default a new directory, runs/report/<UTC time>.

    Returns:
        What to print, as `write_report`.

    Raises:
        UserError: The report cannot be written.
    """
    folder = pages.check_output(output or Path("runs", "report", _now()))
    runs = name_runs(runs)
    lines = name_lines(runs)
    pairs = compare_lines(lines)
    said = comparison_verdict(runs, lines, pairs)
    title = f"{len(runs)} runs side by side"
    pictures = pages.save_figures(folder, figures_of_lines(lines))
    pages.write(folder, title, make_comparison(runs, lines, pairs, said, pictures))
    return pages.to_print(title, pages.lines_table(lines), said, folder)


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
    folder = pages.check_output(output or Path("runs", name, f"{_now()}_merged"))
    with pages.writing(folder):
        shards.merge(runs, folder, data_dir)
    return write_report(folder)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


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
        raise UserError(
            f"{workdir} cannot be read as a run: its files are damaged, or another version wrote"
            " them; repeat the run"
        )
    return run


def _is_whole(run: Run) -> bool:
    """Says whether a run has all that a report reads of it, or raises what a gap in it raises."""
    summary, rows, p = run.summary, run.results, protocol(run)
    measured = {p.column, p.criterion or p.column, *(column[2] for column in LAST_EPOCH)}
    for point in summary["grid"]:
        label(point, AXES)
        for column in measured:
            figures.mean_interval(point, column)
            [point["statistics"][column][name] for name in ("n", "std_ddof0", "min", "max")]
    shards.shard_of(run.config)
    named = {"trial", "point", "seed", "num_epochs", "diverged_epoch", p.column}
    named |= {f"best_{p.held_out}_epoch"} if p.choose_epoch else set()
    numbers = [row[column] for row in rows for column in named]
    sizes = {point["point"]: point["num_trials"] for point in summary["grid"]}
    lost = sum(len(point["diverged_seeds"]) for point in summary["grid"])
    return (
        all(isinstance(value, int | float) for value in numbers)
        and 0 < len(rows) == sum(sizes.values())
        and {row["point"] for row in rows} == sizes.keys()
        and count_diverged(rows) == lost
        and summary["chosen_trial"] in {row["trial"] for row in rows}
        and summary["chosen_point"] in {None, *sizes}
        and summary["dataset"] in data.CLASS_NAMES
        and {"command", "data_checksum"} <= summary["provenance"].keys()
        and is_finite(summary["provenance"]["seconds"]["train"])
        and {"name", "grid"} <= run.config.keys()
    )


def read_chosen_trial(run: Run) -> dict[str, np.ndarray]:
    """Reads the arrays of `results.write_chosen_trial`.

    Raises:
        UserError: They are missing or damaged.
    """
    needed = ("labels", "probabilities", "mistakes", "mistake_images")
    try:
        with np.load(run.workdir / "chosen_trial.npz") as file:
            return {name: file[name] for name in (*needed, *file)}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise figures.unreadable(run, "chosen_trial.npz", error) from None


def figures_of_run(run: Run) -> dict[str, Callable[[], Any]]:
    """Returns what draws the figures of a run, by name of the file."""
    p, grid, axes = protocol(run), run.summary["grid"], varying(run.summary["grid"])
    drawn: dict[str, Callable[[], Any]] = {"accuracy_curves": partial(figures.draw_curves, run)}
    sizes = [len({point[axis] for point in grid}) for axis in axes]
    if axes and run.config["grid"] in ("random", "halton"):
        drawn["search"] = partial(figures.draw_search, run)
    elif len(grid) == math.prod(sizes):
        for axis in axes:
            drawn[f"accuracy_vs_{axis}"] = partial(figures.draw_axis, run, axis)
        if len(axes) == 2:
            drawn["heat_map"] = partial(figures.draw_heat_map, run)
    if len(axes) > 1:
        lines = [Line(label(point, axes), run, point) for point in shown_points(run)]
        which = ("the best " if p.criterion else "the first ") * (len(lines) < len(grid))
        title = f"{run.summary['dataset']}: {p.measure} of {which}{len(lines)} grid points"
        drawn["accuracy_by_point"] = partial(figures.draw_points, lines, f"{title} ({p.words})")
    if "chosen_trial_missing" in run.summary:
        return drawn
    chosen = read_chosen_trial(run)
    if np.isfinite(chosen["probabilities"]).all():
        drawn["classes"] = partial(figures.draw_classes, run, chosen)
        if len(chosen["mistakes"]):
            drawn["mistakes"] = partial(figures.draw_mistakes, run, chosen)
        drawn["first_layer"] = partial(figures.draw_weights, run, chosen)
    return drawn


def figures_of_lines(lines: Sequence[Line]) -> dict[str, Callable[[], Any]]:
    """Returns what draws the figures of several runs, by name of the file."""
    datasets = " and ".join(dict.fromkeys(line.run.summary["dataset"] for line in lines))
    words = list(dict.fromkeys(protocol(line.run).words for line in lines))
    how = words[0] if len(words) == 1 else "protocols differ: beware"
    points = partial(figures.draw_points, lines, f"{datasets}: test accuracy of the runs ({how})")
    curves = partial(figures.draw_overlay, lines, f"{datasets}: accuracy by epoch ({how})")
    return {"accuracy_by_run": points, "accuracy_curves": curves}


# --- what a run says ---


class Found(NamedTuple):
    """The best grid point of a run, or the first where nothing was chosen, against those after it.

    Attributes:
        point: The point.
        others: Each other one, with what `results.compare_points` returns of it.
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
    return f"{run.config['name']} on {run.summary['dataset']}{shard}"


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
    if not judged:
        few = "one seed" if found.point["num_trials"] == 1 else "fewer than two sound trials"
        return (
            f"With {few} at a point, the scatter between seeds is not known, so differences between"
            " grid points cannot be judged."
        )
    tied = [label(point, axes) for point, test in judged if test["p_holm"] >= LEVEL]
    differing = [
        f"{label(point, axes)} (by {signed(test['difference'])} points)"
        for point, test in judged
        if test["p_holm"] < LEVEL
    ]
    others = "other point"
    if len(found.others) < len(grid) - 1:
        others = f"of the {len(found.others)} next{' best' * bool(protocol(run).criterion)} points"
    said = f"It cannot be told apart from {listed(tied)}. It differs from {listed(differing)}"
    if not differing:
        said = f"It cannot be told apart from any {others}"
    elif not tied:
        said = f"It differs from every {others}: {listed(differing)}"
    family = len(grid) * (len(grid) - 1) // 2
    said += f". {level_words(family, 'pairs of points')}."
    if unjudged := len(found.others) - len(judged):
        said += f" {count(unjudged, 'point')} cannot be judged, with fewer than two sound trials."
    n = found.point["num_trials"]
    if scatter := [test["std"] for _, test in judged if test["paired"] and test["n"] == n]:
        std = float(np.median(scatter))
        alone, corrected = (
            stats.minimum_difference(std, n, level=LEVEL / tests) for tests in (1, family)
        )
        said += f" {n} seeds are likely (four times in five) to show a difference of"
        said += f" {percent(alone)} points between two points that are compared alone"
        if family > 1:
            said += f", of {percent(corrected) if corrected < 0.1 else 'more than 10'} points with"
            said += " that correction"
        said += "."
    return said


def diverged(run: Run) -> list[str]:
    """Says which trials diverged, in a paragraph if any did."""
    lost, axes = count_diverged(run.results), varying(run.summary["grid"])
    names = [
        f"{label(point, axes)} (seeds {', '.join(map(str, seeds))})".strip()
        for point in run.summary["grid"]
        if (seeds := point["diverged_seeds"])
    ]
    said = f"Of {count(len(run.results), 'trial')}, {lost} diverged and are left out of every mean"
    return [f"{said}: {listed(names)}."] * bool(lost)


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
    run: Run, found: Found, said: Sequence[str], pictures: Sequence[Picture]
) -> list[Section]:
    """Returns what report.md and report.html say of a run."""
    p, grid = protocol(run), run.summary["grid"]
    provenance = dict(run.summary["provenance"])
    command, seconds = Code(provenance.pop("command")), provenance.pop("seconds")
    commands = ["To repeat it, with a --workdir that holds no run:", command]
    clock = "Wall-clock time; training includes scoring the held-out images after each epoch."
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
    meaning = (
        f"{p.note} Statistics are over the n trials of a grid point that did not diverge; the"
        " interval is that of the mean (Student), sd the standard deviation of the population"
        " (ddof=0), as in the notebook."
    )
    if len(grid) > 1:
        order = f"from best to worst by mean {criterion_words(p)}" if p.criterion else "in order"
        meaning += f" Grid points are listed {order}."
    if len(grid) > MAX_POINTS:
        meaning += f" Of {len(grid)} the first {MAX_POINTS} are here; all are in summary.json, and"
        meaning += " every trial in results.csv."
    last = (
        "Means after the last epoch. The loss is cross-entropy in nats an image, the objective adds"
        " the L2 penalty. Training accuracy and loss are running means over the epoch."
    )
    tested = (
        f"{label(found.point, varying(grid))} less each of the others: {p.measure} ({p.words})."
        " Intervals are Student's and uncorrected; Holm's correction is for every pair of the"
        f" {len(grid)} points."
    )
    judged = any(is_finite(test["p"]) for _, test in found.others)
    compared: list[Section] = [("Comparisons", [pages.comparison_table(run, found.others), tested])]
    return [
        ("What was run", [f"{headline(run)}.", *commands]),
        ("Verdict", said),
        ("Results", [pages.results_table(run), meaning, pages.last_epoch_table(run), last]),
        *(compared if judged else []),
        ("Figures", pictures),
        ("Timing", [clock, Table([("", "phase"), ("", "seconds")], timing)]),
        ("Provenance", [pages.key_values(provenance)]),
        ("Config", [pages.key_values(run.config)]),
    ]


# --- what several runs say ---


def name_runs(runs: Sequence[Run]) -> list[Run]:
    """Returns runs whose names differ: where their configs' do not, with folder or path."""
    plain = [run.config["name"] for run in runs]
    folders = [f"{run.config['name']} ({run.workdir.resolve().name})" for run in runs]
    paths = [str(run.workdir) for run in runs]
    names = next((x for x in (plain, folders) if len(set(x)) == len(x)), paths)
    return [
        run._replace(config=run.config | {"name": name})
        for run, name in zip(runs, names, strict=True)
    ]


def name_lines(runs: Sequence[Run]) -> list[Line]:
    """Returns the chosen point of each run; where nothing was chosen, the first ones."""
    lines = []
    for run in runs:
        num_points = 1 if protocol(run).criterion else _most_points(runs)
        for point in shown_points(run)[:num_points]:
            names = run.config["name"], label(point, varying(run.summary["grid"]))
            lines.append(Line(": ".join(filter(None, names)), run, point))
    return lines


def _most_points(runs: Sequence[Run]) -> int:
    return max(1, MAX_POINTS // len(runs))


def compare_lines(lines: Sequence[Line]) -> list[Pair]:
    """Tests the difference of every two lines of different runs, corrected for their number."""
    values = [by_seed(run, point, protocol(run).column) for _, run, point in lines]
    pairs = [
        Pair(a, b, stats.compare(values[i], values[j])._asdict(), beware(a.run, b.run))
        for (i, a), (j, b) in itertools.combinations(enumerate(lines), 2)
        if a.run is not b.run
    ]
    for pair, p in zip(pairs, stats.holm([pair.test["p"] for pair in pairs]), strict=True):
        pair.test["p_holm"] = float(p)
    return pairs


def beware(first: Run, second: Run) -> str:
    """Says why a difference of two runs is no finding; empty if it may be one."""
    a, b = first.summary, second.summary
    reasons = []
    if a["dataset"] != b["dataset"]:
        reasons.append("data sets differ")
    elif a["provenance"]["data_checksum"] != b["provenance"]["data_checksum"]:
        reasons.append("data files differ")
    if a["protocol"] != b["protocol"]:
        reasons.append("protocols differ")
    return ", ".join(reasons)


def warnings_of(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[Warn]:
    """Returns what makes differences between the runs misleading."""
    said, by_words = [], dict[str, list[str]]()
    for run in runs:
        by_words.setdefault(protocol(run).words, []).append(run.config["name"])
    if len(by_words) > 1:
        each = " ".join(f"{sentence(words)}: {listed(x)}." for words, x in by_words.items())
        said.append(
            f"the runs were scored by different protocols. {each} A number that the test set chose"
            " is biased upwards: a difference between protocols must not be taken for a finding."
        )
    if any("data" in pair.beware for pair in pairs):
        said.append(
            "the runs were not trained and tested on the same data. A difference between data sets"
            " says nothing about networks or recipes."
        )
    sizes = {len(run.summary["grid"]) for run in runs if run.summary["protocol"] == "test"}
    if len(sizes) > 1:
        said.append(
            "the test set chose among different numbers of grid points. The more there are, the"
            " more the best one is biased upwards."
        )
    return [Warn(f"WARNING: {text}") for text in said]


def comparison_verdict(
    runs: Sequence[Run], lines: Sequence[Line], pairs: Sequence[Pair]
) -> list[str]:
    """Says what to beware of, which lines differ, and what diverged."""
    judged = [pair for pair in pairs if not pair.beware and is_finite(pair.test["p_holm"])]
    differing = [
        f"{first.name} less {second.name} is {signed(test['difference'])} points (95 % interval"
        f" {interval((test['low'], test['high']), signed)}, corrected p {p_value(test['p_holm'])})"
        for first, second, test, _ in sorted(judged, key=lambda pair: pair.test["p"])
        if test["p_holm"] < LEVEL
    ]
    level = level_words(len(pairs), "pairs")
    if not judged:
        said = (
            "No difference can be judged: no two of these runs have the same protocol and data, and"
            " two sound trials each."
        )
    elif not differing:
        said = f"No two comparable runs can be told apart. {level}."
    else:
        said = f"Of {count(len(judged), 'comparable pair')}, {len(differing)} can be told apart:"
        said += f" {listed(differing)}. {level}."
    numbers = [line.point["statistics"][protocol(line.run).column]["n"] for line in lines]
    alone = "Of a run with one seed nothing can be said about its uncertainty."
    return [
        *warnings_of(runs, pairs),
        said,
        *[alone] * (1 in numbers),
        *(f"{run.config['name']}: {text}" for run in runs for text in diverged(run)),
    ]


def make_comparison(
    runs: Sequence[Run],
    lines: Sequence[Line],
    pairs: Sequence[Pair],
    said: Sequence[str],
    pictures: Sequence[Picture],
) -> list[Section]:
    """Returns what report.md and report.html say of several runs."""
    paths = [str(run.workdir) for run in runs]
    command = Code(shlex.join(["python", "-m", "mnist_jax.report", *paths]))
    made = [dict(run.summary["provenance"]) for run in runs]
    commands = [
        (f"{run.config['name']}, in {path}:", Code(record.pop("command")))
        for run, path, record in zip(runs, paths, made, strict=True)
    ]
    notes = [f"{sentence(p.words)}. {p.note}" for p in dict.fromkeys(map(protocol, runs))]
    meaning = (
        "Of a run that chose a grid point it is that one, of another each of its points (at most"
        f" {_most_points(runs)}). Means are over the n trials that did not diverge, and have"
        " Student's intervals."
    )
    tests = (
        "Every two lines of different runs. Trials are paired if both have the same seeds, and else"
        " compared by Welch's test. Intervals are Student's and uncorrected; Holm's correction is"
        f" for {count(len(pairs), 'pair')}."
    )
    if len(pairs) > MAX_POINTS:
        tests += (
            f" Here are {MAX_POINTS}, those that may be findings and have the smallest p first."
        )
    configs = [run.config for run in runs]
    names = [config["name"] for config in configs]
    again = "To make this page again:"
    return [
        ("What was compared", [again, command, *itertools.chain(*commands)]),
        ("Verdict", said),
        ("Results", [pages.lines_table(lines), *notes, meaning]),
        ("Comparisons", [pages.pairs_table(pairs), tests]),
        ("Figures", pictures),
        ("Configs, where they differ", [pages.differing(names, configs)]),
        ("Provenance, where it differs", [pages.differing(names, made)]),
    ]


def main(argv: list[str]) -> None:
    """Makes the report of the runs in the directories that the command line names."""
    given = {name for name in FLAGS if FLAGS[name].present}
    for name in ("config", "seed", "workdir", "overwrite", "shard", "distributed"):
        if name in given:  # of mnist_jax.main
            raise UserError(f"--{name}: a report does not know it; see --help")
    if not argv[1:]:
        expected = "one, a finished run's directory, or several"
        raise UserError(f"0 arguments: expected {expected}; see --help")
    runs = read_runs(argv[1:]) if len(argv) > 2 else []
    if any(shards.shard_of(run.config)[1] > 1 for run in runs):
        print(write_merged(runs, FLAGS.output, FLAGS.data_dir if "data_dir" in given else None))
    elif "data_dir" in given:
        raise UserError("--data_dir: only shards are put together with data; leave it out")
    elif runs:
        print(write_comparison(runs, FLAGS.output))
    else:
        print(write_report(argv[1], FLAGS.output))


if __name__ == "__main__":
    from mnist_jax.main import run_command  # knows how bad input ends

    run_command(main)
