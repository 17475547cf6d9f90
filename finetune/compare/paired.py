"""Statistics of two systems that were judged on the same things: units (runs, folds) or clips.

U units, N clips, C classes, R bootstrap draws. A difference is always A - B. All that is drawn is
drawn by a fixed seed, so that the same rows give the same digits.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune.metrics import CONFIDENCE

NUM_RESAMPLES = 5000
SEED = 0
CHUNK = 100  # draws at once: 100 x 10,000 clips are 8 MB


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean, and where it may lie."""

    mean: float
    low: float | None
    """95 %: Student's over units, a percentile bootstrap's over clips; None for fewer than two."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class PairedUnits:
    """Two systems over the same U units."""

    num_units: int
    a: Interval
    b: Interval
    difference: Interval
    p_t: float | None
    """Two-sided, of the paired t-test; None for fewer than two units, and where all differ by the
    very same amount, which leaves no spread to measure it by."""
    p_wilcoxon: float | None
    """Two-sided, of the signed-rank test; None for fewer than two units."""

    @property
    def least_wilcoxon(self) -> float:
        """The least p that so many units can give: all of them differ in one direction."""
        return 2.0 ** (1 - self.num_units)


@dataclass(frozen=True, kw_only=True)
class PairedClips:
    """Two systems over the same N clips."""

    num_clips: int
    wa: Interval
    """Difference in the share of clips that are right; drawn are clips."""
    ua: Interval
    """Difference in the mean recall over the classes that are there."""
    only_a: int
    """Clips that A alone has right."""
    only_b: int
    p_mcnemar: float
    """Two-sided, exact: whether those are as many as these."""


def compare_units(a_U: np.ndarray, b_U: np.ndarray) -> PairedUnits:
    """Scores of both systems on the same units, in the same order."""
    difference_U = a_U - b_U
    several = len(difference_U) > 1
    return PairedUnits(
        num_units=len(difference_U),
        a=_interval(a_U),
        b=_interval(b_U),
        difference=_interval(difference_U),
        p_t=_p_t(difference_U) if several else None,
        p_wilcoxon=_p_wilcoxon(difference_U) if several else None,
    )


def compare_clips(truth_N: np.ndarray, a_N: np.ndarray, b_N: np.ndarray) -> PairedClips:
    """Truth, and what both say of the same clips, as any values that can be compared."""
    right_a_N, right_b_N = a_N == truth_N, b_N == truth_N
    only_a, only_b = int((right_a_N & ~right_b_N).sum()), int((right_b_N & ~right_a_N).sum())
    wa, ua = _over_clips(truth_N, right_a_N.astype(float) - right_b_N)
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return PairedClips(
        num_clips=len(truth_N),
        wa=wa,
        ua=ua,
        only_a=only_a,
        only_b=only_b,
        p_mcnemar=float(p),
    )


def _interval(value_U: np.ndarray) -> Interval:
    """Student's, as the t-test: of five values a bootstrap's covers 84 % in place of 95 %."""
    mean = float(np.mean(value_U))
    if len(value_U) < 2:
        return Interval(mean=mean, low=None, high=None)
    error = float(np.std(value_U, ddof=1) / np.sqrt(len(value_U)))
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(value_U) - 1))
    return Interval(mean=mean, low=mean - reach, high=mean + reach)


def _over_clips(truth_N: np.ndarray, difference_N: np.ndarray) -> tuple[Interval, Interval]:
    """Of the difference in WA and in UA. `difference_N`: 1, 0, -1 a clip."""
    _, class_N = np.unique(truth_N, return_inverse=True)
    member_NC = np.eye(class_N.max() + 1)[class_N]
    gain_NC = member_NC * difference_N[:, None]

    def scores(weight_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count_RC, gain_RC = weight_RN @ member_NC, weight_RN @ gain_NC
        share_RC = np.divide(
            gain_RC, count_RC, where=count_RC > 0, out=np.full_like(gain_RC, np.nan)
        )
        return gain_RC.sum(1) / count_RC.sum(1), np.nanmean(share_RC, axis=1)

    num_clips = len(truth_N)
    (wa,), (ua,) = scores(np.ones((1, num_clips)))
    rng = np.random.default_rng(SEED)
    even_N = np.full(num_clips, 1 / num_clips)
    parts = [
        scores(rng.multinomial(num_clips, even_N, size=CHUNK).astype(float))
        for _ in range(NUM_RESAMPLES // CHUNK)
    ]
    wa_R, ua_R = (np.concatenate(of) for of in zip(*parts, strict=True))
    return _percentiles(float(wa), wa_R), _percentiles(float(ua), ua_R)


def _percentiles(mean: float, value_R: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(value_R, (tail, 1 - tail))
    return Interval(mean=mean, low=float(low), high=float(high))


def _p_t(difference_U: np.ndarray) -> float | None:
    if np.ptp(difference_U) < 1e-12:  # scipy would divide by rounding
        return 1.0 if abs(difference_U[0]) < 1e-12 else None
    return float(stats.ttest_1samp(difference_U, 0.0).pvalue)


def _p_wilcoxon(difference_U: np.ndarray) -> float:
    """Rounded, so that differences which are equal but for rounding are tied."""
    difference_U = np.round(difference_U, 12)
    if not difference_U.any():
        return 1.0
    p = float(stats.wilcoxon(difference_U).pvalue)
    return 1.0 if math.isnan(p) else p
