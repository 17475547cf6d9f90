"""Classical models on rows that are z-normalised, filled where a stream is missing, z-normalised.

What a stream lacks is NaN: the first normalisation takes its mean over the others, and zero, which
is that mean, stands for it from there on.

Shapes: N stories, E width, C classes.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import ParameterGrid, StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight

from finetune.clips.labelled import DatasetError
from finetune.metrics import score

Folds = list[tuple[np.ndarray, np.ndarray]]
"""(rows to learn from, rows held out)."""
LEAST = np.log(1e-6)
"""Of a log probability: of what a model rules out, and of classes that it was never shown."""
MODELS: dict[str, tuple[Callable[..., Any], list[dict[str, list[Any]]]]] = {
    "svm": (
        lambda seed, **said: SVC(break_ties=True, **said),
        [{"kernel": ["linear"], "C": [1e-3, 1e-2, 1e-1]}, {"kernel": ["rbf"], "C": [0.3, 1, 10]}],
    ),
    "logistic": (
        lambda seed, **said: LogisticRegression(max_iter=2000, **said),
        [{"C": [1e-4, 1e-3, 1e-2, 1e-1]}],
    ),
    "forest": (
        lambda seed, **said: RandomForestClassifier(100, random_state=seed, **said),
        [{"min_samples_leaf": [1, 5]}],
    ),
    "boosting": (
        lambda seed, **said: GradientBoostingClassifier(
            n_estimators=60, max_features="sqrt", subsample=0.7, random_state=seed, **said
        ),
        [{"learning_rate": [0.05, 0.15]}],
    ),
}
"""How each is made, and the grid of its parameters."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """A model that was fitted, and how sure it may be."""

    model: str
    parameters: dict[str, Any]
    """Those that the inner search found best."""
    inner_ua: float
    """There, over all held-out rows together."""
    temperature: float
    """By which scores are divided, so that probabilities fitted those rows best."""
    pipeline: Pipeline
    num_classes: int

    def scores(self, row_NE: np.ndarray) -> np.ndarray:
        """[N, C] float64, log probabilities."""
        score_NC = raw_scores(self.pipeline, row_NE, self.num_classes)
        return log_probabilities(score_NC, self.temperature)


def search(
    model: str, row_NE: np.ndarray, label_N: np.ndarray, num_classes: int, folds: Folds, seed: int
) -> Learned:
    """The model with the parameters of the best UA on held-out rows, fitted to all rows."""
    held_N = np.concatenate([held for _, held in folds])
    best: tuple[float, dict[str, Any], np.ndarray] | None = None
    for parameters in ParameterGrid(MODELS[model][1]):
        score_NC = np.concatenate(
            [
                raw_scores(
                    fit(model, parameters, row_NE[taught], label_N[taught], seed),
                    row_NE[held],
                    num_classes,
                )
                for taught, held in folds
            ]
        )
        ua = score(label_N[held_N], score_NC.argmax(1), num_classes).ua
        if best is None or ua > best[0]:
            best = ua, parameters, score_NC
    ua, parameters, score_NC = best
    return Learned(
        model=model,
        parameters=parameters,
        inner_ua=ua,
        temperature=temperature_of(score_NC, label_N[held_N]),
        pipeline=fit(model, parameters, row_NE, label_N, seed),
        num_classes=num_classes,
    )


def fit(
    model: str, parameters: dict[str, Any], row_NE: np.ndarray, label_N: np.ndarray, seed: int
) -> Pipeline:
    """One pipeline; each class weighs as much."""
    pipeline = Pipeline(
        [
            ("normalise", StandardScaler()),
            (
                "fill",
                SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True),
            ),
            ("normalise_again", StandardScaler()),
            ("model", MODELS[model][0](seed, **parameters)),
        ]
    )
    weight_N = compute_sample_weight("balanced", label_N)
    return pipeline.fit(row_NE, label_N, model__sample_weight=weight_N)


def raw_scores(pipeline: Pipeline, row_NE: np.ndarray, num_classes: int) -> np.ndarray:
    """[N, C]: decision values, or log probabilities; LEAST below all others for classes that the
    model was not shown."""
    if hasattr(pipeline, "decision_function"):
        found_NC = pipeline.decision_function(row_NE)
        if found_NC.ndim == 1:  # of two classes it says how far the second leads
            found_NC = np.stack([np.zeros_like(found_NC), found_NC], 1)
    else:
        found_NC = np.log(np.maximum(pipeline.predict_proba(row_NE), np.exp(LEAST)))
    score_NC = np.repeat(found_NC.min(1, keepdims=True) + LEAST, num_classes, 1)
    score_NC[:, pipeline.classes_] = found_NC
    return score_NC


def log_probabilities(score_NC: np.ndarray, temperature: float) -> np.ndarray:
    return np.maximum(log_softmax(score_NC / temperature, axis=1), LEAST)


def temperature_of(score_NC: np.ndarray, label_N: np.ndarray) -> float:
    """The T of the least mean cross-entropy of softmax(score / T) (Guo et al. 2017), 0.05 to 20."""

    def loss(log_t: float) -> float:
        return cross_entropy(log_probabilities(score_NC, np.exp(log_t)), label_N)

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def cross_entropy(said_NC: np.ndarray, label_N: np.ndarray) -> float:
    """Mean of minus the log probability of the true class."""
    return float(-said_NC[np.arange(len(label_N)), label_N].mean())


def inner_folds(label_N: np.ndarray, group_N: np.ndarray, most: int, seed: int) -> Folds:
    """At most so many folds of whole groups, each with every class alike where that can be; of them
    those whose training part has two classes. Raises DatasetError where there are none."""
    counts_C = np.bincount(label_N)
    count = min(most, len(set(group_N)), counts_C.max())
    if count >= 2:
        deal = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with fewer rows than folds
            folds = list(deal.split(label_N, label_N, group_N))
        if kept := [(t, h) for t, h in folds if len(h) and len(set(label_N[t])) > 1]:
            return kept
    raise DatasetError(
        f"the inner search cannot hold out whole groups of {len(label_N)} training stories, of "
        f"{len(set(group_N))} groups and classes of {', '.join(map(str, counts_C))}: at least two "
        "groups, and a class with two stories, are needed; use options.groups=story, or "
        "more stories"
    )
