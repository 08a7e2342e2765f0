import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from mnist_jax import stats as ours
from mnist_jax.stats import Scale, describe, holm, minimum_difference, seeds_needed

pytestmark = pytest.mark.filterwarnings("error")

NAN, INF = math.nan, math.inf

# Student (1908), The probable error of a mean, Biometrika 6: hours of sleep that two drugs added.
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


FINE = Scale(step=1e-12)


def compare(values, others, scale=FINE):
    return ours.compare(values, others, scale)


def by_seed(values, first=0):
    return dict(enumerate(values, start=first))


def test_scipy_is_imported_only_when_used():
    code = "import sys, mnist_jax.stats; assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_describe_by_hand():
    got = describe([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])  # squares about the mean sum to 32
    half_width = 2.364624 * math.sqrt(32 / 7 / 8)  # tables: t(0.975, 7)
    assert got["interval_95"] == pytest.approx([5 - half_width, 5 + half_width], rel=1e-6)
    del got["interval_95"]
    assert got == pytest.approx(
        {
            "n": 8,
            "mean": 5,
            "std_ddof0": 2,
            "std_ddof1": math.sqrt(32 / 7),
            "sem": math.sqrt(32 / 7 / 8),
            "min": 2,
            "max": 9,
        },
        rel=1e-14,
    )


def test_describe_agrees_with_scipy():
    values = np.random.default_rng(0).normal(0.98, 0.002, 9)
    got, interval = describe(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert got["interval_95"] == pytest.approx(list(interval), rel=1e-12)
    assert got["sem"] == pytest.approx(stats.sem(values), rel=1e-12)


def test_describe_leaves_out_what_is_not_finite_and_counts_the_rest():
    assert describe([NAN, 1.0, INF, 2.0, -INF, None]) == describe([1.0, 2.0])
    assert describe([NAN, 1.0, 2.0])["n"] == 2


@pytest.mark.parametrize(("values", "known"), [([], None), ([NAN, INF], None), ([0.5], 0.5)])
def test_describe_of_too_few(values, known):
    got = describe(values)
    assert got.pop("n") == (known is not None)
    assert all(math.isnan(limit) for limit in got.pop("interval_95"))
    assert math.isnan(got.pop("std_ddof1"))
    assert math.isnan(got.pop("sem"))
    if known is None:
        assert all(math.isnan(value) for value in got.values())
    else:
        assert got == {"mean": known, "std_ddof0": 0, "min": known, "max": known}


def test_equal_trials_tie_in_any_order():
    values = [0.9812, 0.9799, 0.9805, 0.1]
    assert len({describe(order)["mean"] for order in itertools.permutations(values)}) == 1
    values = np.random.default_rng(0).random(500).tolist()
    assert describe(values)["mean"] == describe(sorted(values))["mean"]


@pytest.mark.parametrize("n", [3, 5, 7, 15])
def test_equal_trials_have_their_value_as_mean_and_no_spread(n):
    for value in np.random.default_rng(n).random(200):
        got = describe([value] * n)
        assert got["mean"] == value
        assert got["std_ddof0"] == got["std_ddof1"] == got["sem"] == 0
        assert got["interval_95"] == [value, value]


# --- compare ---


def test_a_paired_comparison_gives_the_known_numbers_of_students_sleep_data():
    # As R's t.test prints them: t = -4.0621, df = 9, p = 0.002833.
    got = compare(by_seed(SLEEP_1), by_seed(SLEEP_2))
    assert got.paired
    assert got.n == 10
    assert got.difference == pytest.approx(-1.58, rel=1e-14)
    assert got.difference / (got.std / math.sqrt(10)) == pytest.approx(-4.0621, abs=5e-5)
    assert (got.low, got.high) == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert got.p == pytest.approx(0.002833, abs=5e-7)


def test_other_seeds_give_the_known_numbers_of_welchs_test():
    # The same data as two groups: t = -1.8608, df = 17.776, p = 0.07939.
    got = compare(by_seed(SLEEP_1), by_seed(SLEEP_2, first=1))
    assert not got.paired
    assert got.n == 10
    assert got.difference == pytest.approx(-1.58, rel=1e-14)
    assert got.difference / (got.std / math.sqrt(10)) == pytest.approx(-1.8608, abs=5e-5)
    assert (got.low, got.high) == pytest.approx((-3.3654832, 0.2054832), abs=5e-8)
    assert got.p == pytest.approx(0.07939, abs=5e-6)


@pytest.mark.parametrize("scatter", [1e-4, 0.01, 1.0])
def test_both_tests_agree_with_scipy(scatter):
    rng = np.random.default_rng(0)
    for _ in range(100):
        n, m = rng.integers(3, 12, 2)
        a, b, c = (0.97 + scatter * rng.normal(rng.normal(), 1, size) for size in (n, n, m))
        pairs = stats.ttest_rel(a, b), compare(by_seed(a), by_seed(b))
        groups = stats.ttest_ind(a, c, equal_var=False), compare(by_seed(a), by_seed(c, first=99))
        for expected, got in (pairs, groups):
            assert got.p == pytest.approx(expected.pvalue, rel=1e-9)
            limits = expected.confidence_interval(0.95)
            assert (got.low, got.high) == pytest.approx(tuple(limits), abs=1e-11 * scatter + 1e-15)


def test_welchs_test_in_closed_form_with_unequal_groups():
    a, b = [1.0, 2.0, 4.0], [10.0, 10.5, 11.0, 13.0, 20.0]
    got = compare(by_seed(a), by_seed(b))
    variances = [np.var(a, ddof=1) / 3, np.var(b, ddof=1) / 5]
    error = math.sqrt(sum(variances))
    df = sum(variances) ** 2 / (variances[0] ** 2 / 2 + variances[1] ** 2 / 4)
    assert got.n == 3
    assert got.difference == pytest.approx(7 / 3 - 12.9, rel=1e-14)
    assert got.p == pytest.approx(2 * stats.t.sf(abs(got.difference) / error, df), rel=1e-10)
    half_width = stats.t.isf(0.025, df) * error
    limits = (got.difference - half_width, got.difference + half_width)
    assert (got.low, got.high) == pytest.approx(limits, rel=1e-10)
    # The root of the mean variance, times the root of two.
    std = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2) * math.sqrt(2)
    assert got.std == pytest.approx(std, rel=1e-14)


def test_pairs_are_made_by_seed_not_by_position():
    shuffled = dict(reversed(by_seed(SLEEP_2).items()))
    got = compare(by_seed(SLEEP_1), shuffled)
    assert got == pytest.approx(compare(by_seed(SLEEP_1), by_seed(SLEEP_2)), rel=1e-12)


def test_swapping_the_sides_changes_the_sign_alone():
    for first in (0, 1):
        one = compare(by_seed(SLEEP_1), by_seed(SLEEP_2, first))
        other = compare(by_seed(SLEEP_2, first), by_seed(SLEEP_1))
        assert one == pytest.approx(
            other._replace(difference=-other.difference, low=-other.high, high=-other.low),
            rel=1e-12,
        )


def test_a_diverged_trial_leaves_with_its_partner():
    a, b = by_seed([NAN, *SLEEP_1, 5.0]), by_seed([1.0, *SLEEP_2, INF])
    assert compare(a, b) == compare(by_seed(SLEEP_1), by_seed(SLEEP_2))
    assert compare(a, b).paired


def test_a_diverged_trial_leaves_its_own_group_alone():
    a, b = by_seed([NAN, *SLEEP_1, 5.0]), by_seed([1.0, *SLEEP_2, INF], first=1)
    assert compare(a, b) == compare(by_seed([*SLEEP_1, 5.0]), by_seed([1.0, *SLEEP_2], first=9))
    assert not compare(a, b).paired


@pytest.mark.parametrize(
    ("values", "others", "n", "difference", "paired"),
    [
        ({}, {}, 0, NAN, True),
        ({0: NAN}, {0: 1.0}, 0, NAN, True),
        ({0: 0.75}, {0: 0.5}, 1, 0.25, True),
        ({0: 0.75, 1: NAN}, {0: 0.5, 1: 2.0}, 1, 0.25, True),
        ({0: 0.75}, {1: 0.5, 2: 1.5}, 1, -0.25, False),
        ({0: 0.75}, {}, 0, NAN, False),
    ],
)
def test_too_few_trials_give_no_interval(values, others, n, difference, paired):
    got = compare(values, others)
    expected = (n, difference, NAN, NAN, NAN, paired, NAN)
    assert got == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("first", [0, 7])
def test_two_seeds_are_not_judged(first):
    got = compare(by_seed([0.75, 0.8]), by_seed([0.5, 0.5], first))
    assert got == pytest.approx((2, 0.275, NAN, NAN, NAN, first == 0, NAN), nan_ok=True)


@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("n", [3, 7])
def test_equal_differences_scatter_by_the_rounding_of_counts(n, first):
    step = 1 / 360
    got = compare(by_seed([0.75] * n), by_seed([0.75 - step] * n, first), Scale(step))
    std = step / math.sqrt(6)  # two counts, each rounded by up to half a step
    df = n - 1 if first == 0 else 2 * (n - 1)
    assert got.std == pytest.approx(std, rel=1e-12)
    assert got.p == pytest.approx(2 * stats.t.sf(step / (std / math.sqrt(n)), df), rel=1e-9)
    half_width = stats.t.isf(0.025, df) * std / math.sqrt(n)
    assert (got.low, got.high) == pytest.approx((step - half_width, step + half_width), rel=1e-9)


def test_a_scatter_above_that_of_rounding_is_as_it_is():
    step = 1 / 360
    a, b = by_seed([0.90, 0.92, 0.95]), by_seed([0.80, 0.85, 0.83])
    assert compare(a, b, Scale(step)) == compare(a, b)
    assert describe(list(a.values()), Scale(step)) == describe(list(a.values()))


def test_a_comparison_wants_to_know_the_step():
    with pytest.raises(ValueError, match="step=0"):
        compare(by_seed(SLEEP_1), by_seed(SLEEP_2), Scale())


def test_intervals_end_where_the_numbers_do():
    share = Scale(1 / 360, 0.0, 1.0)
    got = describe([0.1, 0.9, 0.2], share)
    assert got["interval_95"] == [0, 1]
    got = compare(by_seed([1.0, 0.0, 1.0]), by_seed([0.0, 0.0, 0.9]), share)
    assert (got.low, got.high) == (-1, 1)
    assert describe([0.1, 0.4, 0.1], Scale(low=0.0))["interval_95"][1] > 0.4


def test_equal_accuracies_have_an_interval_of_some_width():
    got = describe([0.95, 0.95, 0.95], Scale(1 / 360, 0.0, 1.0))
    half_width = stats.t.isf(0.025, 2) / 360 / math.sqrt(12 * 3)
    assert got["interval_95"] == pytest.approx([0.95 - half_width, 0.95 + half_width], rel=1e-12)
    assert got["std_ddof1"] == 0


def test_identical_trials_do_not_differ():
    got = compare(by_seed(SLEEP_1), by_seed(SLEEP_1))
    assert got.difference == 0
    assert got.p == 1


def test_one_constant_group_leaves_the_others_scatter():
    got = compare(by_seed([1.0, 1.0, 1.0]), by_seed([1.0, 2.0, 3.0, 6.0], first=9))
    alone = stats.ttest_1samp([1.0, 2.0, 3.0, 6.0], 1.0)  # Welch's degrees of freedom are 3
    assert got.p == pytest.approx(alone.pvalue, rel=1e-12)


def test_the_interval_covers_the_true_difference_in_95_percent():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        seed, a, b = rng.normal(size=(3, 6))
        got = compare(by_seed(0.3 + 5 * seed + a), by_seed(5 * seed + b))
        covered += got.low <= 0.3 <= got.high
    # Standard error 0.7 %; normal quantiles for Student's would cover 89 %.
    assert covered / 1000 == pytest.approx(0.95, abs=0.02)


# --- holm ---


def test_holm_by_hand():
    # In order 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04 -> 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], rel=1e-14)


def test_holm_rejects_what_the_stepwise_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p, level = rng.random(6) ** 4, rng.random()
        rejected = np.zeros(6, bool)
        for k, i in enumerate(np.argsort(p)):
            if p[i] > level / (6 - k):
                break
            rejected[i] = True
        np.testing.assert_array_equal(holm(p) <= level, rejected)


def test_holm_is_at_most_1_and_of_one_test_changes_nothing():
    assert holm([0.9, 0.8, 0.4]).tolist() == [1.0, 1.0, 1.0]
    assert holm([0.3]).tolist() == [0.3]
    assert holm([0.0, 0.5]).tolist() == [0.0, 0.5]
    assert holm([]).tolist() == []


def test_holm_gives_equal_p_values_the_same():
    assert holm([0.02, 0.01, 0.02, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06], rel=1e-14)


def test_holm_keeps_nan_and_does_not_count_it():
    got = holm([NAN, 0.01, NAN, 0.02])
    np.testing.assert_allclose(got, [NAN, 0.02, NAN, 0.02], rtol=1e-14)
    np.testing.assert_allclose(holm([NAN, 0.01, 0.02], 3), [NAN, 0.03, 0.04], rtol=1e-14)
    np.testing.assert_array_equal(holm([NAN, NAN]), [NAN, NAN])


def test_holm_with_a_larger_family_is_never_less_strict_than_all_its_tests():
    assert holm([0.001, 0.004], 10) == pytest.approx([0.01, 0.036], rel=1e-14)
    rng = np.random.default_rng(0)
    for _ in range(300):
        p = rng.random(10) ** 4
        made = rng.random(10) < 0.5
        assert (holm(p[made], 10) >= holm(p)[made]).all()


def test_holm_refuses_a_family_smaller_than_its_tests():
    with pytest.raises(ValueError, match="num_tests=1: expected at least the 2 tests made"):
        holm([0.1, 0.2, NAN], num_tests=1)


def test_holm_leaves_its_argument_alone():
    p = np.array([0.5, 0.01, 0.02])
    holm(p)
    assert p.tolist() == [0.5, 0.01, 0.02]


# --- power ---


@pytest.mark.parametrize(
    ("effect", "level", "power", "n"),
    [
        # Two-sided, paired, as G*Power prints them.
        (0.2, 0.05, 0.8, 199),
        (0.5, 0.05, 0.8, 34),
        (0.8, 0.05, 0.8, 15),
        (0.5, 0.05, 0.9, 44),
        (0.5, 0.05, 0.95, 54),
        (0.8, 0.05, 0.95, 23),
    ],
)
def test_seeds_needed_as_in_power_tables(effect, level, power, n):
    assert seeds_needed(effect, 1.0, level=level, power=power) == n
    assert seeds_needed(-effect * 0.002, 0.002, level=level, power=power) == n


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("level", [0.05, 0.001])
@pytest.mark.parametrize("power", [0.06, 0.5, 0.8, 0.99])
def test_minimum_difference_has_the_power_that_the_f_distribution_gives(n, level, power):
    shift = minimum_difference(0.3, n, level=level, power=power) / 0.3 * math.sqrt(n)
    critical = stats.f.isf(level, 1, n - 1)  # the square of Student's
    assert stats.ncf.sf(critical, 1, n - 1, shift**2) == pytest.approx(power, rel=1e-6)


def test_minimum_difference_is_what_simulated_trials_show():
    n, runs, std = 5, 100_000, 0.4
    difference = minimum_difference(std, n)
    trials = np.random.default_rng(0).normal(difference, std, (runs, n))
    power = (stats.ttest_1samp(trials, 0, axis=1).pvalue < 0.05).mean()
    # Standard error 0.13 %. Shifts from normal quantiles give 56.4 %, from Student's 79.1 %.
    assert power == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize("level", [1e-4, 1e-7, 1e-10])
@pytest.mark.parametrize("power", [0.06, 0.5, 0.8, 0.99])
def test_minimum_difference_at_small_levels_in_closed_form(level, power):
    # Where the critical value is large, the error of two seeds' mean is nothing against it, and
    # their scatter is half-normal.
    critical = stats.t.isf(level / 2, 1)
    expected = critical * stats.halfnorm.ppf(power) / math.sqrt(2)
    assert minimum_difference(1.0, 2, level=level, power=power) == pytest.approx(expected, rel=1e-4)


def test_minimum_difference_of_many_seeds_is_the_normal_one():
    expected = (stats.norm.isf(0.025) + stats.norm.ppf(0.8)) / 1000
    assert minimum_difference(1.0, 10**6) == pytest.approx(expected, rel=1e-5)


def test_minimum_difference_of_too_few_or_no_scatter():
    assert math.isnan(minimum_difference(1.0, 1))
    assert math.isnan(minimum_difference(0.0, 0))
    assert minimum_difference(0.0, 2) == 0


def test_minimum_difference_falls_with_seeds_and_scales_with_scatter():
    found = [minimum_difference(1.0, n) for n in range(2, 30)]
    assert sorted(found, reverse=True) == found
    assert minimum_difference(7.0, 5) == pytest.approx(7 * minimum_difference(1.0, 5), rel=1e-14)


@pytest.mark.parametrize(("level", "power"), [(0.0, 0.8), (0.05, 1.0), (0.5, 0.5), (NAN, 0.8)])
def test_minimum_difference_refuses_what_no_test_has(level, power):
    with pytest.raises(ValueError, match="expected 0 < level < power < 1"):
        minimum_difference(1.0, 5, level=level, power=power)


@pytest.mark.parametrize("effect", [0.0028, 0.03, 0.3, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("power", [0.06, 0.8, 0.99])
@pytest.mark.parametrize("level", [0.05, 0.0005])
def test_seeds_needed_is_the_smallest_number_that_is_enough(effect, power, level):
    n = seeds_needed(effect, 1.0, level=level, power=power)
    assert minimum_difference(1.0, n, level=level, power=power) <= effect
    assert n == 3 or minimum_difference(1.0, n - 1, level=level, power=power) > effect


def test_seeds_needed_up_to_a_million():
    n = seeds_needed(0.0028, 1.0)
    normal = ((stats.norm.isf(0.025) + stats.norm.ppf(0.8)) / 0.0028) ** 2
    assert 10**6 < normal < n < normal + 4


def test_seeds_needed_is_at_least_3():
    assert seeds_needed(0.1, 0.0) == 3
    assert seeds_needed(1e9, 1.0) == 3


@pytest.mark.parametrize(("difference", "std"), [(0.0, 1.0), (NAN, 1.0), (1.0, NAN), (1.0, -1.0)])
def test_seeds_needed_refuses_no_difference(difference, std):
    with pytest.raises(ValueError, match="expected a difference other than 0"):
        seeds_needed(difference, std)
