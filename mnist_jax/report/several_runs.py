"""The report of several finished runs: whether their differences are findings."""

import itertools
import os
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mnist_jax import stats
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.report import saving, tables, terminal
from mnist_jax.report.figures import accuracy_by_point, curves
from mnist_jax.report.formatting import MAX_NAMES, interval, listed, p_value, sentence, signed
from mnist_jax.report.halving import rungs_of, stopped_words
from mnist_jax.report.pairs import Pair, compare_pairs, most_points, name_points, name_runs
from mnist_jax.report.points import MAX_POINTS, NamedPoint, compared
from mnist_jax.report.render import Code, Picture, Section, Warn
from mnist_jax.report.sections import repeatable
from mnist_jax.report.verdict import LEVEL, diverged, test_words, untrained
from mnist_jax.runs import pooling, workdirs
from mnist_jax.runs.choosing import is_finite
from mnist_jax.runs.labels import count
from mnist_jax.runs.results import Run, protocol


def write_comparison(runs: Sequence[Run], output: str | os.PathLike | None = None) -> str:
    """Writes a report that compares several finished runs, and returns what to print.

    It goes to `output`, by default a new directory, runs/report/<UTC time>.

    Raises:
        UserError: The report cannot be written.
    """
    folder = saving.check_output(workdirs.new_workdir("report") if output is None else output)
    runs = name_runs(runs)
    points = name_points(runs)
    pairs = compare_pairs(points)
    title = f"{len(runs)} runs side by side"
    pictures = saving.save_figures(folder, figures_of_runs(points))
    saving.write(folder, title, make_sections(output, runs, points, pairs, pictures))
    return terminal.to_terminal(
        title,
        terminal.runs(points),
        " ".join(write_verdict(runs, points, pairs, most=2)),
        cautions=warnings_of(runs, pairs),
        folder=folder,
    )


def figures_of_runs(points: Sequence[NamedPoint]) -> dict[str, Callable[[], Any]]:
    """Returns what draws the figures of several runs, by name of the file."""
    datasets = names_of_data([point.run for point in points])
    words = list(dict.fromkeys(protocol(point.run).words for point in points))
    how = words[0] if len(words) == 1 else "the protocols differ"
    by_run, by_epoch = f"test accuracy of the runs ({how})", f"accuracy by epoch ({how})"
    return {
        "accuracy_by_run": partial(accuracy_by_point.draw_points, points, f"{datasets}: {by_run}"),
        "accuracy_curves": partial(curves.draw_overlay, points, f"{datasets}: {by_epoch}"),
    }


def names_of_data(runs: Sequence[Run]) -> str:
    """Names the data sets of runs; one name may stand for several."""
    sets = {(run.summary["dataset"], run.summary["provenance"]["data_checksum"]) for run in runs}
    names = list(dict.fromkeys(run.summary["dataset"] for run in runs))
    return " and ".join(names) + " (different files)" * (len(sets) > len(names))


def write_verdict(
    runs: Sequence[Run], points: Sequence[NamedPoint], pairs: Sequence[Pair], most: int = MAX_NAMES
) -> list[str]:
    """Says which points differ, which are one recipe, what failed; lists `most` names."""
    judged = [pair for pair in pairs if is_finite(pair.test["p_holm"])]
    differing = [
        f"{first.name} minus {second.name} is {signed(test['difference'])} points (95 % interval"
        f" {interval((test['low'], test['high']), signed)}, corrected p {p_value(test['p_holm'])})"
        for first, second, test, _ in sorted(judged, key=lambda pair: pair.test["p"])
        if test["p_holm"] < LEVEL
    ]
    tests = test_words(len(judged))
    if differing:
        differ = "differs" if len(differing) == 1 else "differ"
        which = f"{len(differing)} of {count(len(judged), 'comparable pair')} {differ}"
        sentences = [f"{which} significantly ({tests}): {listed(differing, most)}."]
    elif judged:
        sentences = [f"No two comparable runs differ significantly ({tests})."]
    else:
        need = f"the same protocol and data, and {stats.MIN_SEEDS} sound trials each"
        no_two = f"no two of these runs have different recipes, {need}"
        sentences = [f"No difference can be judged: {no_two}."]

    def name_pairs(chosen, words):
        if names := [f"{first.name} and {second.name}" for first, second, *_ in chosen]:
            sentences.append(f"{listed(names, most)} {words}")

    name_pairs(
        [pair for pair in pairs if pair.test["identical"]],
        "have identical results, trial by trial. There is nothing to compare: name one of them.",
    )
    poolable, others = list[Pair](), list[Pair]()
    for pair in pairs:
        if pair.incomparable == "same recipe" and not pair.test["identical"]:
            alone = [pair.first.run, pair.second.run]
            (poolable if pooling.can_pool(alone) else others).append(pair)
    by_chance = "are the same recipe with other seeds. They differ by chance alone. To learn more,"
    one_run = "the command makes one run of them if it is given them alone"
    name_pairs(poolable, f"{by_chance} pool them: {one_run}.")
    name_pairs(others, f"{by_chance} give more seeds to one of them, which cannot be pooled.")
    if any(p.point["statistics"][protocol(p.run).column]["n"] == 1 for p in points):
        sentences.append("Of a run with one seed nothing is known of its uncertainty.")
    for run in runs:
        told = [f"{stopped_words(run)}."] if rungs_of(run) else []
        told += [*untrained(compared(run), most), *diverged(run, most)]
        sentences += [f"{run.config['name']}: {text}" for text in told]
    return sentences


def warnings_of(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[Warn]:
    """Returns what makes differences between the runs misleading."""
    warnings, by_words = [], dict[str, list[str]]()
    for run in runs:
        words = PROTOCOLS[run.summary["protocol"]].words
        by_words.setdefault(words, []).append(run.config["name"])
    if len(by_words) > 1:
        each = " ".join(f"{sentence(words)}: {listed(x)}." for words, x in by_words.items())
        warnings.append(
            f"WARNING: the runs were scored by different protocols. {each} A number that the test"
            " set chose is biased upwards, so a difference between protocols is no finding."
        )
    if any("data" in pair.incomparable for pair in pairs):
        warnings.append(
            "WARNING: the runs were not trained and tested on the same data. A difference between"
            " data sets says nothing about networks or recipes."
        )
    sizes = {len(run.summary["grid"]) for run in runs if run.summary["protocol"] == "test"}
    if len(sizes) > 1:
        warnings.append(
            "WARNING: the test set chose among different numbers of grid points. The more there"
            " are, the more the best one is biased upwards."
        )
    return list(map(Warn, warnings))


def make_sections(
    output: str | os.PathLike | None,
    runs: Sequence[Run],
    points: Sequence[NamedPoint],
    pairs: Sequence[Pair],
    pictures: Sequence[Picture | str],
) -> list[Section]:
    """Returns what report.md and report.html say of several runs."""
    arguments = [str(run.workdir) for run in runs]
    if output is not None:
        arguments.append(f"--output={output}")
    command = Code(shlex.join(["python", "-m", "mnist_jax.report", *arguments]))
    records = [dict(run.summary["provenance"]) for run in runs]
    commands = [
        (f"{run.config['name']}, in {run.workdir}:", Code(repeatable(record.pop("command"))))
        for run, record in zip(runs, records, strict=True)
    ]
    notes = [f"{sentence(p.words)}. {p.note}" for p in dict.fromkeys(map(protocol, runs))]
    meaning = (
        "A run that chose a grid point has a row for it, another a row for each of its"
        f" points (at most {most_points(runs)}). Means are over the n trials that did not diverge,"
        " and have Student's intervals."
    )
    tests = (
        "Every two points of different runs. Trials are paired if both have the same seeds, and"
        " else compared by Welch's test. Intervals are Student's and uncorrected; Holm's correction"
        f" is for the {count(sum(is_finite(pair.test['p']) for pair in pairs), 'pair')} that can be"
        " judged. Ends and scatter of an interval are as in the report of a single run."
    )
    if len(pairs) > MAX_POINTS:
        first = "those that may be findings and have the smallest p first"
        tests += f" Here are {MAX_POINTS}, {first}."
    configs = [run.config for run in runs]
    names = [config["name"] for config in configs]
    return [
        ("What was compared", ["To rebuild this page:", command, *itertools.chain(*commands)]),
        ("Verdict", [*warnings_of(runs, pairs), *write_verdict(runs, points, pairs)]),
        ("Results", [tables.runs_table(points), *notes, meaning]),
        ("Comparisons", [tables.pairs_table(pairs), tests]),
        ("Figures", pictures),
        ("Configs, where they differ", [tables.differing(names, configs)]),
        ("Provenance, where it differs", [tables.differing(names, records)]),
    ]
