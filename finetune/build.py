"""Models of the four settings, all of one shape, from a checkpoint, from BERT, or from nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from data_pipeline.schema import Passport, check_passport
from data_pipeline.weights import sha256_of
from finetune.classifiers import HeadClassifier, PromptClassifier
from finetune.config import FinetuneConfig, ModelConfig, Setting
from finetune.encode import ClipEncoder
from finetune.heads import LinearHead
from finetune.prompt import Prompt, Verbalizer
from pretrain.build import build_tokenizer
from pretrain.checkpoint import Checkpoint, load_checkpoint
from pretrain.model.bert_init import bert_shape, load_bert
from pretrain.model.memobert import MEmoBert
from pretrain.runtime import seed_everything


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
        checkpoint's.
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
            checkpoint_sha256=sha256_of(checkpoint.folder / "model.safetensors"),
            bert=config.bert,
        )

    def pretrained_on(self, folders: Sequence[str]) -> bool:
        """Whether pretraining read any of these shard folders."""
        if self.checkpoint is None or self.checkpoint.config is None:
            return False
        read = {Path(folder).resolve() for folder in self.checkpoint.config.data.shards}
        return bool(read & {Path(folder).resolve() for folder in folders})

    def model(self, setting: Setting, seed: int) -> MEmoBert:
        """A fresh model; `seed` decides whatever the setting leaves new."""
        seed_everything(seed)
        model = MEmoBert(**self.shape)
        if uses_checkpoint(setting):
            assert self.checkpoint is not None, "FinetuneConfig has checked it"
            model.load_state_dict(self.checkpoint.model.state_dict())
        elif setting == "bert_direct":
            load_bert(model, self.bert)
        return model


def build_classifier(
    source: Source, setting: Setting, seed: int, classes: tuple[str, ...], config: FinetuneConfig
) -> nn.Module:
    """The classifier of one setting, as training starts from it."""
    model = source.model(setting, seed)
    if uses_prompt(setting):
        verbalizer = Verbalizer.build(classes, config.prompt.words, source.tokenizer)
        return PromptClassifier(model, verbalizer, config.prompt.decode)
    return HeadClassifier(model, LinearHead(source.shape["width"], len(classes)))


def build_encoder(source: Source, setting: Setting, config: FinetuneConfig) -> ClipEncoder:
    """How one setting reads a clip."""
    data = config.data
    max_faces, max_speech = data.max_faces, data.max_speech_states
    if source.checkpoint is not None and source.checkpoint.config is not None:
        # Positions beyond those of pretraining have learned nothing.
        pretrained = source.checkpoint.config.data
        max_faces = pretrained.max_face_frames if max_faces is None else max_faces
        max_speech = pretrained.max_speech_frames if max_speech is None else max_speech
    prompt = Prompt(config.prompt.template, source.tokenizer) if uses_prompt(setting) else None
    return ClipEncoder(
        source.tokenizer,
        prompt=prompt,
        max_text_pieces=data.max_text_pieces,
        max_faces=max_faces,
        max_speech=max_speech,
        max_text_positions=source.shape["max_text_positions"],
        max_frame_positions=source.shape.get("max_frame_positions", 512),
        positions=source.shape.get("positions", "index"),
    )
