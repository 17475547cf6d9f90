"""The system `unimse`: one setting of it, ready to be fitted to any fold."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from accelerate import Accelerator
from safetensors.torch import save_model

from data_pipeline.files.weights import sha256_of
from data_pipeline.schema import Passport, passport_to_json
from finetune.clips.labelled import DatasetError, LabelledClip, LabelledSet, Modality
from finetune.clips.reader import modality_cases
from finetune.config import OptimConfig, TrainSettings
from finetune.protocols import Splits
from finetune.recognizer import write_recognizer
from finetune.systems.memobert.source import tokenizer_sha256
from finetune.systems.unimse.answers import AnswerBook
from finetune.systems.unimse.batch import Turn, TurnReader
from finetune.systems.unimse.config import Options
from finetune.systems.unimse.head import build_classifier
from finetune.systems.unimse.labels.lesson import Lesson, Teacher
from finetune.systems.unimse.network import FusedT5
from finetune.systems.unimse.recognizer import WEIGHTS
from finetune.systems.unimse.t5 import Base, PretrainedT5
from finetune.training.classifier import Classifier
from finetune.training.fit import Examples, Fit, fit
from finetune.training.refit import CasesChoice, choose_and_refit
from finetune.training.state import TrainingState


@dataclass(frozen=True, kw_only=True, eq=False)
class UniMseSystem:
    """One setting: a T5, with or without adapters, and the labels that it learns."""

    name: ClassVar[str] = "unimse"
    head: ClassVar[str] = "answer"
    modalities: tuple[Modality, ...]
    passport: Passport
    """Of the streams that it reads; without adapters none."""
    base: Base
    teacher: Teacher
    reader: TurnReader
    options: Options
    plan: TrainSettings
    classes: tuple[str, ...]
    optim: OptimConfig
    choice: CasesChoice
    judge_oracle: bool = True
    accelerator: Accelerator
    log: logging.Logger

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self.passport)

    @property
    def checkpoint(self) -> PretrainedT5 | None:
        return self.base.start

    @property
    def checkpoint_sha256(self) -> str:
        return self.base.sha256

    @property
    def refits(self) -> bool:
        return self.choice.refits

    def start(self, seed: int) -> list[str]:
        """What its weights come from, what learns of it, and what it answers, for the log."""
        weights = list(self.classifier(seed, {}).parameters())
        learning = sum(weight.numel() for weight in weights if weight.requires_grad)
        size = sum(weight.numel() for weight in weights)
        name = "new T5" if self.base.name is None else f"T5 of {self.base.name}"
        lines = [f"{name}, {size / 1e6:.2f} million weights, {learning / 1e6:.2f} of them learn"]
        lines.append(f"an answer has {', '.join(field.name for field in self.teacher.fields)}")
        if unread := [m for m in self.modalities if m not in ("text", *self.passport)]:
            lines.append(f"{', '.join(unread)}: nobody reads, there are no adapters")
        return lines

    def warnings(self, clips: LabelledSet) -> list[str]:
        """Nothing: what there is to say of a fold stands in `usable`."""
        return []

    def usable(self, splits: Splits, fold: int) -> Splits:
        """All clips, with notes on what sources could not give.

        Raises DatasetError where no training clip has one of the streams.
        """
        for name in self.streams:
            if not any(clip.sample.has(name) for clip in splits.train):
                raise DatasetError(
                    f"fold {fold}: no training clip has the stream {name}; leave it out of "
                    "data.modalities, or extract it"
                )
        notes = [f"fold {fold}: {note}" for note in self.teacher.lesson(splits, 0).notes]
        return dataclasses.replace(splits, notes=[*splits.notes, *notes])

    def classifier(self, seed: int, typical: dict[str, str]) -> Classifier:
        """As training starts from it; `typical`: see `AnswerBook`."""
        t5 = self.base.model(seed)  # which seeds
        fused = FusedT5(t5, self.reader.widths, self.options.adapters)
        if self.options.learning_blocks is not None:
            fused.learn_blocks(self.options.learning_blocks)
        polarities, tokenizer = self.teacher.polarities, self.base.tokenizer
        book = AnswerBook.build(self.teacher.fields, polarities, typical, tokenizer)
        return build_classifier(
            fused, book, decode=self.options.decode, contrast=self.options.contrast
        )

    def fit(self, splits: Splits, seed: int) -> Fit:
        """Train on a fold, choose the step, judge the test clips there."""
        return self._fit(splits, seed, None)

    def go_on(self, splits: Splits, seed: int, state: TrainingState) -> Fit:
        """As `fit`, from what is kept there of it, keeping what it comes to."""
        return self._fit(splits, seed, state)

    def _fit(self, splits: Splits, seed: int, state: TrainingState | None) -> Fit:
        if self.refits:
            found = choose_and_refit(self._train, splits, seed, state, self.log)
        else:
            found = self._train(splits, seed, self.choice.selection, state)
        if self.options.decode == "generate":
            none = int((found.test.prediction_N == len(self.classes)).sum())
            self.log.info(f"{none} of {len(splits.test)} test answers name no class: wrong")
        return found

    def _train(
        self,
        splits: Splits,
        seed: int,
        selection: str,
        state: TrainingState | None,
        last_step: int | None = None,
    ) -> Fit:
        lesson = self.teacher.lesson(splits, seed)
        classifier = self.classifier(seed, lesson.typical)
        return fit(
            classifier,
            train=self._taught(splits.train, lesson, classifier.model.book),
            dev=self._judged(splits.dev),
            test=self._judged(splits.test),
            collate=self.reader.collate,
            num_classes=len(self.classes),
            selection=selection,
            last_step=last_step,
            state=state,
            seed=seed,
            plan=self.plan,
            optim=self.optim,
            eval_every_steps=self.choice.eval_every_steps,
            judge_oracle=self.judge_oracle,
            accelerator=self.accelerator,
            log=self.log,
        )

    def _taught(self, clips: Sequence[LabelledClip], lesson: Lesson, book: AnswerBook) -> Examples:
        """Training clips with their answers, in each modality case of the plan; then texts of
        sources, the same in each."""
        answers = [book.ids(values) for values in lesson.values]
        own, others = answers[: len(clips)], answers[len(clips) :]
        borrowed = [
            Turn(ids_T=self.reader.pieces(text), streams={}, has_text=True, answer_A=np.array(ids))
            for text, ids in zip(lesson.borrowed, others, strict=True)
        ]
        cases = [
            [self.reader(c.sample.only(case), ids) for c, ids in zip(clips, own, strict=True)]
            for case in modality_cases(self.modalities, self.plan.modality_cases)
        ]
        return Examples(cases_KN=[turns + borrowed for turns in cases], label_N=lesson.label_N)

    def _judged(self, clips: Sequence[LabelledClip]) -> Examples:
        cases = modality_cases(self.modalities, self.choice.evaluate_cases)
        return Examples(
            cases_KN=[[self.reader(c.sample.only(case)) for c in clips] for case in cases],
            label_N=np.array([clip.label for clip in clips], dtype=np.int64),
        )

    def facts(self) -> dict[str, Any]:
        """All of it that decides a result but the seed."""
        options = dataclasses.asdict(self.options)
        # A T5 and a table are known by their digests, wherever they lie.
        sources = {
            name: {**said, "table": sha256_of(said["table"])}
            for name, said in options["sources"].items()
        }
        options = {k: v for k, v in options.items() if k not in ("t5", "shape", "sources")}
        return {
            "system": self.name,
            "options": options | {"sources": sources},
            "plan": dataclasses.asdict(self.plan),
            "classes": self.classes,
            "modalities": self.modalities,
            "limits": self.reader.limits,
            "t5": self.base.config,
            "tokenizer_sha256": tokenizer_sha256(self.base.tokenizer),
            "polarities": self.teacher.polarities,
            "optim": dataclasses.asdict(self.optim),
            "choice": dataclasses.asdict(self.choice),
            "checkpoint_sha256": self.checkpoint_sha256,
        }

    def save(self, folder: Path, result: Fit) -> None:
        """Keep what `result` learned in `folder`, for `load`."""
        classifier = result.learned.cpu()
        told = {
            "system": self.name,
            "head": self.head,
            "classes": self.classes,
            "modalities": ("text", *self.streams),
            "precision": self.optim.precision,
            "passport": passport_to_json(self.passport),
            "t5": self.base.config,
            "adapters": dataclasses.asdict(self.options.adapters),
            "contrast": dataclasses.asdict(self.options.contrast),
            "book": classifier.model.book.to_json(),
            "prefix": self.options.prefix,
            "limits": self.reader.limits,
        }

        def write(folder: Path) -> None:
            save_model(classifier, str(folder / WEIGHTS))
            self.base.tokenizer.save_pretrained(str(folder))

        write_recognizer(folder, told, write)

    def forget(self) -> None:
        """Nothing is kept for further runs but what a sentence encoder made of the texts."""
        self.teacher.similarity.known.clear()
