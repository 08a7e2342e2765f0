"""Several finished runs, set side by side: which of their differences are findings."""

import itertools
import os
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mnist_jax import stats
from mnist_jax.report import saving, tables, terminal
from mnist_jax.report.figures import accuracy_by_point, curves
from mnist_jax.report.formatting import MAX_NAMES, interval, listed, p_value, sentence, signed
from mnist_jax.report.pairs import Pair, compare_pairs, most_points, name_points, name_runs
from mnist_jax.report.points import MAX_POINTS, NamedPoint
from mnist_jax.report.render import Code, Picture, Section, Warn
from mnist_jax.report.sections import repeatable
from mnist_jax.report.verdict import LEVEL, diverged, test_words
from mnist_jax.runs import workdirs
from mnist_jax.runs.choosing import is_finite
from mnist_jax.runs.labels import count
from mnist_jax.runs.results import Run, protocol


def write_comparison(runs: Sequence[Run], output: str | os.PathLike | None = None) -> str:
    """Writes a report that compares several finished runs.

    Args:
        runs: As `read_runs` gives them.
        output: Where the report goes; by default a new directory, runs/report/<UTC time>.

    Returns:
        What to print, as `write_report`.

    Raises:
        UserError: The report cannot be written.
    """
    folder = saving.check_output(output or workdirs.new_workdir("report"))
    runs = name_runs(runs)
    points = name_points(runs)
    pairs = compare_pairs(points)
    title = f"{len(runs)} runs side by side"
    pictures = saving.save_figures(folder, figures_of_runs(points))
    saving.write(folder, title, make_sections(output, runs, points, pairs, pictures))
    verdict = " ".join(write_verdict(runs, points, pairs, most=2))
    table, warnings = terminal.runs(points), warnings_of(runs, pairs)
    return terminal.to_terminal(title, table, verdict, cautions=warnings, folder=folder)


def figures_of_runs(points: Sequence[NamedPoint]) -> dict[str, Callable[[], Any]]:
    """Returns what draws the figures of several runs, by name of the file."""
    datasets = " and ".join(dict.fromkeys(point.run.summary["dataset"] for point in points))
    words = list(dict.fromkeys(protocol(point.run).words for point in points))
    how = words[0] if len(words) == 1 else "the protocols differ"
    markers = partial(
        accuracy_by_point.draw_points, points, f"{datasets}: test accuracy of the runs ({how})"
    )
    overlay = partial(curves.draw_overlay, points, f"{datasets}: accuracy by epoch ({how})")
    return {"accuracy_by_run": markers, "accuracy_curves": overlay}


def write_verdict(
    runs: Sequence[Run],
    points: Sequence[NamedPoint],
    pairs: Sequence[Pair],
    most: int = MAX_NAMES,
) -> list[str]:
    """Says which points differ, which are one recipe, and what diverged, a sentence or more each.

    Args:
        runs: Those that are compared.
        points: Theirs that are shown.
        pairs: What tested them.
        most: Of more names in a row, so many are written.
    """
    judged = [pair for pair in pairs if is_finite(pair.test["p_holm"])]
    differing = [
        f"{first.name} minus {second.name} is {signed(test['difference'])} points (95 % interval"
        f" {interval((test['low'], test['high']), signed)}, corrected p {p_value(test['p_holm'])})"
        for first, second, test, _ in sorted(judged, key=lambda pair: pair.test["p"])
        if test["p_holm"] < LEVEL
    ]
    tests = test_words(len(judged), "pairs")
    if not judged:
        differences = (
            "No difference can be judged: no two of these runs have different recipes, the same"
            f" protocol and data, and {stats.MIN_SEEDS} sound trials each."
        )
    elif not differing:
        differences = f"No two comparable runs differ significantly ({tests})."
    else:
        differences = (
            f"{len(differing)} of {count(len(judged), 'comparable pair')} differ"
            f"{'s' * (len(differing) == 1)} significantly ({tests}): {listed(differing, most)}."
        )
    numbers = [p.point["statistics"][protocol(p.run).column]["n"] for p in points]
    alone = "Of a run with one seed nothing is known of its uncertainty."
    return [
        differences,
        *_repetitions(pairs, most),
        *[alone] * (1 in numbers),
        *(f"{run.config['name']}: {text}" for run in runs for text in diverged(run, most)),
    ]


def warnings_of(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[Warn]:
    """Returns what makes differences between the runs misleading."""
    reasons, by_words = [], dict[str, list[str]]()
    for run in runs:
        by_words.setdefault(protocol(run).words, []).append(run.config["name"])
    if len(by_words) > 1:
        each = " ".join(f"{sentence(words)}: {listed(x)}." for words, x in by_words.items())
        reasons.append(
            f"the runs were scored by different protocols. {each} A number that the test set chose"
            " is biased upwards, so a difference between protocols is no finding."
        )
    if any("data" in pair.incomparable for pair in pairs):
        reasons.append(
            "the runs were not trained and tested on the same data. A difference between data sets"
            " says nothing about networks or recipes."
        )
    sizes = {len(run.summary["grid"]) for run in runs if run.summary["protocol"] == "test"}
    if len(sizes) > 1:
        reasons.append(
            "the test set chose among different numbers of grid points. The more there are, the"
            " more the best one is biased upwards."
        )
    return [Warn(f"WARNING: {reason}") for reason in reasons]


def _repetitions(pairs: Sequence[Pair], most: int) -> list[str]:
    """Names the points that are one recipe, and says what to do with them."""
    sentences = []
    for words, advice, same in (
        (
            "have identical results, trial by trial",
            "There is nothing to compare: name one of them.",
            [pair for pair in pairs if pair.test["identical"]],
        ),
        (
            "are the same recipe with other seeds",
            "They differ by chance alone. To learn more, train all the seeds in one run"
            " (--config.num_seeds).",
            [
                pair
                for pair in pairs
                if pair.incomparable == "same recipe" and not pair.test["identical"]
            ],
        ),
    ):
        if same:
            names = [f"{first.name} and {second.name}" for first, second, *_ in same]
            sentences.append(f"{listed(names, most)} {words}. {advice}")
    return sentences


def make_sections(
    output: str | os.PathLike | None,
    runs: Sequence[Run],
    points: Sequence[NamedPoint],
    pairs: Sequence[Pair],
    pictures: Sequence[Picture | Warn | str],
) -> list[Section]:
    """Returns what report.md and report.html say of several runs."""
    paths = [str(run.workdir) for run in runs]
    options = [] if output is None else [f"--output={output}"]
    command = Code(shlex.join(["python", "-m", "mnist_jax.report", *paths, *options]))
    records = [dict(run.summary["provenance"]) for run in runs]
    commands = [
        (f"{run.config['name']}, in {path}:", Code(repeatable(record.pop("command"))))
        for run, path, record in zip(runs, paths, records, strict=True)
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
        tests += (
            f" Here are {MAX_POINTS}, those that may be findings and have the smallest p first."
        )
    configs = [run.config for run in runs]
    names = [config["name"] for config in configs]
    verdict = [*warnings_of(runs, pairs), *write_verdict(runs, points, pairs)]
    again = "To rebuild this page:"
    return [
        ("What was compared", [again, command, *itertools.chain(*commands)]),
        ("Verdict", verdict),
        ("Results", [tables.runs_table(points), *notes, meaning]),
        ("Comparisons", [tables.pairs_table(pairs), tests]),
        ("Figures", pictures),
        ("Configs, where they differ", [tables.differing(names, configs)]),
        ("Provenance, where it differs", [tables.differing(names, records)]),
    ]
