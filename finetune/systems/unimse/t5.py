"""The T5 that a setting starts from: a pretrained one, or a new one of some shape."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)

from data_pipeline.errors import UserError
from data_pipeline.files.weights import resolve_weights
from finetune.recognizer import SHIPPED
from finetune.systems.unimse.answers import eos_of
from finetune.systems.unimse.config import Options, Shape
from pretrain.runtime import seed_everything

NOT_READ = (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError)
"""What transformers raises for a folder that holds something else."""


class T5Error(UserError):
    """A name under which there is no T5, or no tokenizer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """Where the T5s of a setting come from."""

    config: dict[str, Any]
    """Of transformers' T5Config."""
    tokenizer: PreTrainedTokenizerBase
    name: str | None
    """Of the pretrained one; None for a new one."""
    sha256: str
    """Of the pretrained weights; empty for a new one."""

    @classmethod
    def load(cls, options: Options) -> "Base":
        """Raises T5Error for a name under which there is none, or that is not whole."""
        if options.t5 is None:
            return cls._new(options.shape or Shape())
        tokenizer = load_tokenizer(options.t5)
        t5 = _pretrained(options.t5)
        if len(tokenizer) > t5.config.vocab_size:
            raise T5Error(
                f"options.t5={options.t5}: its tokenizer knows {len(tokenizer)} pieces, its T5 "
                f"{t5.config.vocab_size}; they are not of one model"
            )
        digest = hashlib.sha256()
        for name, tensor in sorted(t5.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return cls(
            config=t5.config.to_dict(),
            tokenizer=tokenizer,
            name=options.t5,
            sha256=digest.hexdigest(),
        )

    @classmethod
    def _new(cls, shape: Shape) -> "Base":
        tokenizer = load_tokenizer(shape.tokenizer or str(SHIPPED))
        config = T5Config(
            vocab_size=len(tokenizer),
            d_model=shape.d_model,
            d_kv=shape.d_model // shape.num_heads,
            d_ff=shape.d_ff,
            num_layers=shape.num_layers,
            num_decoder_layers=shape.num_layers,
            num_heads=shape.num_heads,
            dropout_rate=shape.dropout,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=eos_of(tokenizer),
            decoder_start_token_id=tokenizer.pad_token_id,
        )
        return cls(config=config.to_dict(), tokenizer=tokenizer, name=None, sha256="")

    @property
    def num_blocks(self) -> int:
        """Of the smaller of its two stacks."""
        return min(self.config["num_layers"], self.config["num_decoder_layers"])

    def model(self, seed: int) -> T5ForConditionalGeneration:
        """With the pretrained weights, or new ones of `seed`."""
        seed_everything(seed)
        return new_t5(self.config) if self.name is None else _pretrained(self.name)

    @property
    def start(self) -> "PretrainedT5 | None":
        """What the overlap guard and the model card ask of; None for a new one."""
        if self.name is None:
            return None
        return PretrainedT5(
            folder=Path(resolve_weights(self.name)),
            provenance={"step": "not stated", "corpora": [f"of the T5 {self.name}"]},
        )


@dataclass(frozen=True, kw_only=True)
class PretrainedT5:
    """A `finetune.systems.Start`: nobody has a list of what it read."""

    what: ClassVar[str] = "A pretrained T5"
    config: ClassVar[None] = None
    folder: Path
    provenance: dict[str, Any]


def new_t5(config: dict[str, Any]) -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(T5Config.from_dict(dict(config)))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Raises T5Error where there is none of that name, WeightsError for a package that is not
    installed, ConfigError for one without padding or end."""
    where = resolve_weights(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
    except NOT_READ as error:
        raise T5Error(f"no tokenizer in {name}: {_first_line(error)}; {_ways(name)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # made of config.json alone
        raise T5Error(f"the tokenizer of {name} knows no words; {_ways(name)}")
    eos_of(tokenizer)
    return tokenizer


def _pretrained(name: str) -> T5ForConditionalGeneration:
    where = resolve_weights(name)
    try:
        kind = AutoConfig.from_pretrained(where).model_type
    except NOT_READ as error:
        raise T5Error(f"no T5 in {name}: {_first_line(error)}; {_ways(name)}") from error
    if kind != "t5":
        raise T5Error(f"options.t5={name} is a model of type {kind}; {_ways(name)}")
    try:
        t5, told = T5ForConditionalGeneration.from_pretrained(
            where, use_safetensors=True, output_loading_info=True
        )
    except NOT_READ as error:
        raise T5Error(
            f"{name} has no weights of a T5: {_first_line(error)}; {_ways(name)}"
        ) from error
    if missing := sorted(told["missing_keys"]):
        raise T5Error(
            f"the T5 in {name} lacks {', '.join(missing[:3])}, {len(missing)} weights in all; "
            f"{_ways(name)}"
        )
    return t5.float()


def _ways(name: str) -> str:
    return (
        "expected a folder that T5ForConditionalGeneration.save_pretrained and its tokenizer's "
        "wrote (safetensors), package:MODULE/FOLDER, or a name on the hub such as "
        f"google-t5/t5-base; where there is no network: hf download {name} --local-dir FOLDER"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
