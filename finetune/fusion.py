"""Decisions of several recognizers, fused into one.

    class_N, share_NC = monte_carlo(decision_MN, confusion_MCC)   # Monte Carlo over confusions
    product(posterior_MNC, prior_C)                               # plain product of posteriors
    weighted_sum(posterior_MNC, weight_M, prior_C)

Monte Carlo decision fusion merges a face's and an EEG's decision in "Face and EEG" (Biomedical
Signal Processing and Control 70, 2021, 103029). Its formula is not published; this is our reading,
a Bayesian one. What recognizer m says of class c is a draw from row c of its confusion matrix. That
matrix is known from few clips, so it is drawn too, from the Dirichlet posterior of its counts; so
are the shares of the classes. In each draw the class of a clip is drawn from

    p(c) ~ pi_c prod_m theta_m[c, what m says]

and the class that comes most often is the decision. A recognizer that is never wrong is followed,
one whose matrix says nothing is not, and few counts make nobody sure.

M recognizers, N clips, C classes, R draws. A recognizer that abstains of a clip decides ABSTAINS,
and has NaN for its posterior; it is left out there.
"""

import numpy as np

from data_pipeline.errors import UserError

ABSTAINS = -1
NUM_DRAWS = 10_000
PSEUDO_COUNT = 1.0
"""Of every cell of a confusion matrix: a uniform Dirichlet prior on each of its rows."""
SUM_TOLERANCE = 1e-3


class FusionError(UserError):
    """Decisions or posteriors that cannot be fused."""


def check_posteriors(posterior_NC: np.ndarray, whose: str) -> None:
    """Raise FusionError where a row is no distribution over the classes; NaN rows abstain."""
    abstains_N = np.isnan(posterior_NC).all(1)
    rest_NC = posterior_NC[~abstains_N]
    sum_N = rest_NC.sum(1)
    bad_N = ~(np.abs(sum_N - 1) <= SUM_TOLERANCE) | (rest_NC < 0).any(1)
    if bad_N.any():
        row = int(np.flatnonzero(~abstains_N)[bad_N.argmax()])
        found = ", ".join(f"{p:.3g}" for p in posterior_NC[row])
        raise FusionError(
            f"{whose}: the posterior of clip {row} is {found}, which sums to "
            f"{posterior_NC[row].sum():.3g}; expected probabilities that sum to 1"
        )


def decisions(posterior_NC: np.ndarray) -> np.ndarray:
    """[N]: the likeliest class, or ABSTAINS."""
    abstains_N = np.isnan(posterior_NC).all(1)
    return np.where(abstains_N, ABSTAINS, np.nan_to_num(posterior_NC).argmax(1))


def confusion(truth_N: np.ndarray, decision_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts [C, C], rows truth; without the clips of which nothing was decided."""
    decided_N = decision_N != ABSTAINS
    counts_CC = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts_CC, (truth_N[decided_N], decision_N[decided_N]), 1)
    return counts_CC


def monte_carlo(
    decision_MN: np.ndarray,
    confusion_MCC: np.ndarray,
    count_C: np.ndarray | None = None,
    *,
    num_draws: int = NUM_DRAWS,
    pseudo_count: float = PSEUDO_COUNT,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The class of each clip [N], and how often each class was drawn, shares [N, C].

    confusion_MCC: counts on clips that neither taught nor are judged, rows truth. count_C: how
    often each class is there, for the prior; None: each as often as another.
    """
    rng = np.random.default_rng(seed)
    num_classes = confusion_MCC.shape[-1]
    theta_MRCC = np.stack(
        [_dirichlet(counts_CC + pseudo_count, num_draws, rng) for counts_CC in confusion_MCC]
    )
    prior_RC = np.full((num_draws, num_classes), 1 / num_classes)
    if count_C is not None:
        prior_RC = _dirichlet(np.asarray(count_C) + pseudo_count, num_draws, rng)
    # Clips of which all say the same have the same answer.
    said_KM, of_N = np.unique(decision_MN.T, axis=0, return_inverse=True)
    share_KC = np.empty((len(said_KM), num_classes))
    for k, said_M in enumerate(said_KM):
        weight_RC = prior_RC.copy()
        for theta_RCC, said in zip(theta_MRCC, said_M, strict=True):
            if said != ABSTAINS:
                weight_RC *= theta_RCC[:, :, said]
        below_RC = weight_RC.cumsum(1)
        at_R = rng.random(num_draws) * below_RC[:, -1]
        drawn_R = (at_R[:, None] >= below_RC).sum(1)
        share_KC[k] = np.bincount(drawn_R, minlength=num_classes) / num_draws
    share_NC = share_KC[of_N.reshape(-1)]
    return share_NC.argmax(1), share_NC


def product(posterior_MNC: np.ndarray, prior_C: np.ndarray) -> np.ndarray:
    """[N, C]: the product of the posteriors, scaled to sum to 1; the prior where all abstain."""
    log_NC = np.nan_to_num(np.log(np.maximum(posterior_MNC, 1e-12))).sum(0)
    return _scaled(np.exp(log_NC - log_NC.max(1, keepdims=True)), posterior_MNC, prior_C)


def weighted_sum(
    posterior_MNC: np.ndarray, weight_M: np.ndarray, prior_C: np.ndarray
) -> np.ndarray:
    """[N, C]: the mean of the posteriors by weight; the prior where all abstain."""
    sum_NC = (np.nan_to_num(posterior_MNC) * weight_M[:, None, None]).sum(0)
    return _scaled(sum_NC, posterior_MNC, prior_C)


def _scaled(value_NC: np.ndarray, posterior_MNC: np.ndarray, prior_C: np.ndarray) -> np.ndarray:
    nobody_N = np.isnan(posterior_MNC).all((0, 2))
    value_NC = np.where(nobody_N[:, None], prior_C, value_NC)
    return value_NC / value_NC.sum(1, keepdims=True)


def _dirichlet(alpha: np.ndarray, num_draws: int, rng: np.random.Generator) -> np.ndarray:
    """[R, *alpha.shape]: each row of `alpha` drawn by itself."""
    drawn = rng.standard_gamma(alpha, size=(num_draws, *alpha.shape))
    return drawn / drawn.sum(-1, keepdims=True)
