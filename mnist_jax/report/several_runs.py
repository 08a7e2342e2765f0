"""Several finished runs, set side by side: which of their differences are findings."""

import itertools
import math
import os
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mnist_jax import stats
from mnist_jax.report import render, saving, tables
from mnist_jax.report.figures import accuracy_by_point, curves
from mnist_jax.report.formatting import (
    LEVEL,
    MAX_POINTS,
    Line,
    diverged,
    interval,
    level_words,
    listed,
    p_value,
    sentence,
    shown_points,
    signed,
)
from mnist_jax.report.render import Code, Picture, Section, Warn
from mnist_jax.report.tables import Pair
from mnist_jax.runs import workdirs
from mnist_jax.runs.choosing import is_finite
from mnist_jax.runs.comparing import compare
from mnist_jax.runs.labels import count, label, varying
from mnist_jax.runs.results import Run, protocol
from mnist_jax.text import one_line

_SHAPES_TRIALS = (
    "model",
    "protocol",
    "num_validation",
    "validation_seed",
    "precision",
    "deterministic",
    "files",
)
"""Keys beside the axes on which the numbers of a trial depend."""


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
    folder = saving.check_output(output or workdirs.new_workdir("report"))
    runs = name_runs(runs)
    lines = name_lines(runs)
    pairs = compare_lines(lines)
    said = comparison_verdict(runs, lines, pairs)
    title = f"{len(runs)} runs side by side"
    pictures = saving.save_figures(folder, figures_of_lines(lines))
    saving.write(folder, title, make_comparison(output, runs, lines, pairs, said, pictures))
    return render.to_print(title, tables.lines_table(lines), said, folder)


def figures_of_lines(lines: Sequence[Line]) -> dict[str, Callable[[], Any]]:
    """Returns what draws the figures of several runs, by name of the file."""
    datasets = " and ".join(dict.fromkeys(line.run.summary["dataset"] for line in lines))
    words = list(dict.fromkeys(protocol(line.run).words for line in lines))
    how = words[0] if len(words) == 1 else "protocols differ: beware"
    points = partial(
        accuracy_by_point.draw_points, lines, f"{datasets}: test accuracy of the runs ({how})"
    )
    overlay = partial(curves.draw_overlay, lines, f"{datasets}: accuracy by epoch ({how})")
    return {"accuracy_by_run": points, "accuracy_curves": overlay}


def name_runs(runs: Sequence[Run]) -> list[Run]:
    """Returns runs whose names differ: where their configs' do not, with folder or path."""
    plain = [one_line(run.config["name"]) for run in runs]
    folders = [
        f"{name} ({one_line(run.workdir.resolve().name)})"
        for name, run in zip(plain, runs, strict=True)
    ]
    paths = [one_line(str(run.workdir)) for run in runs]
    names = next((x for x in (plain, folders) if len(set(x)) == len(x)), paths)
    return [
        run._replace(config=run.config | {"name": name})
        for run, name in zip(runs, names, strict=True)
    ]


def name_lines(runs: Sequence[Run]) -> list[Line]:
    """Returns the chosen point of each run; where nothing was chosen, the first ones.

    Names say on which axes the grids vary, and on which the lines differ, if those are one or two;
    there the model is one too.
    """
    shown = []
    for run in runs:
        num_points = 1 if protocol(run).criterion else _most_points(runs)
        shown += [(run, point) for point in shown_points(run)[:num_points]]
    recipes = [{"model": run.config["model"]} | point for run, point in shown]
    differ, lines = varying(recipes), []
    for (run, point), recipe in zip(shown, recipes, strict=True):
        axes = [*(differ if len(differ) <= 2 else ()), *varying(run.summary["grid"])]
        names = run.config["name"], label(recipe, list(dict.fromkeys(axes)))
        lines.append(Line(": ".join(filter(None, names)), run, point))
    return lines


def _most_points(runs: Sequence[Run]) -> int:
    return max(1, MAX_POINTS // len(runs))


def compare_lines(lines: Sequence[Line]) -> list[Pair]:
    """Tests the difference of every two lines of different runs, corrected for their number."""
    pairs = []
    for a, b in itertools.combinations(lines, 2):
        if a.run is not b.run:
            test, reason = compare(*a[1:], *b[1:]), beware(a, b)
            untested = dict.fromkeys(("low", "high", "p", "std"), math.nan) if reason else {}
            pairs.append(Pair(a, b, test | untested, reason))
    for pair, p in zip(pairs, stats.holm([pair.test["p"] for pair in pairs]), strict=True):
        pair.test["p_holm"] = float(p)
    return pairs


def beware(first: Line, second: Line) -> str:
    """Says why a difference of two lines is no finding; empty if it may be one."""
    a, b = first.run.summary, second.run.summary
    reasons = ["same recipe"] if is_same_recipe(first, second) else []
    if a["dataset"] != b["dataset"]:
        reasons.append("data sets differ")
    elif a["provenance"]["data_checksum"] != b["provenance"]["data_checksum"]:
        reasons.append("data files differ")
    if a["protocol"] != b["protocol"]:
        reasons.append("protocols differ")
    return ", ".join(reasons)


def is_same_recipe(first: Line, second: Line) -> bool:
    """Says whether two lines differ in their seeds alone.

    Another commit, version or machine may train otherwise, which their difference can show.
    """
    records = []
    for _, run, point in (first, second):
        made, devices = run.summary["provenance"], run.summary["provenance"].get("devices", {})
        config = {key: run.config.get(key) for key in _SHAPES_TRIALS}
        if not run.config.get("num_validation"):
            config.pop("validation_seed")  # which cuts the validation images
        records.append(
            {axis: point[axis] for axis in run.axes}
            | config
            | {key: made.get(key) for key in ("data_checksum", "commit", "versions", "machine")}
            | {key: devices.get(key) for key in ("platform", "kind", "matmul_precision")}
        )
    return records[0] == records[1]


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
    judged = [pair for pair in pairs if is_finite(pair.test["p_holm"])]
    differing = [
        f"{first.name} less {second.name} is {signed(test['difference'])} points (95 % interval"
        f" {interval((test['low'], test['high']), signed)}, corrected p {p_value(test['p_holm'])})"
        for first, second, test, _ in sorted(judged, key=lambda pair: pair.test["p"])
        if test["p_holm"] < LEVEL
    ]
    level = level_words(len(judged), "pairs")
    if not judged:
        said = (
            "No difference can be judged: no two of these runs have different recipes, the same"
            f" protocol and data, and {stats.MIN_SEEDS} sound trials each."
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
        *repeated(pairs),
        *[alone] * (1 in numbers),
        *(f"{run.config['name']}: {text}" for run in runs for text in diverged(run)),
    ]


def repeated(pairs: Sequence[Pair]) -> list[str]:
    """Names the lines that are one recipe, and says what to do with them."""
    said = []
    for words, advice, chosen in (
        (
            "have identical results, trial by trial",
            "There is nothing to compare: name one of them.",
            [pair for pair in pairs if pair.test["identical"]],
        ),
        (
            "are the same recipe with other seeds",
            "Chance alone tells them apart. To say more of it, train all the seeds in one run"
            " (--config.num_seeds).",
            [pair for pair in pairs if pair.beware == "same recipe" and not pair.test["identical"]],
        ),
    ):
        if chosen:
            names = [f"{first.name} and {second.name}" for first, second, *_ in chosen]
            said.append(f"{listed(names)} {words}. {advice}")
    return said


def make_comparison(
    output: str | os.PathLike | None,
    runs: Sequence[Run],
    lines: Sequence[Line],
    pairs: Sequence[Pair],
    said: Sequence[str],
    pictures: Sequence[Picture | Warn | str],
) -> list[Section]:
    """Returns what report.md and report.html say of several runs."""
    paths = [str(run.workdir) for run in runs]
    options = [] if output is None else [f"--output={output}"]
    command = Code(shlex.join(["python", "-m", "mnist_jax.report", *paths, *options]))
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
        f" for the {count(sum(is_finite(pair.test['p']) for pair in pairs), 'pair')} that can be"
        " judged. Ends and scatter of an interval are as in the report of a single run."
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
        ("Results", [tables.lines_table(lines), *notes, meaning]),
        ("Comparisons", [tables.pairs_table(pairs), tests]),
        ("Figures", pictures),
        ("Configs, where they differ", [tables.differing(names, configs)]),
        ("Provenance, where it differs", [tables.differing(names, made)]),
    ]
