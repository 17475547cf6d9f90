"""From settings to the parts of a run. Only these functions see both a config and a component."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.config import ConfigError
from data_pipeline.schema import Passport
from data_pipeline.weights import WeightsError, resolve_weights
from pretrain.config import DataSettings, ModelSettings, PretrainConfig
from pretrain.example import Limits
from pretrain.loader import ShardClips, index_shards
from pretrain.masking import TASK_MODALITY
from pretrain.model.bert_init import bert_shape, load_bert
from pretrain.model.memobert import MEmoBert
from pretrain.validation import choose_held_out, split_shards


def build_tokenizer(text_checkpoint: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a BERT checkpoint; `text_checkpoint` as resolve_weights takes it.

    Raises WeightsError when it is neither on this machine nor to be had from the hub, and
    ConfigError when it holds no such tokenizer.
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
    return tokenizer


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
    if data.validation_shards:
        return shards, index_shards(data.validation_shards)
    ids = [clip for shard in shards for clip in shard.ids]
    budget = min(round(data.validation_share * len(ids)), data.validation_clips)
    return split_shards(shards, choose_held_out(ids, budget))


def check_objectives(config: PretrainConfig, passport: Passport) -> None:
    """Raise ConfigError when an objective asks for a modality that the shards do not have."""
    data = config.data
    limits = {
        "text": data.max_text_pieces,
        "face": data.max_face_frames,
        "speech": data.max_speech_frames,
    }
    for task in config.objectives.shares():
        modality = TASK_MODALITY[task]
        if limits[modality] == 0 or (modality != "text" and modality not in passport):
            raise ConfigError(
                f"{task} needs {modality}, which the shards' passport ({', '.join(passport)}) or "
                f"the limits of data.max_* leave out; set objectives.weights.{task}=0"
            )
