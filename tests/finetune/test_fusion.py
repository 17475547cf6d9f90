"""Fused decisions, on posteriors whose right answer is known."""

import numpy as np
import pytest

from finetune.fusion import (
    ABSTAINS,
    FusionError,
    check_posteriors,
    confusion,
    decisions,
    monte_carlo,
    product,
    weighted_sum,
)

A_33 = np.array([[0.8, 0.15, 0.05], [0.3, 0.6, 0.1], [0.25, 0.25, 0.5]])
B_33 = np.array([[0.5, 0.25, 0.25], [0.05, 0.9, 0.05], [0.1, 0.3, 0.6]])
"""Row c: what a recognizer says of class c, and how often."""
PRIOR_3 = np.array([0.5, 0.3, 0.2])
EVERY_PAIR = np.array([(a, b) for a in range(3) for b in range(3)]).T


def test_with_many_counts_it_is_bayes_rule():
    bayes_NC = PRIOR_3 * A_33[:, EVERY_PAIR[0]].T * B_33[:, EVERY_PAIR[1]].T
    bayes_NC /= bayes_NC.sum(1, keepdims=True)
    counts_MCC = np.stack([A_33, B_33]) * 1e6
    found_N, share_NC = monte_carlo(EVERY_PAIR, counts_MCC, PRIOR_3 * 1e6)
    np.testing.assert_allclose(share_NC, bayes_NC, atol=0.02)
    sure_N = np.sort(bayes_NC, 1)[:, -1] - np.sort(bayes_NC, 1)[:, -2] > 0.05
    assert (found_N == bayes_NC.argmax(1))[sure_N].all() and sure_N.sum() >= 7


def test_few_counts_make_nobody_sure():
    said_MN = np.array([[0], [0]])
    _, few_NC = monte_carlo(said_MN, np.stack([A_33, B_33]) * 2)
    _, many_NC = monte_carlo(said_MN, np.stack([A_33, B_33]) * 1e4)
    assert few_NC.max() < many_NC.max()


def test_who_abstains_or_knows_nothing_has_no_say():
    blind_CC = np.full((3, 3), 1e5)
    counts_MCC = np.stack([A_33 * 1e5, blind_CC])
    alone_N, alone_NC = monte_carlo(EVERY_PAIR[:1], counts_MCC[:1])
    beside_N, beside_NC = monte_carlo(EVERY_PAIR, counts_MCC)
    np.testing.assert_allclose(alone_NC, beside_NC, atol=0.02)
    silent_MN = np.stack([EVERY_PAIR[0], np.full(9, ABSTAINS)])
    _, silent_NC = monte_carlo(silent_MN, np.stack([A_33, B_33]) * 1e5)
    np.testing.assert_allclose(silent_NC, alone_NC, atol=0.02)
    _, nobody_NC = monte_carlo(np.full((2, 1), ABSTAINS), counts_MCC, PRIOR_3 * 1e6)
    np.testing.assert_allclose(nobody_NC[0], PRIOR_3, atol=0.02)


def test_the_same_seed_draws_the_same():
    counts_MCC = np.stack([A_33, B_33]) * 20
    one, other = (monte_carlo(EVERY_PAIR, counts_MCC)[1] for _ in range(2))
    assert (one == other).all()
    assert (monte_carlo(EVERY_PAIR, counts_MCC, seed=1)[1] != one).any()


def test_product_and_weighted_sum_by_hand():
    nan = np.nan
    posterior_MNC = np.array(
        [[[0.6, 0.4], [0.5, 0.5], [nan, nan]], [[0.2, 0.8], [nan, nan], [nan, nan]]]
    )
    prior_C = np.array([0.9, 0.1])
    expected = [[0.12 / 0.44, 0.32 / 0.44], [0.5, 0.5], [0.9, 0.1]]
    np.testing.assert_allclose(product(posterior_MNC, prior_C), expected)
    by_weight = [[(3 * 0.6 + 0.2) / 4, (3 * 0.4 + 0.8) / 4], [0.5, 0.5], [0.9, 0.1]]
    found = weighted_sum(posterior_MNC, np.array([3.0, 1.0]), prior_C)
    np.testing.assert_allclose(found, by_weight)
    assert decisions(posterior_MNC[1]).tolist() == [1, ABSTAINS, ABSTAINS]


def test_a_confusion_counts_what_was_decided():
    counts = confusion(np.array([0, 0, 1, 1]), np.array([0, 1, 1, ABSTAINS]), 2)
    assert counts.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("row", "told"), [([0.5, 0.6], "sums to 1.1"), ([1.2, -0.2], "1.2, -0.2"), ([np.nan, 1], "nan")]
)
def test_what_is_no_distribution_is_told(row, told):
    good = [[0.5, 0.5], [np.nan, np.nan]]
    check_posteriors(np.array(good), "a")
    with pytest.raises(FusionError, match="a: the posterior of clip 2 is") as error:
        check_posteriors(np.array([*good, row]), "a")
    assert told in str(error.value)
