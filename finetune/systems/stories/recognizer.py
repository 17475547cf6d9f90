"""Fitted stories, as they are loaded again. N clips, C classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.schema import ClipSample, Passport, passport_from_json
from finetune.clips.labelled import LabelledClip
from finetune.recognizer import Recognizer
from finetune.runs.judge import probabilities
from finetune.systems.stories.kept import read
from finetune.systems.stories.models import Learned
from finetune.systems.stories.story import row_of, story_name, story_of


@dataclass(frozen=True, kw_only=True, eq=False)
class StoriesRecognizer(Recognizer):
    """As `StoriesSystem.save` left it."""

    learned: Learned
    story: str
    """What one is: the column that names it."""
    weighting: str

    def predict(
        self, samples: Sequence[ClipSample], *, passport: Passport | None = None
    ) -> np.ndarray:
        """Probabilities [N, C], float64, in the order of `classes`. Each clip is judged as a story
        of its own, whatever it is given beside; see `predict_stories`.

        Raises SchemaError for clips of other features than the model's, NaN among them.
        """
        self.check(samples, passport)
        if not samples:
            return np.zeros((0, len(self.classes)))
        row_NE = np.stack([row_of(sample, self.passport) for sample in samples])
        return probabilities(self.learned.scores(row_NE))

    def predict_stories(
        self, samples: Sequence[ClipSample], *, passport: Passport | None = None
    ) -> dict[str, np.ndarray]:
        """Name of a story to probabilities [C]: the clips of each together, as the system learned
        them. Raises DatasetError for a clip that names none."""
        self.check(samples, passport)
        members: dict[str, list[ClipSample]] = {}
        for sample in samples:
            name = story_name(LabelledClip(sample=sample, label=-1), self.story)
            members.setdefault(name, []).append(sample)
        stories = [story_of(name, part, self.weighting) for name, part in members.items()]
        return dict(zip(members, self.predict(stories), strict=True))


def load(folder: Path, told: dict[str, Any]) -> StoriesRecognizer:
    """What `StoriesSystem.save` left. `told`: recognizer.json, checked."""
    passport = passport_from_json(told["passport"])
    return StoriesRecognizer(
        classes=tuple(told["classes"]),
        passport={name: passport[name] for name in told["streams"]},
        learned=read(folder, told),
        story=told["options"]["story"],
        weighting=told["options"]["weighting"],
    )
