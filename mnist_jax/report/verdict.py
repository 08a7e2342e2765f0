"""The verdict on a run, in sentences: what is best, what differs from it, what would show."""

import math
from collections.abc import Sequence

from mnist_jax import stats
from mnist_jax.report import standing
from mnist_jax.report.formatting import MAX_NAMES, interval, listed, percent, sentence, signed
from mnist_jax.report.points import BestPoint, compared
from mnist_jax.runs.choosing import count_diverged, ranked, sound_values
from mnist_jax.runs.labels import count, label, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol, trials_of

LEVEL = 0.05  # corrected p-values below it are significant
MAX_LENGTH = 60  # characters of the names in a brief verdict


def write_verdict(run: Run, best: BestPoint, brief: bool = False) -> str:
    """Says what the result is, which points differ from the best one, and what diverged.

    A brief verdict stands below the table of the points, so it leaves out long names. Of a run that
    is not finished, the points are compared that are as far as the best one; of one with halving,
    those that were trained to the end.
    """
    most = 2 if brief else MAX_NAMES
    which, lost, run = standing.compared_words(run), diverged(run, most), compared(run)
    grid = run.summary["grid"]
    if count_diverged(run.results) == len(run.results):
        that = " that is compared" * bool(which)
        sentences = [f"Every trial{that} diverged, so there is no result."]
    elif len(grid) == 1:
        sentences = [f"{sentence(_accuracy(run, best.point))}."]
        sentences += untrained(run, most)
    else:
        tied = _tied(run, best.point)
        it = "It" if len(tied) < 2 else "The first"
        sentences = _best(run, best.point, tied, brief)
        sentences += untrained(run, most)
        sentences += _differences(run, best, it, brief)
    sentences += lost
    if len(grid) > 1 and not run.progress:
        sentences += _power(run, best)
    return " ".join([*filter(None, [which]), *sentences])


def _accuracy(run: Run, point: Row) -> str:
    """Says the test accuracy of a point, and how sure it is."""
    p = protocol(run)
    statistics = point["statistics"][p.column]
    accuracy = f"{'mean ' * (point['num_trials'] > 1)}{p.measure}"
    if not statistics["n"]:
        return f"{accuracy} not known, since every trial diverged"
    accuracy += f" {percent(statistics['mean'])} %"
    if statistics["n"] == 1:
        return f"{accuracy}, of one trial, so nothing is known of its uncertainty"
    return f"{accuracy} (95 % interval {interval(statistics['interval_95'])})"


def _tied(run: Run, best: Row) -> list[Row]:
    """Returns the points whose criterion is the best to the digits that tables show."""
    criterion, grid = protocol(run).criterion, run.summary["grid"]
    if criterion is None:
        return []

    def printed(point):
        return len(point["diverged_seeds"]), percent(point["statistics"][criterion]["mean"])

    return [point for point in ranked(grid, criterion) if printed(point) == printed(best)]


def _best(run: Run, point: Row, tied: Sequence[Row], brief: bool) -> list[str]:
    """Names the best point, or those that tie for it, and says its test accuracy."""
    p, accuracy = protocol(run), _accuracy(run, point)
    size = f"{len(run.summary['grid'])} grid points"
    if p.criterion is None:
        first = f"the first of {size}{'' if brief else f', {_names([point], run, brief)},'}"
        return [f"Nothing was chosen; {first} is compared with the others: {accuracy}."]
    names = _names(tied, run, brief)
    by = f" by {p.held_out} accuracy" * (p.criterion != p.column)
    if len(tied) == 1:
        return [f"Best of {size}{by}: {names}; {accuracy}."]
    tie = f"{sentence(names) if names.startswith('the ') else names} tie for the best of {size}"
    if by:
        return [f"{tie}{by}.", f"The first was chosen: {accuracy}."]
    return [f"{tie}: {accuracy}."]


def _names(points: Sequence[Row], run: Run, brief: bool) -> str:
    """Names the first points of the table, or says that they are the first."""
    axes = varying(run.summary["grid"])
    names = listed([label(point, axes) for point in points])
    if brief and len(names) > MAX_LENGTH:
        return "the first row" if len(points) == 1 else f"the first {len(points)} rows"
    return names


def _differences(run: Run, best: BestPoint, it: str, brief: bool) -> list[str]:
    """Says which grid points differ from the best one."""
    axes, num_points, judged = varying(run.summary["grid"]), len(run.summary["grid"]), best.judged
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
    tests = test_words(math.comb(num_points, 2))
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


def test_words(num_pairs: int) -> str:
    """Says which tests compare points or runs."""
    corrected = f", Holm's correction for {num_pairs} pairs" if num_pairs > 1 else ""
    return f"t-tests, {100 * LEVEL:g} % level{corrected}"


def _power(run: Run, best: BestPoint) -> list[str]:
    """Says how small a difference would show, and how many seeds a smaller one needs."""
    # From the pooled scatter of pairs with the best point, for the first step of Holm's procedure.
    n, tests = best.point["num_trials"], [test for _, test in best.judged]
    scatter = [test["std"] for test in tests if test["paired"] and test["n"] == n]
    if not scatter or all(test["p_holm"] < LEVEL for test in tests):
        return []
    std = math.sqrt(sum(x**2 for x in scatter) / len(scatter))
    level = LEVEL / math.comb(len(run.summary["grid"]), 2)
    shows = 100 * stats.minimum_difference(std, n, level=level)
    smaller = round_number_below(min(shows, 10.0) / 2)
    needed = stats.seeds_needed(smaller / 100, std, level=level)
    unit = 10 ** max(0, len(str(needed)) - 2)  # an estimate has two digits, and is rounded up
    above = f"above about {shows:.2g}" if shows < 10 else "of more than 10"
    need = "1 point needs" if smaller == 1 else f"{smaller:g} points need"
    return [
        f"With {n} seeds only differences {above} points would show (power 80 %); {need} about"
        f" {math.ceil(needed / unit) * unit} seeds."
    ]


def round_number_below(x: float) -> float:
    """Returns the largest number of 1, 2 or 5 with any number of zeros that is not above x."""
    decade = 10.0 ** math.floor(math.log10(x))
    return float(f"{max(m for m in (1, 2, 5) if m * decade <= x) * decade:.1g}")


def near_chance(chance: float, num_images: int) -> float:
    """Returns the highest accuracy that is called near that of guessing.

    It is 5 % of the way from that to 100 %, but at most half as much again, since of many classes
    each is seldom; or, where images are few, what guessing exceeds in 2.5 % of the cases, but at
    most a quarter of the way.

    Args:
        chance: Accuracy of guessing.
        num_images: That are guessed.
    """
    rest = 1 - chance
    scatter = 1.96 * math.sqrt(chance * rest / num_images)
    return chance + max(min(0.05 * rest, chance / 2), min(scatter, rest / 4))


def untrained(run: Run, most: int = MAX_NAMES) -> list[str]:
    """Says which points have not learned, in a sentence or two if any did not.

    All their sound trials are about as good as guessing the most frequent class of the test images.
    """
    if run.progress:  # and may still learn
        return []
    grid, axes, p = run.summary["grid"], varying(run.summary["grid"]), protocol(run)
    counts = run.summary.get("data", {}).get("class_counts", {}).get("test", ())
    known = sum(counts) > 0  # older versions did not record them
    chance = max(counts) / sum(counts) if known else 1 / len(run.class_names)
    most_allowed, names = near_chance(chance, run.summary["num_images"]["test"]), []
    for point in grid:
        accuracies = sound_values(trials_of(run, point), p.column)
        if len(accuracies) and max(accuracies) <= most_allowed:
            names.append(label(point, axes))
    if not names:
        return []
    who, rest = "The network", ""
    if len(names) < len(grid):
        who, rest = listed(names, most), " A difference from that is no finding."
    near = f"accuracies are near that of guessing ({percent(chance)} %)"
    return [f"{who} did not learn: {near}.{rest} Try another --config.learning_rate."]


def diverged(run: Run, most: int = MAX_NAMES) -> list[str]:
    """Says which trials diverged, in a sentence if any did."""
    lost, axes, names = count_diverged(run.results), varying(run.summary["grid"]), []
    if not lost:
        return []
    for point in run.summary["grid"]:
        if seeds := point["diverged_seeds"]:
            numbers = f"(seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"
            names.append(f"{label(point, axes)} {numbers}".strip())
    are = "is" if lost == 1 else "are"
    trials = f"Of {count(len(run.results), 'trial')}, {lost} diverged and {are} left out of means"
    return [f"{trials}{': ' if axes else ' '}{listed(names, most)}."]


def chosen_words(run: Run) -> str:
    """Names the trial whose weights and predictions a run leaves."""
    row, grid = _chosen_row(run), run.summary["grid"]
    point = next(point for point in grid if point["point"] == row["point"])
    recipe = ", ".join(filter(None, [f"seed {row['seed']}", label(point, varying(grid))]))
    return f"trial {row['trial']} ({recipe})"


def _chosen_row(run: Run) -> Row:
    return next(row for row in run.results if row["trial"] == run.summary["chosen_trial"])


def chosen_trial(run: Run) -> str:
    """Names the trial whose weights are kept, and its score."""
    p, row = protocol(run), _chosen_row(run)
    kind = "Chosen trial" if p.criterion else "Trial that is shown (the first; nothing chose it)"
    if run.progress:
        kind = "Best trial so far" if p.criterion else "The first trial"
    if row["diverged_epoch"]:
        return f"{kind}: {chosen_words(run)}, which diverged."
    at = f", epoch {row[f'best_{p.held_out}_epoch']}" if p.choose_epoch else ""
    score = f"{kind}: {chosen_words(run)}; {percent(row[p.column])} % {p.measure}{at}."
    return " ".join([score, *missing_pictures(run)])


def missing_pictures(run: Run) -> list[str]:
    """Says why pictures of the chosen trial are left out, if they are."""
    why = run.summary.get("chosen_trial_missing")
    return [f"Pictures of the chosen trial are left out: {why}."] if why else []
