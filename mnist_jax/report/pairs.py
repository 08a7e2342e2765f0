"""The points of several runs: their names, and the tests of their differences."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from mnist_jax import stats
from mnist_jax.report.points import MAX_POINTS, NamedPoint, shown_points
from mnist_jax.runs.comparing import compare
from mnist_jax.runs.labels import label, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol
from mnist_jax.text import one_line

# What a trial depends on, apart from the axes and the seed: keys of config and provenance.
_CONFIG: tuple[str, ...] = ("model", "protocol", "num_validation", "validation_seed", "files")
_CONFIG += ("num_test", "test_seed")
_CONFIG += ("precision", "deterministic")
_PROVENANCE = ("data_checksum", "commit", "versions", "machine")
_DEVICES = ("platform", "kind", "matmul_precision")


class Pair(NamedTuple):
    """Two points of different runs, and the test of their difference."""

    first: NamedPoint
    second: NamedPoint
    test: Row  # the fields of `stats.Comparison`, of the first minus the second, and `p_holm`
    incomparable: str  # why the difference is no finding; empty if it may be one


def name_runs(runs: Sequence[Run]) -> list[Run]:
    """Gives runs names that differ: with the folder or path, where those of the configs do not."""
    names = [one_line(run.config["name"]) for run in runs]
    if len(set(names)) < len(runs):
        folders = (one_line(run.workdir.resolve().name) for run in runs)
        names = [f"{name} ({folder})" for name, folder in zip(names, folders, strict=True)]
    if len(set(names)) < len(runs):
        names = [one_line(str(run.workdir)) for run in runs]
    named = zip(runs, names, strict=True)
    return [run._replace(config=run.config | {"name": name}) for run, name in named]


def name_points(runs: Sequence[Run]) -> list[NamedPoint]:
    """Returns the chosen point of each run; where nothing was chosen, the first ones.

    A name has the values on which the run's grid varies, and up to two on which the points differ.
    """
    shown = []
    for run in runs:
        num_points = 1 if protocol(run).criterion else most_points(runs)
        shown += [(run, point) for point in shown_points(run)[:num_points]]
    recipes = [{"model": run.config["model"]} | point for run, point in shown]
    differ, points = varying(recipes), []
    for (run, point), recipe in zip(shown, recipes, strict=True):
        axes = [*(differ if len(differ) <= 2 else ()), *varying(run.summary["grid"])]
        names = run.config["name"], label(recipe, list(dict.fromkeys(axes)))
        points.append(NamedPoint(": ".join(filter(None, names)), run, point))
    return points


def most_points(runs: Sequence[Run]) -> int:
    """Returns how many points a report shows of a run that did not choose one."""
    return max(1, MAX_POINTS // len(runs))


def compare_pairs(points: Sequence[NamedPoint]) -> list[Pair]:
    """Tests the difference of every two points of different runs, corrected for their number."""
    pairs = []
    for a, b in itertools.combinations(points, 2):
        if a.run is not b.run:
            test, reason = compare(*a[1:], *b[1:]), why_incomparable(a, b)
            untested = dict.fromkeys(("low", "high", "p", "std"), math.nan) if reason else {}
            pairs.append(Pair(a, b, test | untested, reason))
    for pair, p in zip(pairs, stats.holm([pair.test["p"] for pair in pairs]), strict=True):
        pair.test["p_holm"] = float(p)
    return pairs


def why_incomparable(first: NamedPoint, second: NamedPoint) -> str:
    """Says why a difference of two points is no finding; empty if it may be one."""
    a, b = first.run.summary, second.run.summary
    reasons = ["same recipe"] if is_same_recipe(first, second) else []
    if a["provenance"]["data_checksum"] != b["provenance"]["data_checksum"]:
        same_name = a["dataset"] == b["dataset"]
        reasons.append("data files differ" if same_name else "data sets differ")
    elif _cut(first.run) != _cut(second.run):
        reasons.append("test data differ")
    if a["protocol"] != b["protocol"]:
        reasons.append("protocols differ")
    return ", ".join(reasons)


def _cut(run: Run) -> tuple[int, int]:
    """Returns how many test images were cut from the data set, and by which seed."""
    number = run.config["num_test"]
    return number, run.config["test_seed"] if number else 0


def is_same_recipe(first: NamedPoint, second: NamedPoint) -> bool:
    """Says whether two points differ in their seeds alone.

    Another commit, version or machine may train otherwise, which their difference can show.
    """
    records = []
    for _, run, point in (first, second):
        provenance = run.summary["provenance"]
        record = {key: run.config.get(key) for key in _CONFIG}
        for split in ("test", "validation"):
            if not record[f"num_{split}"]:
                del record[f"{split}_seed"]  # it has nothing to cut
        record |= {key: provenance.get(key) for key in _PROVENANCE}
        record |= {key: provenance.get("devices", {}).get(key) for key in _DEVICES}
        records.append(record | {axis: point[axis] for axis in run.axes})
    return records[0] == records[1]
