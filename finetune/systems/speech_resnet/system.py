"""The system `speech_resnet`: one setting of it, ready to be fitted to any fold."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from accelerate import Accelerator
from safetensors.torch import save_file

from data_pipeline.schema import FeatureSpec, passport_to_json
from finetune.clips.labelled import DatasetError, LabelledClip, LabelledSet
from finetune.config import OptimConfig, TrainSettings
from finetune.protocols import Splits, some
from finetune.recognizer import write_recognizer
from finetune.systems.speech_resnet.augment import SpecAugment
from finetune.systems.speech_resnet.batch import FrameReader, collate
from finetune.systems.speech_resnet.config import Options
from finetune.systems.speech_resnet.head import build_classifier
from finetune.systems.speech_resnet.network import SpeechResNet
from finetune.systems.speech_resnet.recognizer import WEIGHTS
from finetune.systems.speech_resnet.trunk import Trunk
from finetune.training.classifier import Classifier
from finetune.training.fit import Examples, Fit, fit
from finetune.training.refit import Choice, choose_and_refit
from finetune.training.state import TrainingState
from pretrain.runtime import seed_everything


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechResNetSystem:
    """One setting: a trunk, new or of stage 1, and new layers on it."""

    name: ClassVar[str] = "speech_resnet"
    head: ClassVar[str] = "statistics"
    stream: str
    spec: FeatureSpec
    """How the stream was made."""
    shape: dict[str, Any]
    """Of the trunk."""
    trunk: Trunk | None
    """That it starts from."""
    options: Options
    plan: TrainSettings
    classes: tuple[str, ...]
    optim: OptimConfig
    choice: Choice
    judge_oracle: bool = True
    accelerator: Accelerator
    log: logging.Logger

    @property
    def streams(self) -> tuple[str, ...]:
        return (self.stream,)

    @property
    def checkpoint(self) -> Trunk | None:
        return self.trunk

    @property
    def checkpoint_sha256(self) -> str:
        return "" if self.trunk is None else self.trunk.sha256

    @property
    def refits(self) -> bool:
        return self.choice.refits

    def start(self, seed: int) -> list[str]:
        """What its weights come from, for the log."""
        classifier = self.classifier(seed)
        count = sum(weight.numel() for weight in classifier.model.parameters())
        size = f"{count / 1e6:.2f} million weights, width {self.shape['width']}"
        if self.trunk is None:
            return [f"new trunk, {size}"]
        step = self.trunk.provenance["step"]
        state = "frozen" if self.plan.freeze_model else "learning on"
        return [
            f"trunk of {self.trunk.folder}, step {step}, which tells {len(self.trunk.speakers)} "
            f"speakers; {state}; {size}"
        ]

    def warnings(self, clips: LabelledSet) -> list[str]:
        """Nothing: what the guard has to say of a fold stands in `usable`."""
        return []

    def usable(self, splits: Splits, fold: int) -> Splits:
        """All clips, with a note where the trunk knows speakers of dev or test by name.

        Raises DatasetError where no training clip has the stream.
        """
        if not any(clip.sample.has(self.stream) for clip in splits.train):
            raise DatasetError(f"fold {fold}: no training clip has the stream {self.stream}")
        notes = list(splits.notes)
        known = set(() if self.trunk is None else self.trunk.speakers)
        for split in ("dev", "test"):
            shared = known & {clip.named("speaker") for clip in getattr(splits, split)}
            if shared:
                notes.append(
                    f"fold {fold}: the trunk learned to tell speakers of {split}: "
                    f"{some(sorted(shared))}; without them: {_without(shared)}"
                )
        return dataclasses.replace(splits, notes=notes)

    def classifier(self, seed: int) -> Classifier:
        """As training starts from it."""
        seed_everything(seed)
        trunk = SpeechResNet(**self.shape) if self.trunk is None else self.trunk.build()
        trunk.augment = None if self.options.augment is None else SpecAugment(self.options.augment)
        classifier = build_classifier(
            trunk,
            embedding=self.options.embedding,
            dropout=self.options.dropout,
            num_classes=len(self.classes),
        )
        if self.plan.freeze_model:
            classifier.freeze()
        return classifier

    def fit(self, splits: Splits, seed: int) -> Fit:
        """Train on a fold, choose the step, judge the test clips there."""
        return self._fit(splits, seed, None)

    def go_on(self, splits: Splits, seed: int, state: TrainingState) -> Fit:
        """As `fit`, from what is kept there of it, keeping what it comes to."""
        return self._fit(splits, seed, state)

    def _fit(self, splits: Splits, seed: int, state: TrainingState | None) -> Fit:
        if not self.refits:
            return self._train(splits, seed, self.choice.selection, state)
        return choose_and_refit(self._train, splits, seed, state, self.log)

    def _train(
        self,
        splits: Splits,
        seed: int,
        selection: str,
        state: TrainingState | None,
        last_step: int | None = None,
    ) -> Fit:
        return fit(
            self.classifier(seed),
            train=self._examples(splits.train),
            dev=self._examples(splits.dev),
            test=self._examples(splits.test),
            collate=collate,
            num_classes=len(self.classes),
            plan=self.plan,
            optim=self.optim,
            selection=selection,
            eval_every_steps=self.choice.eval_every_steps,
            seed=seed,
            accelerator=self.accelerator,
            log=self.log,
            last_step=last_step,
            judge_oracle=self.judge_oracle,
            state=state,
        )

    def _examples(self, clips: Sequence[LabelledClip]) -> Examples:
        reader = FrameReader(stream=self.stream, mel_bins=self.spec.width)
        return Examples(
            cases_KN=[[reader(clip.sample) for clip in clips]],
            label_N=np.array([clip.label for clip in clips], dtype=np.int64),
        )

    def facts(self) -> dict[str, Any]:
        """All of it that decides a result but the seed."""
        options = dataclasses.asdict(self.options)
        return {
            "system": self.name,
            # The trunk is known by its digest, wherever it lies.
            "options": {k: v for k, v in options.items() if k not in ("trunk", "shape")},
            "plan": dataclasses.asdict(self.plan),
            "classes": self.classes,
            "modalities": self.streams,
            "shape": self.shape,
            "optim": dataclasses.asdict(self.optim),
            "choice": dataclasses.asdict(self.choice),
            "checkpoint_sha256": self.checkpoint_sha256,
        }

    def save(self, folder: Path, result: Fit) -> None:
        """Keep what `result` learned in `folder`, for `load`."""
        weights = {
            name: tensor.detach().to("cpu").contiguous()
            for name, tensor in result.learned.state_dict().items()
        }
        told = {
            "system": self.name,
            "head": self.head,
            "classes": self.classes,
            "modalities": self.streams,
            "precision": self.optim.precision,
            "passport": passport_to_json({self.stream: self.spec}),
            "shape": self.shape,
            "embedding": self.options.embedding,
        }
        write_recognizer(folder, told, lambda folder: save_file(weights, folder / WEIGHTS))

    def forget(self) -> None:
        """Nothing is kept for further runs."""


def _without(speakers: set[str]) -> str:
    """How to make a trunk that does not know them."""
    return f"leave_out=[{', '.join(sorted(speakers)[:3])}{', ...' if len(speakers) > 3 else ''}]"
