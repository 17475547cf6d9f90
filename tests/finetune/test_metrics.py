"""WA, UA, macro-F1: against scikit-learn, and in the corners where folds are small."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from finetune.metrics import score


def test_scores_equal_scikit_learn_on_random_predictions():
    rng = np.random.default_rng(0)
    truth_N, said_N = rng.integers(0, 4, (2, 500))
    scores = score(truth_N, said_N, 4)
    assert scores.wa == pytest.approx(accuracy_score(truth_N, said_N))
    assert scores.ua == pytest.approx(recall_score(truth_N, said_N, average="macro"))
    assert scores.macro_f1 == pytest.approx(f1_score(truth_N, said_N, average="macro"))
    assert scores.confusion_CP.sum() == 500
    assert scores.confusion_CP[2, 3] == ((truth_N == 2) & (said_N == 3)).sum()


def test_a_class_that_is_absent_counts_in_no_mean():
    scores = score(np.array([0, 0, 2]), np.array([0, 1, 2]), 4)
    assert scores.wa == pytest.approx(2 / 3)
    assert scores.ua == pytest.approx((0.5 + 1) / 2)
    assert scores.macro_f1 == pytest.approx((2 / 3 + 1) / 2)


def test_a_prediction_outside_the_classes_is_wrong_and_adds_no_class():
    scores = score(np.array([0, 0, 1, 1]), np.array([0, 4, 1, 1]), 4)
    assert scores.ua == pytest.approx((0.5 + 1) / 2)
    assert scores.confusion_CP[0].tolist() == [1, 0, 0, 0, 1]


def test_intervals_hold_the_value_and_narrow_with_more_clips():
    rng = np.random.default_rng(1)
    widths = []
    for num_clips in (40, 1000):
        truth_N = rng.integers(0, 4, num_clips)
        said_N = np.where(rng.random(num_clips) < 0.7, truth_N, rng.integers(0, 4, num_clips))
        scores = score(truth_N, said_N, 4, num_resamples=300)
        for value, (low, high) in (
            (scores.wa, scores.wa_interval),
            (scores.ua, scores.ua_interval),
            (scores.macro_f1, scores.macro_f1_interval),
        ):
            assert 0 <= low < value < high <= 1
        widths.append(scores.ua_interval[1] - scores.ua_interval[0])
    # About the standard error of a share, 4 x sqrt(p (1 - p) / N), and so five times narrower.
    assert widths[1] == pytest.approx(4 * np.sqrt(0.775 * 0.225 / 1000), rel=0.3)
    assert widths[1] < widths[0] / 3


def test_one_clip_has_scores_and_no_interval():
    scores = score(np.array([1]), np.array([1]), 4, num_resamples=100)
    assert (scores.wa, scores.ua, scores.wa_interval) == (1.0, 1.0, None)


@pytest.mark.parametrize(
    ("truth", "said", "match"),
    [([], [], "at least 1"), ([0, 1], [0], "one"), ([4], [0], "classes"), ([0], [5], "0..4")],
)
def test_bad_predictions_are_refused(truth, said, match):
    with pytest.raises(ValueError, match=match):
        score(np.array(truth, dtype=int), np.array(said, dtype=int), 4)
