"""Paired statistics against values worked out by hand, and against each other's definitions."""

import math

import numpy as np
import pytest
from scipy import stats

from finetune.compare.paired import compare_clips, compare_units
from finetune.metrics import score


def test_the_t_test_is_its_formula_and_the_signed_ranks_are_counted():
    a_U = np.array([0.71, 0.65, 0.80, 0.58, 0.77, 0.69])
    difference_U = np.array([0.03, 0.01, 0.06, -0.02, 0.04, 0.05])
    found = compare_units(a_U, a_U - difference_U)
    t = difference_U.mean() / (difference_U.std(ddof=1) / math.sqrt(6))
    assert found.p_t == pytest.approx(2 * stats.t.sf(t, df=5))
    # |d| ranks as 1 2 3 4 5 6 = .01 .02 .03 .04 .05 .06; the negative one has rank 2. Of 2^6 signs
    # those with a negative rank sum <= 2 are {}, {1}, {2}: p = 2 * 3 / 64.
    assert found.p_wilcoxon == pytest.approx(6 / 64)
    assert found.least_wilcoxon == 2 / 64
    assert (found.num_units, found.difference.mean) == (6, pytest.approx(0.17 / 6))
    assert found.difference.low < 0.17 / 6 < found.difference.high
    # 2.5706 is the 97.5 % point of Student's t with 5 degrees of freedom, of any table.
    half = 2.5706 * difference_U.std(ddof=1) / math.sqrt(6)
    width = found.difference.high - found.difference.low
    assert width == pytest.approx(2 * half, rel=1e-4)
    assert compare_units(a_U - difference_U, a_U).p_t == pytest.approx(found.p_t)


def test_equal_systems_one_unit_and_no_spread_have_their_own_answers():
    a_U = np.array([0.5, 0.6, 0.7])
    same = compare_units(a_U, a_U)
    assert (same.p_t, same.p_wilcoxon, same.difference.mean) == (1.0, 1.0, 0.0)
    shifted = compare_units(a_U, a_U - 0.1)
    assert (shifted.p_t, shifted.p_wilcoxon) == (None, 0.25)
    single = compare_units(a_U[:1], a_U[:1] - 0.1)
    assert (single.p_t, single.p_wilcoxon, single.difference.low) == (None, None, None)


def test_the_interval_of_five_units_covers_what_it_says_and_agrees_with_the_test():
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(1000):
        found = compare_units(*(rng.normal(size=5) + shift for shift in (0.7, 0.0)))
        covered.append(found.difference.low < 0.7 < found.difference.high)
        assert (found.p_t < 0.05) == (not found.difference.low < 0 < found.difference.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_under_the_null_p_is_below_a_twentieth_about_as_often():
    rng = np.random.default_rng(0)
    p = [compare_units(*rng.normal(size=(2, 10))).p_t for _ in range(200)]
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.11


def test_clips_are_compared_as_the_scores_are():
    rng = np.random.default_rng(1)
    truth_N = rng.integers(3, size=300)
    a_N = np.where(rng.random(300) < 0.8, truth_N, 3)  # 3: none of the classes
    b_N = np.where(rng.random(300) < 0.6, truth_N, rng.integers(3, size=300))
    found = compare_clips(truth_N, a_N, b_N)
    of_a, of_b = score(truth_N, a_N, 3), score(truth_N, b_N, 3)
    assert found.wa.mean == pytest.approx(of_a.wa - of_b.wa)
    assert found.ua.mean == pytest.approx(of_a.ua - of_b.ua)
    only_a = int(((a_N == truth_N) & (b_N != truth_N)).sum())
    only_b = int(((b_N == truth_N) & (a_N != truth_N)).sum())
    assert (found.num_clips, found.only_a, found.only_b) == (300, only_a, only_b)
    few, both = min(only_a, only_b), only_a + only_b
    by_hand = 2 * sum(math.comb(both, k) for k in range(few + 1)) / 2**both
    assert found.p_mcnemar == pytest.approx(by_hand)
    # The plain twin of the weighted draws: draw clips, score both, subtract.
    draws = [rng.integers(300, size=300) for _ in range(1000)]
    plain = [score(truth_N[i], a_N[i], 3).ua - score(truth_N[i], b_N[i], 3).ua for i in draws]
    low, high = np.quantile(plain, (0.025, 0.975))
    assert (found.ua.low, found.ua.high) == (
        pytest.approx(low, abs=0.012),
        pytest.approx(high, abs=0.012),
    )


def test_clips_that_both_have_right_show_no_difference():
    truth_N = np.array(["a", "b", "a"])
    found = compare_clips(truth_N, truth_N, truth_N)
    assert (found.p_mcnemar, found.wa.low, found.ua.high) == (1.0, 0.0, 0.0)
