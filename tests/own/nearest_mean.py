"""A system that the package has never heard of: the class whose mean speech state lies nearest.

No network and no step; `system: own.nearest_mean` in a setting names it.
"""

import json
from dataclasses import dataclass

import numpy as np

from data_pipeline.schema import passport_from_json, passport_to_json
from data_pipeline.shards import load_passport
from finetune.recognizer import Recognizer, write_recognizer
from finetune.training.fit import Fit, Predictions

STREAM = "speech"


def mean_states(samples):
    return np.stack([s.streams[STREAM].values_ND.astype(float).mean(0) for s in samples])


def scores(mean_ND, centre_CD, scale):
    return -scale * ((mean_ND[:, None] - centre_CD) ** 2).sum(-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestMean:
    classes: tuple
    passport: dict
    scale: float

    name = "own.nearest_mean"
    head = "nearest_mean"
    streams = (STREAM,)
    checkpoint = None
    checkpoint_sha256 = ""
    refits = False

    def start(self, seed):
        return ["nothing to start from"]

    def warnings(self, clips):
        return []

    def usable(self, splits, fold):
        return splits

    def facts(self):
        return {"system": "own.nearest_mean", "classes": self.classes, "scale": self.scale}

    def fit(self, splits, seed):
        mean_ND, label_N = mean_states([c.sample for c in splits.train]), labels(splits.train)
        centre_CD = np.stack([mean_ND[label_N == c].mean(0) for c in range(len(self.classes))])
        score_NC = scores(mean_states([c.sample for c in splits.test]), centre_CD, self.scale)
        said = Predictions(scores_NC=score_NC, prediction_N=score_NC.argmax(1), loss=0.0)
        return Fit(learned=centre_CD, step=0, selection_ua=None, test_K=[said], dev_K=[], curve=[])

    def save(self, folder, result):
        told = {"system": "own.nearest_mean", "head": self.head, "classes": self.classes}
        told |= {"modalities": [STREAM], "passport": passport_to_json(self.passport)}

        def write(folder):
            kept = {"centre_CD": result.learned.tolist(), "scale": self.scale}
            (folder / "centres.json").write_text(json.dumps(kept))

        write_recognizer(folder, told, write)

    def forget(self):
        pass


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestMeanRecognizer(Recognizer):
    centre_CD: np.ndarray
    scale: float

    def predict(self, samples, *, passport=None):
        score_NC = np.exp(scores(mean_states(samples), self.centre_CD, self.scale))
        return score_NC / score_NC.sum(1, keepdims=True)


def labels(clips):
    return np.array([clip.label for clip in clips])


def build(config, names, accelerator, log):
    passport = load_passport(config.data.shards, {STREAM})
    return {
        name: NearestMean(
            classes=tuple(config.data.labels),
            passport={STREAM: passport[STREAM]},
            **config.setting(name).options,
        )
        for name in names
    }


def load(folder, told):
    kept = json.loads((folder / "centres.json").read_text())
    return NearestMeanRecognizer(
        classes=tuple(told["classes"]),
        passport=passport_from_json(told["passport"]),
        centre_CD=np.array(kept["centre_CD"]),
        scale=kept["scale"],
    )
