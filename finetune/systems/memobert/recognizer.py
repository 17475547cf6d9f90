"""A fitted MEmoBERT, as it is loaded again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.config import check_settings
from data_pipeline.schema import (
    ClipSample,
    Passport,
    passport_from_json,
)
from finetune.clips.labelled import Modality
from finetune.clips.prompt import Prompt
from finetune.clips.reader import ClipReader
from finetune.config import PromptConfig
from finetune.heads import HeadParts, head_named
from finetune.recognizer import Recognizer
from finetune.runs.judge import probabilities
from finetune.systems.memobert.encoders import (
    Encoder,
    build_encoder,
    pooled_width_of,
    widths_of,
)
from finetune.systems.memobert.features import Features
from finetune.training.classifier import Classifier
from pretrain.data.example import Limits, collate

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class MemobertRecognizer(Recognizer):
    """A fitted MEmoBERT, as `Memobert.save` left it."""

    classifier: Classifier
    reader: ClipReader
    modalities: tuple[Modality, ...]
    precision: str
    temperatures: dict[str, float]
    """Subset of the modalities, "text+face", to what the logits of a clip with these are divided
    by, see finetune.calibrate; 1 where there is none."""

    @torch.no_grad()
    def predict(
        self,
        samples: Sequence[ClipSample],
        *,
        passport: Passport | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Probabilities [N, C], float64, in the order of `classes`.

        passport: by which the samples were made, where it is known; see `Recognizer.read`.
        Raises SchemaError for clips of other features than the model's.
        """
        self.check(samples, passport)
        device = next(self.classifier.parameters()).device
        pad_id = self.reader.tokenizer.pad_token_id
        scores = [np.zeros((0, len(self.classes)), np.float32)]
        for start in range(0, len(samples), batch_size):
            part = samples[start : start + batch_size]
            examples = [self.reader(sample, self.modalities) for sample in part]
            batch = collate(examples, pad_id=pad_id).to(device)
            no_label_N = torch.zeros(len(part), dtype=torch.int64, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                said = self.classifier(batch, no_label_N)
            cases = ["+".join(filter(s.has, self.modalities)) for s in part]
            temperature_N1 = [[self.temperatures.get(case, 1.0)] for case in cases]
            scores.append(said.scores_NC.float().cpu().numpy() / np.float32(temperature_N1))
        return probabilities(np.concatenate(scores))


def build_classifier(
    encoder: Encoder,
    head: str,
    options: dict[str, Any],
    *,
    modalities: tuple[Modality, ...],
    classes: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    prompt: PromptConfig,
    frozen: bool,
) -> Classifier:
    """`encoder` with the head of that name, new, and its `options`. Raises ConfigError for one that
    the head has not."""
    kind = head_named(head)
    parts = HeadParts(
        model=encoder,
        width=pooled_width_of(encoder),
        widths=widths_of(encoder, modalities),
        classes=classes,
        tokenizer=tokenizer,
        prompt=prompt,
        frozen=frozen or isinstance(encoder, Features),
        settings=check_settings(kind.Settings, options, "options"),
    )
    return Classifier(encoder, kind.build(parts))


def load(folder: Path, told: dict[str, Any]) -> MemobertRecognizer:
    """What `Memobert.save` left, on the CPU. `told`: recognizer.json, checked."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    classes, prompt = tuple(told["classes"]), PromptConfig(**told["prompt"])
    classifier = build_classifier(
        build_encoder(told.get("encoder", "memobert"), told["shape"]),
        told["head"],
        told["options"],
        modalities=tuple(told["modalities"]),
        classes=classes,
        tokenizer=tokenizer,
        prompt=prompt,
        frozen=True,
    )
    classifier.load_state_dict(load_file(folder / WEIGHTS))
    asked = Prompt(prompt.template, tokenizer) if classifier.head.asks else None
    return MemobertRecognizer(
        classes=classes,
        classifier=classifier.eval(),
        reader=ClipReader(tokenizer, Limits(**told["limits"]), prompt=asked),
        modalities=tuple(told["modalities"]),
        precision=told["precision"],
        temperatures=told.get("temperatures", {}),
        passport=passport_from_json(told["passport"]),
    )
