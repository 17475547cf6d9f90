"""A fitted unimse, as it is loaded again. N clips, C classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_model
from transformers import AutoTokenizer

from data_pipeline.schema import ClipSample, Passport, passport_from_json
from finetune.recognizer import Recognizer
from finetune.runs.judge import probabilities
from finetune.systems.unimse.answers import AnswerBook
from finetune.systems.unimse.batch import TurnReader, Turns
from finetune.systems.unimse.config import Adapters, Contrast
from finetune.systems.unimse.head import build_classifier
from finetune.systems.unimse.network import FusedT5
from finetune.systems.unimse.t5 import new_t5
from finetune.training.classifier import Classifier

WEIGHTS = "model.safetensors"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class UniMseRecognizer(Recognizer):
    """As `UniMseSystem.save` left it."""

    classifier: Classifier
    reader: TurnReader
    precision: str

    def predict(
        self,
        samples: Sequence[ClipSample],
        *,
        passport: Passport | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Probabilities [N, C], float64, in the order of `classes`: of the likelihood of each
        class's answer, whatever the setting was judged by.

        Raises SchemaError for clips of other features than the model's, NaN among them.
        """
        scores = self._asked(
            samples,
            passport,
            batch_size,
            lambda batch: self.classifier.model.encode(batch).scores_NC.float().cpu().numpy(),
        )
        return probabilities(np.concatenate([np.zeros((0, len(self.classes))), *scores]))

    def answer(
        self,
        samples: Sequence[ClipSample],
        *,
        passport: Passport | None = None,
        batch_size: int = 32,
    ) -> list[dict[str, str | float | None]]:
        """What it answers to each clip, token by token: field to word or score, None where the
        answer has nothing there that it may have. Raises SchemaError as `predict`."""
        answers = self._asked(samples, passport, batch_size, self.classifier.model.answer)
        return [answer for part in answers for answer in part]

    @torch.no_grad()
    def _asked(
        self,
        samples: Sequence[ClipSample],
        passport: Passport | None,
        batch_size: int,
        ask: Callable[[Turns], T],
    ) -> list[T]:
        """What `ask` says of each batch."""
        self.check(samples, passport)
        device = next(self.classifier.parameters()).device
        said = []
        for start in range(0, len(samples), batch_size):
            turns = [self.reader(sample) for sample in samples[start : start + batch_size]]
            batch = self.reader.collate(turns).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                said.append(ask(batch))
        return said


def load(folder: Path, told: dict[str, Any]) -> UniMseRecognizer:
    """What `UniMseSystem.save` left, on the CPU. `told`: recognizer.json, checked."""
    passport = passport_from_json(told["passport"])
    widths = {name: passport[name].width for name in told["modalities"] if name in passport}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    classifier = build_classifier(
        FusedT5(new_t5(told["t5"]), widths, Adapters(**told["adapters"])),
        AnswerBook.from_json(told["book"], tokenizer),
        decode="likelihood",
        contrast=Contrast(**told["contrast"]),
    )
    load_model(classifier, folder / WEIGHTS)
    return UniMseRecognizer(
        classes=tuple(told["classes"]),
        passport=passport,
        classifier=classifier.eval(),
        reader=TurnReader(
            tokenizer=tokenizer, prefix=told["prefix"], widths=widths, limits=told["limits"]
        ),
        precision=told["precision"],
    )
