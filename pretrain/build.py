"""From settings to the parts of a run. Only these functions see both a config and a component."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.config import ConfigError
from data_pipeline.files.weights import WeightsError, resolve_weights
from data_pipeline.schema import Passport
from pretrain.config import DataSettings, ModelSettings, PretrainConfig
from pretrain.data.example import Limits
from pretrain.data.packing import Rows
from pretrain.model.bert_init import BertError, bert_shape, load_bert
from pretrain.model.memobert import MEmoBert
from pretrain.objectives import OBJECTIVES


def build_tokenizer(text_checkpoint: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a BERT checkpoint; `text_checkpoint` as resolve_weights takes it.

    Raises WeightsError when it is neither on this machine nor to be had from the hub, ConfigError
    when it holds no such tokenizer, and BertError when that knows more pieces than the BERT.
    """
    folder_or_name = resolve_weights(text_checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder_or_name)
    except OSError as error:
        raise WeightsError(
            f"cannot get model.text_checkpoint={text_checkpoint}: {error}\nWhere there is no "
            f"network, run `hf download {text_checkpoint} --local-dir FOLDER` on another machine, "
            "copy FOLDER here and set model.text_checkpoint=FOLDER"
        ) from error
    except (TypeError, ValueError) as error:
        raise _no_tokenizer(text_checkpoint) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # config.json alone gives [CLS] and such
        raise _no_tokenizer(text_checkpoint)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"model.text_checkpoint={text_checkpoint} has no fast tokenizer, which "
            "traces words to their pieces; save it once with transformers' BertTokenizerFast"
        )
    pieces, rows = num_pieces(tokenizer), bert_shape(text_checkpoint)["vocab_size"]
    if pieces > rows:
        raise BertError(
            f"the tokenizer of {text_checkpoint} knows {pieces} pieces, its model {rows}; expected "
            "both of one BERT, such as bert-base-uncased. Where pieces were added, call "
            "model.resize_token_embeddings(len(tokenizer)) and save the BERT again beside it"
        )
    return tokenizer


def num_pieces(tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows that a model needs for a tokenizer: its largest id and one."""
    return max(tokenizer.get_vocab().values()) + 1


def _no_tokenizer(text_checkpoint: str) -> ConfigError:
    return ConfigError(
        f"model.text_checkpoint={text_checkpoint} holds no tokenizer that transformers can read; "
        "expected tokenizer.json or vocab.txt beside the config.json of a BERT: copy them from "
        "where its weights came from"
    )


def build_model(settings: ModelSettings, passport: Passport) -> tuple[MEmoBert, list[str]]:
    """The model on the CPU, and lines for the log that say what its weights come from.

    The features' widths come from the passport, so a model never meets features it was not made
    for; a modality that the passport lacks, the model lacks too.
    """
    shape = bert_shape(settings.text_checkpoint) | settings.sizes()
    if shape["width"] % shape["num_heads"]:
        raise ConfigError(
            f"model.width={shape['width']} is no multiple of model.num_heads={shape['num_heads']}"
        )
    model = MEmoBert(
        **shape,
        streams=model_streams(settings.streams, passport),
        objectives=target_widths(settings.streams, passport),
        max_frame_positions=settings.max_frame_positions,
        dropout=settings.dropout,
        positions=settings.positions,
        own_type=settings.own_type,
        attention=settings.attention,
        centered=settings.centered,
    )
    absent = [name for name in settings.streams if name not in passport]
    lines = [f"built without {name}, which the shards do not have" for name in absent]
    if settings.text_init == "none":
        return model, [f"sizes of {settings.text_checkpoint}, every weight new", *lines]
    return model, [*load_bert(model, settings.text_checkpoint), *lines]


def model_streams(names: Sequence[str], passport: Passport) -> list[dict[str, Any]]:
    """What the model must know of each stream that it reads: of `names`, those in the shards."""
    return [
        {"name": name, "width": passport[name].width, "rate_hz": passport[name].rate_hz}
        for name in names
        if name in passport
    ]


def target_widths(names: Sequence[str], passport: Passport) -> dict[str, int]:
    """Objective to the width of its targets, of those that these streams can serve."""
    return {
        name: passport[objective.target].width
        for name, objective in OBJECTIVES.items()
        if objective.stream in names and {objective.stream, objective.target} <= passport.keys()
    }


def build_limits(data: DataSettings, model: ModelSettings, passport: Passport) -> Limits:
    """How much of a clip the model reads."""
    rates_hz = {s["name"]: s["rate_hz"] for s in model_streams(model.streams, passport)}
    return Limits(
        text=data.limits.get("text"),
        frames={name: data.limits.get(name) for name in rates_hz},
        max_text_positions=bert_shape(model.text_checkpoint)["max_text_positions"],
        max_frame_positions=model.max_frame_positions,
        rates_hz=rates_hz if model.positions == "seconds" else None,
    )


def build_rows(config: PretrainConfig, passport: Passport) -> Rows | None:
    """How clips are joined; None: they are padded.

    Raises ConfigError where a clip that the limits allow would not fit.
    """
    data = config.data
    if data.packing == "none":
        return None
    limits = build_limits(data, config.model, passport)
    longest = limits.longest()
    if longest > data.micro_batch_tokens:
        raise ConfigError(
            f"data.micro_batch_tokens={data.micro_batch_tokens}, but a clip may have {longest} "
            f"tokens (data.limits, model.max_frame_positions); set it to {longest} or more"
        )
    return Rows(tokens=data.micro_batch_tokens, clips=data.micro_batch_clips)


def check_objectives(config: PretrainConfig, passport: Passport) -> None:
    """Raise ConfigError when objectives ask for what the shards, the model or the limits leave out;
    it names all of them, and the one override that goes on without them."""
    asked = config.objectives.shares()
    lost: dict[str, str] = {}
    for name in asked:
        objective = OBJECTIVES[name]
        for modality in dict.fromkeys((objective.stream, objective.target)):
            reason = _why_absent(modality, objective.stream, config, passport)
            if reason is not None:
                lost.setdefault(name, f"{modality}, but {reason}")
    if not lost:
        return
    found = []
    for why in dict.fromkeys(lost.values()):
        names = [name for name, reason in lost.items() if reason == why]
        found.append(f"{' and '.join(names)} {'need' if len(names) > 1 else 'needs'} {why}")
    if len(lost) == len(asked):
        way_out = "no objective is left to train on; give other data.shards, or other objectives"
    else:
        off = ", ".join(f"{name}: 0" for name in lost)
        way_out = f"to train on the other objectives: 'objectives.weights={{{off}}}'"
    raise ConfigError("; ".join([*found, way_out]))


def _why_absent(
    modality: str, stream: str, config: PretrainConfig, passport: Passport
) -> str | None:
    """Why an objective of `stream` cannot have `modality`; None: it can."""
    if modality != "text" and modality not in passport:
        return f"the shards hold none (their passport has {', '.join(passport)})"
    if stream != "text" and stream not in config.model.streams:
        return f"model.streams={list(config.model.streams)} leaves {stream} out"
    if config.data.limits.get(stream) == 0:
        return f"data.limits.{stream}=0 leaves it out"
    return None
