"""The verdict on a run, in sentences: what is best, what differs from it, what would show."""

import math
from collections.abc import Sequence

from mnist_jax import stats
from mnist_jax.report.formatting import MAX_NAMES, interval, listed, percent, sentence, signed
from mnist_jax.report.points import BestPoint
from mnist_jax.runs.choosing import count_diverged, is_finite, ranked
from mnist_jax.runs.labels import count, label, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol

LEVEL = 0.05
"""Of the tests: corrected p-values below it tell grid points apart."""
MAX_LENGTH = 60
"""Characters of the names that a brief verdict still has."""


def write_verdict(run: Run, best: BestPoint, brief: bool = False) -> str:
    """Says what the result is, which points differ from the best one, and what diverged.

    Args:
        run: A finished run.
        best: Its best point, compared with the others.
        brief: Whether it stands below the table of the points: then long names are left out.
    """
    grid = run.summary["grid"]
    if count_diverged(run.results) == len(run.results):
        sentences = ["Every trial diverged, so there is no result."]
    elif len(grid) == 1:
        sentences = [f"{sentence(_accuracy(run, best.point))}."]
    else:
        tied = _tied(run, best.point)
        it = "It" if len(tied) < 2 else "The first"
        sentences = [*_best(run, best.point, tied, brief), *_differences(run, best, it, brief)]
    sentences += diverged(run, 2 if brief else MAX_NAMES)
    if len(grid) > 1:
        sentences += _power(run, best)
    return " ".join(sentences)


def _accuracy(run: Run, point: Row) -> str:
    """Says the test accuracy of a point, and how sure it is."""
    p = protocol(run)
    found = point["statistics"][p.column]
    accuracy = f"{'mean ' * (point['num_trials'] > 1)}{p.measure}"
    if not found["n"]:
        return f"{accuracy} not known, since every trial diverged"
    accuracy += f" {percent(found['mean'])} %"
    if found["n"] == 1:
        return f"{accuracy}, of one trial, so nothing is known of its uncertainty"
    return f"{accuracy} (95 % interval {interval(found['interval_95'])})"


def _tied(run: Run, point: Row) -> list[Row]:
    """Returns the points whose criterion is the best to the digits that tables show."""
    criterion, grid = protocol(run).criterion, run.summary["grid"]
    if criterion is None:
        return []
    best = _printed(point, criterion)
    return [other for other in ranked(grid, criterion) if _printed(other, criterion) == best]


def _best(run: Run, point: Row, tied: Sequence[Row], brief: bool) -> list[str]:
    """Names the best point, or those that tie for it, and says its test accuracy."""
    p, accuracy = protocol(run), _accuracy(run, point)
    size = f"{len(run.summary['grid'])} grid points"
    if p.criterion is None:
        name = "" if brief else f", {_names([point], run, brief)},"
        return [
            f"Nothing was chosen; the first of {size}{name} is compared with the others:"
            f" {accuracy}."
        ]
    names = _names(tied, run, brief)
    by = f" by {p.held_out} accuracy" * (p.criterion != p.column)
    if len(tied) == 1:
        return [f"Best of {size}{by}: {names}; {accuracy}."]
    tie = f"{sentence(names) if names.startswith('the ') else names} tie for the best of {size}"
    if by:
        return [f"{tie}{by}.", f"The first was chosen: {accuracy}."]
    return [f"{tie}: {accuracy}."]


def _printed(point: Row, column: str) -> tuple[int, str]:
    """Returns what ranks a point, to the digits in which tables show it."""
    return len(point["diverged_seeds"]), percent(point["statistics"][column]["mean"])


def _names(points: Sequence[Row], run: Run, brief: bool) -> str:
    """Names the first points of the table, or says that they are the first."""
    axes = varying(run.summary["grid"])
    names = listed([label(point, axes) for point in points])
    if brief and len(names) > MAX_LENGTH:
        return "the first row" if len(points) == 1 else f"the first {len(points)} rows"
    return names


def _differences(run: Run, best: BestPoint, it: str, brief: bool) -> list[str]:
    """Says which grid points differ from the best one."""
    axes, num_points = varying(run.summary["grid"]), len(run.summary["grid"])
    judged = _judged(best)
    same = [label(point, axes) for point, test in best.others if test["identical"]]
    sentences = [f"{it} has identical results, trial by trial, to {listed(same)}."] * bool(same)
    few = f"fewer than {stats.MIN_SEEDS} sound trials"
    if not judged:
        if len(same) < len(best.others):
            sentences.append(f"Differences are not judged with {few} at a point.")
        return sentences
    differing = [
        f"{label(point, axes)} (by {signed(test['difference'])} points)"
        for point, test in judged
        if test["p_holm"] < LEVEL
    ]
    others = f"the {len(judged)} others" if len(judged) > 1 else "the other"
    if len(best.others) < num_points - 1:
        others = f"the {len(best.others)} next{' best' * bool(protocol(run).criterion)} points"
    tests = test_words(_num_pairs(run), "pairs")
    if differing:
        which = f"{len(differing)} of {others}" if len(judged) > 1 else others
        names = listed(differing)
        which += f", {names}" if len(names) <= MAX_LENGTH or not brief else ""
        sentences.append(f"{it} differs significantly from {which} ({tests}).")
    else:
        sentences.append(f"{it} does not differ significantly from {others} ({tests}).")
    if unjudged := len(best.others) - len(judged) - len(same):
        sentences.append(f"{count(unjudged, 'point')} cannot be judged, with {few}.")
    return sentences


def _judged(best: BestPoint) -> list[tuple[Row, Row]]:
    return [(point, test) for point, test in best.others if is_finite(test["p_holm"])]


def _num_pairs(run: Run) -> int:
    """Returns the size of the family of tests: every pair of grid points."""
    num_points = len(run.summary["grid"])
    return num_points * (num_points - 1) // 2


def test_words(family: int, what: str) -> str:
    """Says by which tests points or runs are told apart."""
    corrected = f", Holm's correction for {family} {what}" if family > 1 else ""
    return f"t-tests, {100 * LEVEL:g} % level{corrected}"


def _power(run: Run, best: BestPoint) -> list[str]:
    """Says how small a difference would show, and how many seeds a smaller one needs.

    Of the scatter that the pairs with the best point have in common, for the first step of Holm's
    procedure over all pairs, and with a power of 80 %.
    """
    n, judged = best.point["num_trials"], _judged(best)
    scatter = [test["std"] for _, test in judged if test["paired"] and test["n"] == n]
    if not scatter or all(test["p_holm"] < LEVEL for _, test in judged):
        return []
    std = math.sqrt(sum(x**2 for x in scatter) / len(scatter))
    level = LEVEL / _num_pairs(run)
    shows = 100 * stats.minimum_difference(std, n, level=level)
    smaller = round_number_below(min(shows, 10.0) / 2)
    needed = stats.seeds_needed(smaller / 100, std, level=level)
    above = f"above about {shows:.2g}" if shows < 10 else "of more than 10"
    need = "1 point needs" if smaller == 1 else f"{smaller:g} points need"
    return [
        f"With {n} seeds only differences {above} points would show (power 80 %); {need} about"
        f" {_two_digits(needed)} seeds."
    ]


def round_number_below(x: float) -> float:
    """Returns the largest number of 1, 2 or 5 with any number of zeros that is not above x."""
    decade = 10.0 ** math.floor(math.log10(x))
    return float(f"{max(m for m in (1, 2, 5) if m * decade <= x) * decade:.1g}")


def _two_digits(n: int) -> int:
    """Rounds a number up to two digits, since it is an estimate."""
    unit = 10 ** max(0, len(str(n)) - 2)
    return -(-n // unit) * unit


def diverged(run: Run, most: int = MAX_NAMES) -> list[str]:
    """Says which trials diverged, in a sentence if any did."""
    lost, axes = count_diverged(run.results), varying(run.summary["grid"])
    names = [
        f"{label(point, axes)} {_seeds(seeds)}".strip()
        for point in run.summary["grid"]
        if (seeds := point["diverged_seeds"])
    ]
    are = "is" if lost == 1 else "are"
    trials = f"Of {count(len(run.results), 'trial')}, {lost} diverged and {are} left out of means"
    return [f"{trials}{': ' if axes else ' '}{listed(names, most)}."] * bool(lost)


def _seeds(seeds: Sequence[int]) -> str:
    return f"(seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"


def chosen_words(run: Run) -> str:
    """Names the trial whose weights and predictions a run leaves."""
    trial = run.summary["chosen_trial"]
    row = next(row for row in run.results if row["trial"] == trial)
    point = next(point for point in run.summary["grid"] if point["point"] == row["point"])
    recipe = label(point, varying(run.summary["grid"]))
    return f"trial {trial} (seed {row['seed']}{', ' * bool(recipe)}{recipe})"


def chosen_trial(run: Run) -> str:
    """Names the trial whose weights are kept, and its score."""
    p = protocol(run)
    row = next(row for row in run.results if row["trial"] == run.summary["chosen_trial"])
    kind = "Chosen trial" if p.criterion else "Trial that is shown (the first; nothing chose it)"
    if row["diverged_epoch"]:
        return f"{kind}: {chosen_words(run)}, which diverged."
    at = f", epoch {row[f'best_{p.held_out}_epoch']}" if p.choose_epoch else ""
    score = f"{kind}: {chosen_words(run)}; {percent(row[p.column])} % {p.measure}{at}."
    return " ".join([score, *missing_pictures(run)])


def missing_pictures(run: Run) -> list[str]:
    """Says why there are no pictures of the chosen trial, in a sentence if there are none."""
    why = run.summary.get("chosen_trial_missing")
    return [f"Pictures of the chosen trial are left out: {why}."] if why else []
