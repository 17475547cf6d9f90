"""Where the models of a run come from: a checkpoint, a BERT, or nothing; all are of one shape."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from data_pipeline.config import ConfigError
from data_pipeline.schema import Passport, check_passport
from data_pipeline.shards import load_passport
from finetune.clips.labelled import LabelledClip, Modality
from finetune.config import Weights
from pretrain.build import build_tokenizer, model_streams, target_widths
from pretrain.checkpoint.folder import Checkpoint, load_checkpoint
from pretrain.checkpoint.integrity import weights_sha256
from pretrain.config import DataSettings
from pretrain.model.bert_init import bert_shape, load_bert
from pretrain.model.memobert import MEmoBert
from pretrain.objectives import OBJECTIVES, streams_of
from pretrain.runtime import seed_everything

DEFAULT_STREAMS = ("face", "speech")
"""Of a model that starts without a checkpoint, whichever modalities are in use."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Where the models of a run come from."""

    shape: dict[str, Any]
    """Arguments of MEmoBert, the same for all settings."""
    passport: Passport
    """Of the streams that the model reads."""
    tokenizer: PreTrainedTokenizerBase
    checkpoint: Checkpoint | None
    checkpoint_sha256: str
    """Of the pretrained weights; empty without a checkpoint."""
    bert: str
    kind: ClassVar[str] = "memobert"

    @classmethod
    def load(
        cls,
        checkpoint: str | None,
        bert: str,
        shards: Sequence[str],
        modalities: Sequence[Modality],
    ) -> "Source":
        """Read the checkpoint, or the shape of the BERT when there is none.

        Raises SchemaError when the clips in `shards` were made by another feature passport than
        the checkpoint's, BertError when the BERT's tokenizer knows more pieces than the BERT, and
        ConfigError for a modality that the model does not read.
        """
        if checkpoint is None:
            source = cls._of_bert(bert, shards, modalities)
        else:
            source = cls._of_checkpoint(checkpoint, bert, shards)
        strange = [name for name in modalities if name not in ("text", *source.passport)]
        if strange:
            raise ConfigError(
                f"data.modalities lists {', '.join(strange)}, but the model reads text"
                + "".join(f", {name}" for name in source.passport)
                + "; leave it out, or pretrain with it in model.streams"
            )
        return source

    @classmethod
    def _of_bert(cls, bert: str, shards: Sequence[str], modalities: Sequence[Modality]) -> "Source":
        names = [n for n in dict.fromkeys((*DEFAULT_STREAMS, *modalities)) if n != "text"]
        answered = [name for name, o in OBJECTIVES.items() if o.stream in names]
        passport = load_passport(shards, streams_of(names, answered))
        shape: dict[str, Any] = bert_shape(bert) | {
            "streams": model_streams(names, passport),
            "objectives": target_widths(names, passport),
        }
        return cls(
            shape=shape,
            passport={name: passport[name] for name in names if name in passport},
            tokenizer=build_tokenizer(bert),
            checkpoint=None,
            checkpoint_sha256="",
            bert=bert,
        )

    @classmethod
    def _of_checkpoint(cls, folder: str, bert: str, shards: Sequence[str]) -> "Source":
        checkpoint = load_checkpoint(folder)
        shape = json.loads((checkpoint.folder / "config.json").read_text())
        passport = {s["name"]: checkpoint.passport[s["name"]] for s in shape["streams"]}
        check_passport(load_passport(shards, passport), passport, ", ".join(shards))
        return cls(
            shape=shape,
            passport=passport,
            tokenizer=checkpoint.tokenizer,
            checkpoint=checkpoint,
            checkpoint_sha256=weights_sha256(checkpoint.folder),
            bert=bert,
        )

    @property
    def pretraining(self) -> DataSettings | None:
        """How pretraining read its clips, where that is known."""
        if self.checkpoint is None or self.checkpoint.config is None:
            return None
        return self.checkpoint.config.data

    @property
    def reach(self) -> dict[str, Any]:
        """What of `Limits` the model's tables of positions say."""
        by_time = self.shape.get("positions") == "seconds"
        return {
            "max_text_positions": self.shape["max_text_positions"],
            "max_frame_positions": self.shape.get("max_frame_positions", 512),
            "rates_hz": self.rates_hz if by_time else None,
        }

    @property
    def rates_hz(self) -> dict[str, float]:
        """Stream to rows a second, in the model's order."""
        return {stream["name"]: stream["rate_hz"] for stream in self.shape["streams"]}

    def model(self, weights: Weights, seed: int) -> tuple[MEmoBert, list[str]]:
        """A fresh model, and lines for the log that say what its weights come from.

        `seed` decides whatever these weights leave new. Raises BertError when the BERT is of
        another size than the checkpoint.
        """
        seed_everything(seed)
        model = MEmoBert(**self.shape)
        if weights == "checkpoint":
            assert self.checkpoint is not None, "FinetuneConfig has checked it"
            model.load_state_dict(self.checkpoint.model.state_dict())
            return model, [f"from {self.checkpoint.folder}: every weight of the model"]
        if weights == "bert":
            return model, load_bert(model, self.bert)
        return model, ["every weight new"]

    def prepare(self, model: MEmoBert, train: Sequence[LabelledClip]) -> None:
        """Nothing of the model depends on the training clips before its first step."""


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of what decides a text's pieces: the vocabulary, and how text is brought to it."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = [told[name] for name in ("model", "added_tokens", "normalizer", "pre_tokenizer")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
