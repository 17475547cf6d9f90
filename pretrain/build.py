"""From settings to the parts of a run. Only these functions see both a config and a component."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.config import ConfigError
from data_pipeline.schema import Passport
from data_pipeline.shards import list_shards, read_manifest
from data_pipeline.weights import WeightsError, resolve_weights
from pretrain.config import DataSettings, ModelSettings, PretrainConfig
from pretrain.example import Limits
from pretrain.loader import ShardClips, index_shards
from pretrain.masking import TASK_MODALITY
from pretrain.model.bert_init import BertError, bert_shape, load_bert
from pretrain.model.memobert import MEmoBert
from pretrain.validation import choose_held_out, split_shards


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
        face_width=passport["face"].width if "face" in passport else None,
        speech_width=passport["speech"].width if "speech" in passport else None,
        max_frame_positions=settings.max_frame_positions,
        dropout=settings.dropout,
        positions=settings.positions,
        speech_type=settings.speech_type,
        attention=settings.attention,
    )
    if settings.text_init == "none":
        return model, [f"sizes of {settings.text_checkpoint}, every weight new"]
    return model, load_bert(model, settings.text_checkpoint)


def build_limits(data: DataSettings, model: ModelSettings) -> Limits:
    """How much of a clip the model reads."""
    return Limits(
        max_pieces=data.max_text_pieces,
        max_faces=data.max_face_frames,
        max_speech=data.max_speech_frames,
        max_text_positions=bert_shape(model.text_checkpoint)["max_text_positions"],
        max_frame_positions=model.max_frame_positions,
        positions=model.positions,
    )


def held_out_shards(data: DataSettings) -> tuple[list[ShardClips], list[ShardClips]]:
    """(training clips, held-out clips): a folder of their own, or a share of all."""
    shards = index_shards(data.shards)
    check_shards([*data.shards, *data.validation_shards])
    if data.validation_shards:
        return shards, index_shards(data.validation_shards)
    ids = [clip for shard in shards for clip in shard.ids]
    budget = min(round(data.validation_share * len(ids)), data.validation_clips)
    return split_shards(shards, choose_held_out(ids, budget))


def check_shards(folders: list[str]) -> None:
    """Raise ConfigError when one shard lies in two places: its clips would count double, or be held
    out and trained on."""
    first: dict[str, Path] = {}
    for tar in [tar for folder in folders for tar in list_shards(folder)]:
        manifest = read_manifest(tar.with_suffix(".json"))
        if manifest.samples and first.setdefault(manifest.sha256, tar) != tar:
            raise ConfigError(
                f"{first[manifest.sha256]} and {tar} are the same shard, so its clips would count "
                "double; leave one of their folders out of data.shards and data.validation_shards"
            )


def check_objectives(config: PretrainConfig, passport: Passport) -> None:
    """Raise ConfigError when objectives ask for modalities that the shards or the limits leave out;
    it names all of them, and the one override that goes on without them."""
    data, asked = config.data, config.objectives.shares()
    why = {
        "text": "data.max_text_pieces=0 leaves it out" if data.max_text_pieces == 0 else None,
        "face": "data.max_face_frames=0 leaves it out" if data.max_face_frames == 0 else None,
        "speech": "data.max_speech_frames=0 leaves it out" if data.max_speech_frames == 0 else None,
    }
    for modality in {"face", "speech"} - passport.keys():
        why[modality] = f"the shards hold none (their passport has {', '.join(passport)})"
    lost = [task for task in asked if why[TASK_MODALITY[task]]]
    if not lost:
        return
    found = []
    for modality, reason in why.items():
        tasks = [task for task in lost if TASK_MODALITY[task] == modality]
        if tasks:
            verb = "need" if len(tasks) > 1 else "needs"
            found.append(f"{' and '.join(tasks)} {verb} {modality}, but {reason}")
    if len(lost) == len(asked):
        way_out = "no objective is left to train on; give other data.shards, or other objectives"
    else:
        off = ", ".join(f"{task}: 0" for task in lost)
        way_out = f"to train on the other objectives: 'objectives.weights={{{off}}}'"
    raise ConfigError("; ".join([*found, way_out]))
