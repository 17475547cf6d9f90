"""What can be read from single states of a speech encoder by a linear map: prosody and a teacher.

    prosody    R2 of a ridge regression of pitch (over voiced states) and energy on the states of
               RAVDESS, fitted on the speakers of the distillation, tested on those kept out
    teacher    a ridge regression of the teacher's standardized states, fitted on sound that the
               encoder heard; mean cosine of its answers with the teacher on talking heads

Shapes: T samples, S states (50 a second), D width, N states of many sounds.
"""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipeline.recipes.speech.corpora import Utterance
from data_pipeline.recipes.speech.prosody import COLUMNS, VOICED, prosody
from data_pipeline.recipes.speech.teachers import FIELD, HOP
from data_pipeline.schema import SAMPLE_RATE

FITTED_EVERY = 5
"""Neighbouring states are alike: a map is fitted on one of so many."""

Describe = Callable[[np.ndarray], np.ndarray]


def ridge() -> Pipeline:
    return make_pipeline(StandardScaler(), Ridge(alpha=10.0))


def at_50_hz(state_SD: np.ndarray, rate_hz: float, states: int) -> np.ndarray:
    """The states at the middles of the encoder's own `states`, nearest in time, as float32."""
    middle_S = (np.arange(states) * HOP + FIELD / 2) / SAMPLE_RATE
    nearest_S = np.clip((middle_S * rate_hz).astype(int), 0, len(state_SD) - 1)
    return state_SD[nearest_S].astype(np.float32)


def prosody_r2(
    describe: Describe, rate_hz: float, sounds: Sequence[np.ndarray], tested: Sequence[bool]
) -> dict[str, tuple[float, int]]:
    """R2 and the number of tested states, for pitch and for energy."""
    tones = [prosody(sound) for sound in sounds]
    states = [
        at_50_hz(describe(x), rate_hz, len(tone)) for x, tone in zip(sounds, tones, strict=True)
    ]
    fit = [i for i, test in enumerate(tested) if not test]
    test = [i for i, test in enumerate(tested) if test]
    x_fit, y_fit = (
        np.concatenate([rows[i][::FITTED_EVERY] for i in fit]) for rows in (states, tones)
    )
    x_test, y_test = (np.concatenate([rows[i] for i in test]) for rows in (states, tones))
    found = {}
    for name in ("log_f0", "energy"):
        column, voicing = COLUMNS.index(name), COLUMNS.index("voicing")
        use_fit, use_test = ((y[:, voicing] > VOICED) | (name == "energy") for y in (y_fit, y_test))
        fitted = ridge().fit(x_fit[use_fit], y_fit[use_fit, column])
        value = r2_score(y_test[use_test, column], fitted.predict(x_test[use_test]))
        found[name] = value, int(use_test.sum())
    return found


def teacher_cosine(
    describe: Describe,
    rate_hz: float,
    teacher: Describe,
    heard: Sequence[np.ndarray],
    tested: Sequence[np.ndarray],
) -> tuple[float, int]:
    """Mean cosine over the tested sounds, and the number of their states."""
    targets = [teacher(sound) for sound in heard]
    states = [at_50_hz(describe(x), rate_hz, len(y)) for x, y in zip(heard, targets, strict=True)]
    x_ND = np.concatenate([x[::FITTED_EVERY] for x in states])
    y_NE = np.concatenate([y[::FITTED_EVERY] for y in targets])
    mean_E, std_E = y_NE.mean(0), y_NE.std(0)
    fitted = ridge().fit(x_ND, (y_NE - mean_E) / std_E)
    cosines, count = [], 0
    for sound in tested:
        target_SE = (teacher(sound) - mean_E) / std_E
        answer_SE = fitted.predict(at_50_hz(describe(sound), rate_hz, len(target_SE)))
        lengths_S = np.linalg.norm(answer_SE, axis=1) * np.linalg.norm(target_SE, axis=1)
        cosines.append(float(np.mean((answer_SE * target_SE).sum(1) / lengths_S)))
        count += len(target_SE)
    return float(np.mean(cosines)), count


def sampled(utterances: Sequence[Utterance], most: int) -> list[Utterance]:
    """At most `most` of them, evenly."""
    return list(utterances[:: -(-len(utterances) // most)])
