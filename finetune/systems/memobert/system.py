"""The system `memobert`: weights (new, bert, checkpoint) x head x plan."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from data_pipeline.config import ConfigError
from data_pipeline.schema import passport_to_json
from finetune.clips.labelled import LabelledClip, LabelledSet, Modality
from finetune.clips.portions import without_long_texts
from finetune.clips.reader import ClipReader, Read, modality_cases
from finetune.config import OptimConfig, PromptConfig, TrainSettings, Weights
from finetune.heads import Training
from finetune.protocols import Splits
from finetune.recognizer import write_recognizer
from finetune.systems.memobert.features import AnySource
from finetune.systems.memobert.recognizer import WEIGHTS, build_classifier
from finetune.systems.memobert.source import tokenizer_sha256
from finetune.training.classifier import Classifier
from finetune.training.fit import Examples, Fit, fit
from finetune.training.refit import CasesChoice, choose_and_refit
from finetune.training.state import TrainingState
from pretrain.checkpoint.folder import Checkpoint
from pretrain.data.example import Example, collate
from pretrain.model.batch import Batch
from pretrain.model.bert_init import bert_sha256
from pretrain.model.memobert import Encoded

JUDGED_CLIPS = 64
"""At once, where a head looks at what the model makes of the training clips."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Memobert:
    """One setting of MEmoBERT, ready to be fitted to any fold."""

    name: ClassVar[str] = "memobert"
    source: AnySource
    weights: Weights
    head: str
    options: dict[str, Any]
    """The head's settings."""
    plan: TrainSettings
    classes: tuple[str, ...]
    modalities: tuple[Modality, ...]
    prompt: PromptConfig
    reader: ClipReader
    read: Read
    """The reader, which remembers what it read (finetune.clips.reader.read_once)."""
    long_texts: str
    """cut, or drop: see finetune.config.DataConfig."""
    max_judged_pieces: int
    optim: OptimConfig
    choice: CasesChoice
    judge_oracle: bool = True
    """Says more of a run and changes none, so it is not among `facts`."""
    accelerator: Accelerator
    log: logging.Logger

    @property
    def streams(self) -> tuple[str, ...]:
        """Those of the model."""
        return tuple(self.source.passport)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The pretrained weights, for a system that starts from them."""
        return self.source.checkpoint if self.weights == "checkpoint" else None

    @property
    def checkpoint_sha256(self) -> str:
        """Of the pretrained weights; empty for a system that starts without."""
        return self.source.checkpoint_sha256 if self.weights == "checkpoint" else ""

    @property
    def _reads_bert(self) -> bool:
        return self.weights == "bert" or (self.weights == "features" and "text" in self.modalities)

    @property
    def refits(self) -> bool:
        """A step is chosen on dev, and then a new model learns from train and dev up to there."""
        return self.choice.refits

    def start(self, seed: int) -> list[str]:
        """What its weights come from, for the log. Raises where it cannot be built, or learn."""
        classifier, lines = self.classifier(seed)
        if self.plan.freeze_model:
            classifier.freeze()
            if not any(weight.requires_grad for weight in classifier.parameters()):
                raise ConfigError(
                    f"plan.freeze_model=true leaves nothing to learn: head {self.head} has no "
                    "weights of its own; set it to false, or take another head"
                )
        return lines

    def warnings(self, clips: LabelledSet) -> list[str]:
        """Of how many clips more is read than pretraining read of any."""
        pretrained = self.source.pretraining
        if pretrained is None or self.checkpoint is None:
            return []
        lines = []
        for modality in self.modalities:
            limit = pretrained.limits.get(modality)
            lengths = [self.reader.num_read(clip.sample, modality) for clip in clips.clips]
            longer = 0 if limit is None else sum(length > limit for length in lengths)
            if longer:
                lines.append(
                    f"{longer} of {len(lengths)} clips are read up to {max(lengths)} {modality} "
                    f"{'pieces' if modality == 'text' else 'frames'}, and pretraining stopped at "
                    f"{limit}: it has taught nothing beyond; data.limits.{modality}=checkpoint "
                    "stops there too"
                )
        return lines

    def usable(self, splits: Splits, fold: int) -> Splits:
        """Without long texts, where they are to be dropped."""
        if self.long_texts != "drop" or "text" not in self.modalities:
            return splits
        return without_long_texts(
            splits,
            lambda clip: self.reader.num_pieces(clip.sample),
            fold=fold,
            max_trained=self.reader.text,
            # The official linear runs read dev and test whole.
            max_judged=None if self.reader.prompt is None else self.max_judged_pieces,
        )

    def classifier(self, seed: int) -> tuple[Classifier, list[str]]:
        """As training starts from it, and lines for the log that say what its weights are."""
        model, lines = self.source.model(self.weights, seed)
        classifier = build_classifier(
            model,
            self.head,
            self.options,
            modalities=self.modalities,
            classes=self.classes,
            tokenizer=self.source.tokenizer,
            prompt=self.prompt,
            frozen=self.plan.freeze_model,
        )
        reads = classifier.head.reads or self.modalities
        unread = [name for name in self.modalities if name not in reads]
        if unread and self.weights == "features":  # in hidden states each depends on the others
            lines.append(
                f"{', '.join(unread)}: nobody reads, head {self.head} has {', '.join(reads)}"
            )
        return classifier, lines

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

    def forget(self) -> None:
        """Free what the reader remembers, after the last run."""
        self.read.cache_clear()

    def _train(
        self,
        splits: Splits,
        seed: int,
        selection: str,
        state: TrainingState | None,
        last_step: int | None = None,
    ) -> Fit:
        classifier = self._prepared(splits, seed)
        return fit(
            classifier,
            train=self._examples(splits.train, self.plan.modality_cases),
            dev=self._examples(splits.dev, self.choice.evaluate_cases),
            test=self._examples(splits.test, self.choice.evaluate_cases),
            collate=self._collate,
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

    def _prepared(self, splits: Splits, seed: int) -> Classifier:
        """As training starts from it, once it has looked at the training clips."""
        classifier, _ = self.classifier(seed)
        classifier.to(self.accelerator.device)
        self.source.prepare(classifier.model, splits.train)
        if self.plan.freeze_model:
            classifier.freeze()

        @torch.no_grad()
        def encoded() -> Iterator[tuple[Encoded, Batch]]:
            classifier.eval()
            for start in range(0, len(splits.train), JUDGED_CLIPS):
                part = splits.train[start : start + JUDGED_CLIPS]
                examples = [self.read(clip, self.modalities) for clip in part]
                batch = self._collate(examples).to(self.accelerator.device)
                yield classifier.model.encode(batch), batch

        classifier.head.prepare(Training(clips=splits.train, encoded=encoded))
        return classifier

    def _collate(self, examples: Sequence[Example], beside: Sequence[Example] = ()) -> Batch:
        return collate(examples, self.source.tokenizer.pad_token_id, beside)

    def _examples(self, clips: Sequence[LabelledClip], cases: str) -> Examples:
        return Examples(
            cases_KN=[
                [self.read(clip, case) for clip in clips]
                for case in modality_cases(self.modalities, cases)
            ],
            label_N=np.array([clip.label for clip in clips], dtype=np.int64),
        )

    def facts(self) -> dict[str, Any]:
        """All of it that decides a result but the seed."""
        return {
            "system": self.name,
            "weights": self.weights,
            "head": self.head,
            "options": self.options,
            "plan": dataclasses.asdict(self.plan),
            "classes": self.classes,  # in their order
            "modalities": self.modalities,
            # As they came out: a limit of `checkpoint` takes the checkpoint's.
            "limits": {"text": self.reader.text, **self.reader.frames},
            "shape": self.source.shape,
            "optim": dataclasses.asdict(self.optim),
            "choice": dataclasses.asdict(self.choice),
            "checkpoint_sha256": self.checkpoint_sha256,
            "bert_sha256": bert_sha256(self.source.bert) if self._reads_bert else "",
            "tokenizer_sha256": tokenizer_sha256(self.source.tokenizer),
            "prompt": "" if self.reader.prompt is None else dataclasses.asdict(self.prompt),
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
            "options": self.options,
            "classes": self.classes,
            "modalities": self.modalities,
            "prompt": dataclasses.asdict(self.prompt),
            "limits": dataclasses.asdict(self.reader.wanted),
            "precision": self.optim.precision,
            "passport": passport_to_json(self.source.passport),
            "encoder": self.source.kind,
            "shape": self.source.shape,
        }

        def write(folder: Path) -> None:
            save_file(weights, folder / WEIGHTS)
            self.source.tokenizer.save_pretrained(str(folder))

        write_recognizer(folder, told, write)
