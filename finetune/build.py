"""Models of the four settings, all of one shape, from a checkpoint, from BERT, or from nothing."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from data_pipeline.config import ConfigError
from data_pipeline.schema import Passport, check_passport
from finetune.classifiers import HeadClassifier, PromptClassifier
from finetune.config import DataConfig, FinetuneConfig, ModelConfig, Setting
from finetune.datasets import LabelledSet, Modality
from finetune.encode import ClipEncoder
from finetune.heads import LinearHead
from finetune.prompt import Prompt, Verbalizer
from pretrain.build import build_tokenizer
from pretrain.checkpoint import Checkpoint, load_checkpoint
from pretrain.config import DataSettings
from pretrain.integrity import weights_sha256
from pretrain.model.bert_init import bert_shape, load_bert
from pretrain.model.memobert import MEmoBert
from pretrain.runtime import seed_everything

LIMITS = {"text": "max_text_pieces", "face": "max_face_frames", "speech": "max_speech_frames"}
"""Modality to the setting that says how much of it is read, in pretraining and in finetuning."""


def uses_prompt(setting: Setting) -> bool:
    """True when the emotion is read off [MASK], false for the linear head."""
    return setting == "pretrain_prompt"


def uses_checkpoint(setting: Setting) -> bool:
    """True when the weights are those of the pretrained model."""
    return setting in ("pretrain_finetune", "pretrain_prompt")


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Where the models of a run come from."""

    shape: dict[str, Any]
    """Arguments of MEmoBert, the same for all settings."""
    tokenizer: PreTrainedTokenizerBase
    checkpoint: Checkpoint | None
    checkpoint_sha256: str
    """Of the pretrained weights; empty without a checkpoint."""
    bert: str

    @classmethod
    def load(cls, config: ModelConfig, passport: Passport, where: str) -> "Source":
        """Read the checkpoint, or the shape of the BERT when there is none.

        Raises SchemaError when the clips `where` were made by another feature passport than the
        checkpoint's, BertError when the BERT's tokenizer knows more pieces than the BERT.
        """
        if config.checkpoint is None:
            shape: dict[str, Any] = bert_shape(config.bert)
            for modality in ("face", "speech"):
                spec = passport.get(modality)
                shape[f"{modality}_width"] = None if spec is None else spec.width
            return cls(
                shape=shape,
                tokenizer=build_tokenizer(config.bert),
                checkpoint=None,
                checkpoint_sha256="",
                bert=config.bert,
            )
        checkpoint = load_checkpoint(config.checkpoint)
        check_passport(passport, checkpoint.passport, where)
        return cls(
            shape=json.loads((checkpoint.folder / "config.json").read_text()),
            tokenizer=checkpoint.tokenizer,
            checkpoint=checkpoint,
            checkpoint_sha256=weights_sha256(checkpoint.folder),
            bert=config.bert,
        )

    @property
    def tokenizer_sha256(self) -> str:
        """Of what decides a text's pieces: the vocabulary, and how text is brought to it."""
        told = json.loads(self.tokenizer.backend_tokenizer.to_str())
        parts = [told[name] for name in ("model", "added_tokens", "normalizer", "pre_tokenizer")]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def model(self, setting: Setting, seed: int) -> tuple[MEmoBert, list[str]]:
        """A fresh model, and lines for the log that say what its weights come from.

        `seed` decides whatever the setting leaves new. Raises BertError when the BERT is of
        another size than the checkpoint.
        """
        seed_everything(seed)
        model = MEmoBert(**self.shape)
        if uses_checkpoint(setting):
            assert self.checkpoint is not None, "FinetuneConfig has checked it"
            model.load_state_dict(self.checkpoint.model.state_dict())
            return model, [f"from {self.checkpoint.folder}: every weight of the model"]
        if setting == "bert_direct":
            return model, load_bert(model, self.bert)
        return model, ["every weight new"]


def build_classifier(
    source: Source, setting: Setting, seed: int, classes: tuple[str, ...], config: FinetuneConfig
) -> tuple[nn.Module, list[str]]:
    """The classifier of one setting, as training starts from it, and lines for the log."""
    model, lines = source.model(setting, seed)
    if uses_prompt(setting):
        verbalizer = Verbalizer.build(classes, config.prompt.words, source.tokenizer)
        return PromptClassifier(model, verbalizer, config.prompt.decode), lines
    return HeadClassifier(model, LinearHead(source.shape["width"], len(classes))), lines


def build_encoder(source: Source, setting: Setting, config: FinetuneConfig) -> ClipEncoder:
    """How one setting reads a clip. Raises ConfigError when it reads none of a modality in use."""
    limits = [_limit(source, config.data, name) for name in LIMITS.values()]
    prompt = Prompt(config.prompt.template, source.tokenizer) if uses_prompt(setting) else None
    encoder = ClipEncoder(
        source.tokenizer,
        prompt=prompt,
        max_text_pieces=limits[0],
        max_faces=limits[1],
        max_speech=limits[2],
        max_text_positions=source.shape["max_text_positions"],
        max_frame_positions=source.shape.get("max_frame_positions", 512),
        positions=source.shape.get("positions", "index"),
    )
    _check_modalities(encoder, config.data)
    return encoder


def _limit(source: Source, data: DataConfig, name: str) -> int | None:
    limit = getattr(data, name)
    if limit != "checkpoint":
        return limit
    pretrained = _pretraining(source)
    return None if pretrained is None else getattr(pretrained, name)


def _pretraining(source: Source) -> DataSettings | None:
    """How pretraining read its clips, where that is known."""
    if source.checkpoint is None or source.checkpoint.config is None:
        return None
    return source.checkpoint.config.data


def check_label_words(source: Source, classes: tuple[str, ...], config: FinetuneConfig) -> None:
    """Raise PromptError for a word that [MASK] cannot hold, if any setting asks for words."""
    if any(map(uses_prompt, config.settings)):
        Verbalizer.build(classes, config.prompt.words, source.tokenizer)


def beyond_pretraining(
    source: Source, encoder: ClipEncoder, clips: LabelledSet, modalities: Sequence[Modality]
) -> list[str]:
    """Warnings: of how many clips more is read than pretraining read of any."""
    pretrained = _pretraining(source)
    if pretrained is None:
        return []
    samples = [clip.sample for clip in clips.clips]
    lengths = {
        "text": [encoder.num_pieces_read(sample) for sample in samples],
        "face": [0 if s.face is None else min(len(s.face), encoder.max_faces) for s in samples],
        "speech": [
            0 if s.speech is None else min(len(s.speech), encoder.max_speech) for s in samples
        ],
    }
    lines = []
    for modality in modalities:
        name = LIMITS[modality]
        limit = getattr(pretrained, name)
        longer = 0 if limit is None else sum(length > limit for length in lengths[modality])
        if longer:
            lines.append(
                f"{longer} of {len(samples)} clips are read up to {max(lengths[modality])} "
                f"{name[4:].replace('_', ' ')}, and pretraining stopped at {limit}: it "
                f"has taught nothing beyond; data.{name}=checkpoint stops there too"
            )
    return lines


def _check_modalities(encoder: ClipEncoder, data: DataConfig) -> None:
    read = {"text": encoder.max_pieces, "face": encoder.max_faces, "speech": encoder.max_speech}
    for modality in data.modalities:
        name = LIMITS[modality]
        said = getattr(data, name)
        if read[modality] < 1:
            of_checkpoint = ", which was pretrained on none" if said == "checkpoint" else ""
            raise ConfigError(
                f"data.modalities lists {modality}, but none of it would be read: data.{name} is "
                f"{said}{of_checkpoint}; leave {modality} out of data.modalities, or set "
                f"data.{name}"
            )
