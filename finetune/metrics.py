"""WA, UA, macro-F1 and confusion of one fold's predictions, with bootstrap intervals.

WA is plain accuracy; UA (= UAR) is the mean over classes of recall; macro-F1 the mean of F1. Both
means run over the classes that occur in the truth, so a small fold that lacks a class still has a
number. A prediction outside the label set (a whole-vocabulary prompt may say "hungry") is wrong,
and adds no class of its own: with such a class the recall of a set of four falls by a fifth for
the first stray word.

N clips, C classes, P = C + 1 predictions (the last one is "none of the classes").
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.metrics import confusion_matrix

CONFIDENCE = 0.95  # of the intervals


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """All shares are 0 to 1; intervals are (low, high), None for fewer than two clips."""

    wa: float
    ua: float
    macro_f1: float
    confusion_CP: np.ndarray
    """[C, C + 1] int64: rows truth, columns prediction, the last column none of the classes."""
    wa_interval: tuple[float, float] | None = None
    ua_interval: tuple[float, float] | None = None
    macro_f1_interval: tuple[float, float] | None = None


def score(
    truth_N: np.ndarray,
    prediction_N: np.ndarray,
    num_classes: int,
    *,
    num_resamples: int = 0,
    seed: int = 0,
) -> Scores:
    """Scores of predictions 0..C-1, or C for none of the classes.

    num_resamples: bootstrap draws of N clips with replacement; 0 leaves the intervals out.
    Raises ValueError for no clips, unequal lengths, or values out of range.
    """
    truth_N, prediction_N = np.asarray(truth_N), np.asarray(prediction_N)
    if truth_N.shape != prediction_N.shape or truth_N.ndim != 1 or len(truth_N) == 0:
        raise ValueError(
            f"truth {truth_N.shape} and prediction {prediction_N.shape}; expected two vectors of "
            "one length, at least 1"
        )
    if truth_N.min() < 0 or truth_N.max() >= num_classes:
        raise ValueError(f"truth runs {truth_N.min()}..{truth_N.max()}, classes are {num_classes}")
    if prediction_N.min() < 0 or prediction_N.max() > num_classes:
        raise ValueError(
            f"predictions run {prediction_N.min()}..{prediction_N.max()}, expected 0..{num_classes}"
        )
    labels = np.arange(num_classes + 1)
    confusion_CP = confusion_matrix(truth_N, prediction_N, labels=labels)[:num_classes]
    wa, ua, macro_f1 = _of_confusion(confusion_CP)
    intervals: list[tuple[float, float] | None] = [None, None, None]
    if num_resamples and len(truth_N) > 1:
        intervals = _bootstrap(truth_N, prediction_N, num_classes, num_resamples, seed)
    return Scores(
        wa=wa,
        ua=ua,
        macro_f1=macro_f1,
        confusion_CP=confusion_CP,
        wa_interval=intervals[0],
        ua_interval=intervals[1],
        macro_f1_interval=intervals[2],
    )


def _of_confusion(confusion_CP: np.ndarray) -> tuple[float, float, float]:
    num_classes = len(confusion_CP)
    right_C = np.diagonal(confusion_CP[:, :num_classes])
    truth_C, predicted_C = confusion_CP.sum(1), confusion_CP.sum(0)[:num_classes]
    present = truth_C > 0
    recall_C = right_C[present] / truth_C[present]
    f1_C = 2 * right_C[present] / (truth_C + predicted_C)[present]
    return float(right_C.sum() / truth_C.sum()), float(recall_C.mean()), float(f1_C.mean())


def _bootstrap(
    truth_N: np.ndarray,
    prediction_N: np.ndarray,
    num_classes: int,
    num_resamples: int,
    seed: int,
) -> list[tuple[float, float]]:
    width = num_classes + 1

    def statistic(cell_N: np.ndarray) -> tuple[float, float, float]:
        counts = np.bincount(cell_N.astype(np.int64), minlength=num_classes * width)
        return _of_confusion(counts.reshape(num_classes, width))

    result = stats.bootstrap(
        (truth_N * width + prediction_N,),
        statistic,
        n_resamples=num_resamples,
        confidence_level=CONFIDENCE,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low_3, high_3 = result.confidence_interval
    return [(float(low), float(high)) for low, high in zip(low_3, high_3, strict=True)]
