"""The metrics of sentiment analysis, as papers on CMU-MOSI and CMU-MOSEI have them. N clips.

A sentiment runs from -3 to 3. WA, UA and macro-F1 of classes are the project's own
(`finetune.metrics`); these stand beside what a model answers, never in a results row.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score


def sentiment_scores(truth_N: np.ndarray, said_N: np.ndarray) -> dict[str, float | None]:
    """mae; corr, Pearson's, None where one side is constant; acc7, of the sentiments rounded to
    -3..3; and accuracy and weighted F1 of the sign, by both conventions: acc2 and f1 tell negative
    from the rest over all clips, acc2_nonzero and f1_nonzero negative from positive over the clips
    whose truth is not 0, None where there are none.

    Raises ValueError for no clips, other lengths, or values that are not finite.
    """
    truth_N, said_N = np.asarray(truth_N, np.float64), np.asarray(said_N, np.float64)
    if truth_N.shape != said_N.shape or truth_N.ndim != 1 or not len(truth_N):
        raise ValueError(
            f"truth {truth_N.shape} and sentiments {said_N.shape}; expected two vectors of one "
            "length, at least 1"
        )
    if not (np.isfinite(truth_N).all() and np.isfinite(said_N).all()):
        raise ValueError("sentiments that are not finite; expected numbers from -3 to 3")
    varied = truth_N.std() > 0 and said_N.std() > 0
    signed_N = truth_N != 0
    return {
        "mae": float(np.abs(truth_N - said_N).mean()),
        "corr": float(np.corrcoef(truth_N, said_N)[0, 1]) if varied else None,
        "acc7": accuracy_score(_sevenths(truth_N), _sevenths(said_N)),
        "acc2": accuracy_score(truth_N >= 0, said_N >= 0),
        "f1": _weighted_f1(truth_N >= 0, said_N >= 0),
        "acc2_nonzero": accuracy_score(truth_N[signed_N] > 0, said_N[signed_N] > 0)
        if signed_N.any()
        else None,
        "f1_nonzero": _weighted_f1(truth_N[signed_N] > 0, said_N[signed_N] > 0)
        if signed_N.any()
        else None,
    }


def emotion_scores(truth: Sequence[str], said: Sequence[str | None]) -> dict[str, float]:
    """accuracy and weighted F1; an answer that names no class (None) is wrong."""
    said = ["" if one is None else one for one in said]
    return {
        "accuracy": accuracy_score(truth, said),
        "weighted_f1": f1_score(
            truth, said, labels=sorted(set(truth)), average="weighted", zero_division=0
        ),
    }


def _sevenths(sentiment_N: np.ndarray) -> np.ndarray:
    return np.round(np.clip(sentiment_N, -3, 3)).astype(int)


def _weighted_f1(truth_N: np.ndarray, said_N: np.ndarray) -> float:
    return float(f1_score(truth_N, said_N, average="weighted", zero_division=0))
