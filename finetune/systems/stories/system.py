"""The system `stories`: one setting of it, ready to be fitted to any fold."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_pipeline.schema import Passport, passport_to_json
from finetune.clips.labelled import DatasetError, LabelledClip, LabelledSet
from finetune.metrics import score
from finetune.protocols import Splits
from finetune.recognizer import write_recognizer
from finetune.systems.stories.config import Options
from finetune.systems.stories.kept import told_of, write
from finetune.systems.stories.models import Folds, Learned, cross_entropy, inner_folds, search
from finetune.systems.stories.story import check_whole, group_of, row_of, stories_of, story_name
from finetune.training.fit import Fit, Predictions
from finetune.training.refit import choose_and_refit
from finetune.training.state import TrainingState

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoriesSystem:
    """One setting: streams of stories, and the models that are tried on them."""

    name: ClassVar[str] = "stories"
    checkpoint: ClassVar[None] = None
    checkpoint_sha256: ClassVar[str] = ""
    passport: Passport
    """Of its streams."""
    cases: list[tuple[str, ...]]
    """Modality cases that are judged, the full one first."""
    options: Options
    classes: tuple[str, ...]
    selection: str
    """dev, oracle or last."""
    train_on: str
    """train, or train+dev."""
    judge_oracle: bool
    log: logging.Logger

    @property
    def head(self) -> str:
        return "+".join(self.options.models)

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self.passport)

    @property
    def refits(self) -> bool:
        return self.train_on == "train+dev" and self.selection == "dev"

    def start(self, seed: int) -> list[str]:
        """What is learned from, for the log."""
        widths = ", ".join(f"{name} {spec.width}" for name, spec in self.passport.items())
        return [f"stories by {self.options.story}: {widths}; {', '.join(self.options.models)}"]

    def warnings(self, clips: LabelledSet) -> list[str]:
        """How few the stories are."""
        names = {story_name(clip, self.options.story) for clip in clips.clips}
        return [f"{len(clips.clips)} clips are {len(names)} stories, which rows count"]

    def usable(self, splits: Splits, fold: int) -> Splits:
        """The stories of the clips: what is learned from, and judged, is one story each. Those of
        train that have no stream are left out, and counted; those of dev and test are judged
        unseen.

        Raises DatasetError for a story with two labels, or in two splits, for a stream that no
        story of train has, and for an inner search that cannot be.
        """
        clips = {split: getattr(splits, split) for split in SPLITS}
        by = self.options.story
        check_whole(clips, by, fold)
        stories = {
            split: stories_of(part, by, self.options.weighting, self.classes)
            for split, part in clips.items()
        }
        train = [s for s in stories["train"] if any(map(s.sample.has, self.streams))]
        for name in self.streams:
            if not any(story.sample.has(name) for story in train):
                raise DatasetError(f"fold {fold}: no training story has the stream {name}")
        self._folds(train, _labels(train), seed=0)  # what cannot be dealt is told before any run
        notes = list(splits.notes)
        if bare := len(stories["train"]) - len(train):
            notes.append(
                f"fold {fold}: {bare} of {len(stories['train'])} training stories have none of "
                f"{', '.join(self.streams)}: left out"
            )
        return dataclasses.replace(splits, **(stories | {"train": train}), notes=notes)

    def fit(self, splits: Splits, seed: int) -> Fit:
        """Search each model's parameters inside train, choose the model, judge the test stories."""
        if not self.refits:
            return self._train(splits, seed, self.selection, None)
        return choose_and_refit(self._train, splits, seed, None, self.log)

    def _train(
        self,
        splits: Splits,
        seed: int,
        selection: str,
        state: TrainingState | None,
        last_step: int | None = None,
    ) -> Fit:
        learned = self._search(splits.train, seed)
        on_dev = [self._ua(one, splits.dev) for one in learned]
        on_test = [self._ua(one, splits.test) for one in learned]
        inner = [one.inner_ua for one in learned]
        by = {"dev": on_dev, "oracle": on_test, "last": inner}[selection]
        best = int(np.argmax(by)) if last_step is None else last_step - 1
        chosen = learned[best]
        self.log.info(_line(learned, on_dev, best))
        oracle = None
        if self.judge_oracle and (selection == "dev" or last_step is not None):
            oracle = self._oracle(learned, splits.test, int(np.argmax(on_test)))
        cases = self.cases if splits.dev and len(self.cases) > 1 else []
        return Fit(
            learned=chosen,
            step=best + 1,
            selection_ua=by[best] if selection != "last" else None,
            test_K=[self._judge(chosen, splits.test, case) for case in self.cases],
            dev_K=[self._judge(chosen, splits.dev, case) for case in cases],
            curve=[],
            oracle=oracle,
        )

    def _search(self, stories: Sequence[LabelledClip], seed: int) -> list[Learned]:
        row_NE, label_N = self._rows(stories), _labels(stories)
        folds = self._folds(stories, label_N, seed)
        return [
            search(model, row_NE, label_N, len(self.classes), folds, seed)
            for model in self.options.models
        ]

    def _folds(self, stories: Sequence[LabelledClip], label_N: np.ndarray, seed: int) -> Folds:
        group_N = np.array([group_of(story, self.options.groups) for story in stories])
        return inner_folds(label_N, group_N, self.options.inner_folds, seed)

    def _rows(
        self, stories: Sequence[LabelledClip], case: tuple[str, ...] | None = None
    ) -> np.ndarray:
        shown = self.streams if case is None else case
        return np.stack([row_of(story.sample.only(shown), self.passport) for story in stories])

    def _judge(
        self, learned: Learned, stories: Sequence[LabelledClip], case: tuple[str, ...]
    ) -> Predictions:
        said_NC = learned.scores(self._rows(stories, case))
        return Predictions(
            scores_NC=said_NC,
            prediction_N=said_NC.argmax(1),
            loss=cross_entropy(said_NC, _labels(stories)),
        )

    def _scores(self, learned: Learned, stories: Sequence[LabelledClip]) -> Any:
        said_N = learned.scores(self._rows(stories)).argmax(1)
        return score(_labels(stories), said_N, len(self.classes))

    def _ua(self, learned: Learned, stories: Sequence[LabelledClip]) -> float:
        return self._scores(learned, stories).ua if stories else float("nan")

    def _oracle(
        self, learned: Sequence[Learned], stories: Sequence[LabelledClip], best: int
    ) -> dict[str, Any]:
        """What the model that the test stories would have chosen comes to."""
        found = self._scores(learned[best], stories)
        told = {"oracle_wa": found.wa, "oracle_ua": found.ua, "oracle_macro_f1": found.macro_f1}
        return {"step": best + 1, **told}

    def facts(self) -> dict[str, Any]:
        """All of it that decides a result but the seed."""
        return {
            "system": self.name,
            "options": dataclasses.asdict(self.options),
            "classes": self.classes,
            "modalities": self.streams,
            "choice": {"selection": self.selection, "train_on": self.train_on},
        }

    def save(self, folder: Path, result: Fit) -> None:
        """Keep what `result` learned in `folder`, for `load`."""
        learned: Learned = result.learned
        told = {
            "system": self.name,
            "head": learned.model,
            "classes": self.classes,
            "modalities": self.streams,
            "passport": passport_to_json(self.passport),
            "streams": self.streams,
            "options": dataclasses.asdict(self.options),
            **told_of(learned),
        }
        write_recognizer(folder, told, lambda folder: write(folder, learned))

    def forget(self) -> None:
        """Nothing is kept for further runs."""


def _labels(stories: Sequence[LabelledClip]) -> np.ndarray:
    return np.array([story.label for story in stories], dtype=np.int64)


def _line(learned: Sequence[Learned], on_dev: Sequence[float], best: int) -> str:
    """What each model came to, the chosen one marked."""
    told = []
    for n, (one, dev) in enumerate(zip(learned, on_dev, strict=True)):
        parameters = ", ".join(f"{name} {value}" for name, value in one.parameters.items())
        beside = "" if np.isnan(dev) else f", dev {dev:.3f}"
        mark = "*" if n == best else ""
        told.append(f"{one.model}{mark} ({parameters}) UA inner {one.inner_ua:.3f}{beside}")
    return "; ".join(told)
