"""What is said of a run's results."""

from collections.abc import Sequence
from typing import NamedTuple

from mnist_jax import stats
from mnist_jax.report.formatting import (
    LEVEL,
    criterion_words,
    diverged,
    interval,
    level_words,
    listed,
    percent,
    sentence,
    shown_points,
    signed,
)
from mnist_jax.runs.choosing import count_diverged, is_finite
from mnist_jax.runs.comparing import compare_points
from mnist_jax.runs.labels import count, label, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol


def chosen_words(run: Run) -> str:
    """Names the trial whose weights and predictions a run leaves."""
    trial = run.summary["chosen_trial"]
    row = next(row for row in run.results if row["trial"] == trial)
    point = next(point for point in run.summary["grid"] if point["point"] == row["point"])
    recipe = label(point, varying(run.summary["grid"]))
    return f"trial {trial} (seed {row['seed']}{', ' * bool(recipe)}{recipe})"


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


def paragraphs(run: Run, found: Found) -> list[str]:
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
