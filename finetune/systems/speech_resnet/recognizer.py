"""A fitted speech_resnet, as it is loaded again. N clips, C classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from data_pipeline.schema import (
    ClipSample,
    Passport,
    passport_from_json,
)
from finetune.recognizer import Recognizer
from finetune.runs.judge import probabilities
from finetune.systems.speech_resnet.batch import FrameReader, collate
from finetune.systems.speech_resnet.head import build_classifier
from finetune.systems.speech_resnet.network import SpeechResNet
from finetune.training.classifier import Classifier

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeechResNetRecognizer(Recognizer):
    """As `SpeechResNetSystem.save` left it."""

    classifier: Classifier
    reader: FrameReader
    precision: str

    @torch.no_grad()
    def predict(
        self,
        samples: Sequence[ClipSample],
        *,
        passport: Passport | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Probabilities [N, C], float64, in the order of `classes`.

        Raises SchemaError for clips of other features than the model's, NaN among them.
        """
        self.check(samples, passport)
        device = next(self.classifier.parameters()).device
        scores = [np.zeros((0, len(self.classes)), np.float32)]
        for start in range(0, len(samples), batch_size):
            part = samples[start : start + batch_size]
            batch = collate([self.reader(sample) for sample in part]).to(device)
            no_label_N = torch.zeros(len(part), dtype=torch.int64, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                said = self.classifier(batch, no_label_N)
            scores.append(said.scores_NC.float().cpu().numpy())
        return probabilities(np.concatenate(scores))


def load(folder: Path, told: dict[str, Any]) -> SpeechResNetRecognizer:
    """What `SpeechResNetSystem.save` left, on the CPU. `told`: recognizer.json, checked."""
    classes = tuple(told["classes"])
    passport = passport_from_json(told["passport"])
    ((stream, spec),) = passport.items()
    classifier = build_classifier(
        SpeechResNet(**told["shape"]),
        embedding=told["embedding"],
        dropout=0.0,
        num_classes=len(classes),
    )
    classifier.load_state_dict(load_file(folder / WEIGHTS))
    return SpeechResNetRecognizer(
        classes=classes,
        passport=passport,
        classifier=classifier.eval(),
        reader=FrameReader(stream=stream, mel_bins=spec.width),
        precision=told["precision"],
    )
