"""The statistics of repeated trials: spread, differences, and the smallest difference they show.

Every grid point has the same seeds, so two points are compared seed by seed: an effect of the seed
on both cancels in the difference. Pure functions of numbers in any unit; nothing is rounded.

Accuracies are counts, so a few trials can agree, or differ by the same amount, by chance. This is
no proof that they do not scatter: no variance is taken to be smaller than rounding to whole counts
makes it, step^2 / 12 (W. F. Sheppard, On the calculation of the most probable values of
frequency-constants, Proceedings of the London Mathematical Society 29 (1898)).
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

MIN_SEEDS = 3
"""With fewer, nothing is judged to differ: two values say too little about their scatter."""


class Scale(NamedTuple):
    """The values that a measured number can have; by default, any."""

    step: float = 0.0  # between neighbouring values, 1/N for an accuracy of N images; 0: no steps
    low: float = -math.inf
    high: float = math.inf

    @property
    def variance(self) -> float:
        """What rounding to its steps adds to the variance of a value."""
        return self.step**2 / 12

    def clip(self, low: float, high: float) -> list[float]:
        """Cuts an interval of a mean to the means that are possible; this loses no coverage."""
        return [max(low, self.low), min(high, self.high)]


ANY = Scale()


class Comparison(NamedTuple):
    """Mean difference of two grid points, the first minus the second."""

    n: int  # seeds in pairs; of unpaired groups, the size of the smaller one
    difference: float
    low: float  # 95 % interval of the mean difference, Student
    high: float
    p: float  # of no difference, two-sided
    paired: bool
    # Sample standard deviation of the differences, at least what rounding makes it. Of unpaired
    # groups, that of the difference of two draws, sqrt(s1^2 + s2^2). Either way std / sqrt(n) is
    # the standard error of `difference`; of unpaired groups, only if they are equally large.
    std: float


def describe(values: np.ndarray | Sequence[float | None], scale: Scale = ANY) -> dict[str, Any]:
    """Describes the trials of one grid point, given a number per trial [trials].

    Numbers that are missing or not finite are left out, and `n` counts the others. So whoever shows
    these statistics shows the number of diverged trials beside them. With too few, they are NaN.
    """
    from scipy.special import stdtrit

    finite = _finite(values)
    n = len(finite)
    average, nan = mean_of(finite), math.nan
    std_ddof1 = float(finite.std(ddof=1, mean=average)) if n > 1 else nan
    sem = math.sqrt(max(std_ddof1**2, scale.variance) / n) if n > 1 else nan
    half_width = float(stdtrit(n - 1, 0.975)) * sem if n > 1 else nan
    interval = scale.clip(average - half_width, average + half_width) if n > 1 else [nan, nan]
    return {
        "n": n,
        "mean": average,
        "std_ddof0": float(finite.std(mean=average)) if n else nan,  # of the population
        "std_ddof1": std_ddof1,  # of the sample: divided by n - 1
        "sem": sem,  # standard error of the mean, at least what rounding makes it
        "interval_95": interval,  # of the mean, Student, within the scale: [low, high]
        "min": float(finite.min()) if n else nan,
        "max": float(finite.max()) if n else nan,
    }


def compare(values: Mapping[int, float], others: Mapping[int, float], scale: Scale) -> Comparison:
    """Compares two grid points: a paired t-test if they have the same seeds, else Welch's.

    Numbers, by seed, that are not finite are left out; in a paired test, with their partners. With
    fewer than `MIN_SEEDS` pairs, or trials in a group, only the difference is determined, if that.

    Raises:
        ValueError: The scale has no steps.
    """
    from scipy.special import stdtr, stdtrit

    if not scale.step > 0:
        raise ValueError(f"step={scale.step}: expected the step in which the numbers come")
    paired = values.keys() == others.keys()
    if paired:
        pairs = np.array([[values[seed], others[seed]] for seed in values], float).reshape(-1, 2)
        a, b = pairs[np.isfinite(pairs).all(axis=1)].T
        scattering, rounded = [a - b], 2 * scale.variance
        difference = mean_of(a - b)
    else:
        a, b = (_finite(list(group.values())) for group in (values, others))
        scattering, rounded = [a, b], scale.variance
        difference = mean_of(a) - mean_of(b)
    n, nan = min(len(a), len(b)), math.nan
    if n < MIN_SEEDS:
        return Comparison(n, difference, nan, nan, nan, paired, nan)
    variances = [max(float(x.var(ddof=1)), rounded) for x in scattering]
    errors = [v / len(x) for v, x in zip(variances, scattering, strict=True)]
    # Welch and Satterthwaite's degrees of freedom; those of a single group are n - 1.
    df = sum(errors) ** 2 / sum(
        e**2 / (len(x) - 1) for e, x in zip(errors, scattering, strict=True)
    )
    sem = math.sqrt(sum(errors))
    half_width = float(stdtrit(df, 0.975)) * sem
    p = 2 * float(stdtr(df, -abs(difference) / sem))
    widest = scale.high - scale.low
    low, high = max(difference - half_width, -widest), min(difference + half_width, widest)
    return Comparison(n, difference, low, high, p, paired, math.sqrt(sum(variances)))


def holm(p_values: np.ndarray | Sequence[float], num_tests: int | None = None) -> np.ndarray:
    """Adjusts p-values for the number of tests: each is the family-wise level that rejects it.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal
    of Statistics 6 (1979), 65-70.

    Args:
        p_values: One per test [tests]; NaN is a test that could not be made.
        num_tests: Size of the family, where only the tests of interest were made: the best point,
            found by looking, against each other point belongs to the family of all pairs. By
            default the number of p-values that are not NaN.

    Returns:
        Adjusted p-values in the given order [tests], at most 1, NaN where it was NaN. With
        `num_tests` they are upper bounds: tests that are left out could only move the others to
        later places, where multipliers are smaller.

    Raises:
        ValueError: The family holds fewer tests than were made.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN is sorted to the end
    family = len(order) if num_tests is None else num_tests
    if family < len(order):
        raise ValueError(f"num_tests={family}: expected at least the {len(order)} tests made")
    adjusted = np.full(p.shape, math.nan)
    steps = (family - np.arange(len(order))) * p[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def minimum_difference(std: float, n: int, *, level: float = 0.05, power: float = 0.8) -> float:
    """Returns the smallest mean difference that a two-sided paired t-test is likely to show.

    It is in the unit of `std`; NaN for fewer than two seeds.

    Args:
        std: Standard deviation of the paired differences.
        n: Number of seeds.
        level: Of the test. For the first step of Holm's procedure, divide it by the family's size.
        power: Probability that the test rejects at that difference.

    Raises:
        ValueError: Not 0 < level < power < 1.
    """
    from scipy.optimize import brentq

    if not 0 < level < power < 1:
        raise ValueError(f"level={level}, power={power}: expected 0 < level < power < 1")
    if n < 2:
        return math.nan
    high = 1.0
    while _power(high, n, level) < power:
        high *= 2
    shift = brentq(lambda shift: _power(shift, n, level) - power, 0, high, xtol=1e-10 * high)
    return std * shift / math.sqrt(n)


def seeds_needed(difference: float, std: float, *, level: float = 0.05, power: float = 0.8) -> int:
    """Returns the number of seeds, at least `MIN_SEEDS`, with which a difference is likely to show.

    The inverse of `minimum_difference`; the difference may have either sign. One that was selected
    for its significance is too large on average, so the number for it is too small.

    Raises:
        ValueError: The difference is 0, or a number is NaN or out of range.
    """
    from scipy.special import ndtri

    if not (abs(difference) > 0 and 0 <= std < math.inf):
        raise ValueError(
            f"difference={difference}, std={std}: expected a difference other than 0 and a finite"
            " standard deviation"
        )

    def enough(n):
        return std == 0 or _power(abs(difference) * math.sqrt(n) / std, n, level) >= power

    # The normal approximation, and room for what Student's distribution adds to it.
    shift = ndtri(power) - ndtri(level / 2)
    high = math.ceil((shift * std / difference) ** 2) + 4
    while not enough(high):
        high *= 2
    return bisect.bisect_left(range(high), True, lo=MIN_SEEDS, key=enough)


def _power(shift: float, n: int, level: float) -> float:
    """Returns the power of a two-sided paired t-test of n pairs, at a mean of `shift` sems.

    SciPy's noncentral distributions fail at the small levels that many comparisons ask for. So this
    is the definition: the probability that the sample's scatter is small enough, averaged over the
    error z of the sample's mean. Summed in even steps, it has six digits for up to 100,000 pairs.
    """
    from scipy.special import chdtr, stdtrit

    z = np.linspace(-8, 8, 8001)
    density = np.exp(-(z**2) / 2)
    rejected = chdtr(n - 1, (n - 1) * ((shift + z) / stdtrit(n - 1, level / 2)) ** 2)
    return float(density @ rejected / density.sum())


def _finite(values: np.ndarray | Sequence[float | None]) -> np.ndarray:
    """Returns those of values [trials] that are finite; None is not."""
    array = np.asarray(values, float)
    return array[np.isfinite(array)]


def mean_of(values: np.ndarray) -> float:
    """Returns the mean of values [trials]: the same in any order; of equal values, their value."""
    if not len(values):
        return math.nan
    # The sum is exact, but its division rounds: the mean of equal values could differ from them.
    return float(np.clip(math.fsum(values) / len(values), values.min(), values.max()))
