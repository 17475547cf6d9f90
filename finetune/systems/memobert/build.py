"""From a config to the system `memobert`."""

import functools
import logging
from collections.abc import Sequence

from accelerate import Accelerator

from data_pipeline.config import ConfigError, check_settings
from finetune.clips.labelled import LabelMap, Modality
from finetune.clips.prompt import Prompt, Verbalizer
from finetune.clips.reader import ClipReader, read_once
from finetune.config import DataConfig, FinetuneConfig
from finetune.heads import Head, head_named
from finetune.systems.memobert.features import AnySource, FeatureSource
from finetune.systems.memobert.source import Source
from finetune.systems.memobert.system import Memobert
from finetune.training.refit import CasesChoice
from pretrain.data.example import Limits


def build(
    config: FinetuneConfig, names: Sequence[str], accelerator: Accelerator, log: logging.Logger
) -> dict[str, Memobert]:
    """Those of the config's settings that are `names`; all that have a model have one shape, and
    one checkpoint.

    Raises ConfigError for a head that there is not, or where none of a modality in use would be
    read, and PromptError for a template or a word that [MASK] cannot hold.
    """
    source = functools.cache(functools.partial(_source, config))
    bare = {name: config.setting(name).weights == "features" for name in names}
    return {name: _system(config, name, source(bare[name]), accelerator, log) for name in names}


def _source(config: FinetuneConfig, features: bool) -> AnySource:
    """Where the models come from: of settings without one, or of all others."""
    data, bert = config.data, config.model.bert
    if features:
        return FeatureSource.load(bert, data.shards, data.modalities)
    return Source.load(config.model.checkpoint, bert, data.shards, data.modalities)


def _system(
    config: FinetuneConfig,
    name: str,
    source: AnySource,
    accelerator: Accelerator,
    log: logging.Logger,
) -> Memobert:
    """One of the config's settings."""
    setting = config.setting(name)
    classes = tuple(LabelMap.build(config.data.labels, config.data.ignore_labels).classes)
    head = _head(setting.head, name)
    check_settings(head.Settings, setting.options, "own_settings", name, "options")
    reader = _reader(source, config, prompted=head.asks)
    if head.asks:
        Verbalizer.build(classes, config.prompt.words, source.tokenizer)
    return Memobert(
        source=source,
        weights=setting.weights,
        head=setting.head,
        options=setting.options,
        plan=setting.plan,
        classes=classes,
        modalities=config.data.modalities,
        prompt=config.prompt,
        reader=reader,
        read=read_once(reader),
        long_texts=config.data.long_texts,
        max_judged_pieces=config.data.max_judged_pieces,
        optim=config.optim,
        choice=CasesChoice(
            selection=config.selection,
            train_on=config.train_on,
            eval_every_steps=config.eval_every_steps,
            evaluate_cases=config.evaluate_cases,
        ),
        judge_oracle=config.judge_oracle,
        accelerator=accelerator,
        log=log,
    )


def _head(name: str, setting: str) -> type[Head]:
    """The head of a setting. Raises ConfigError where there is none of this name."""
    try:
        return head_named(name)
    except LookupError as error:
        raise ConfigError(f"setting {setting}: {error}") from error


def _reader(source: AnySource, config: FinetuneConfig, *, prompted: bool) -> ClipReader:
    """How a clip is read. Raises ConfigError when it reads none of a modality in use."""
    limits = Limits(
        text=_limit(source, config.data, "text"),
        frames={name: _limit(source, config.data, name) for name in source.rates_hz},
        **source.reach,
    )
    prompt = Prompt(config.prompt.template, source.tokenizer) if prompted else None
    reader = ClipReader(source.tokenizer, limits, prompt=prompt)
    for modality in config.data.modalities:
        said = config.data.limits.get(modality)
        if reader.most(modality) < 1:
            of_checkpoint = ", which was pretrained on none" if said == "checkpoint" else ""
            raise ConfigError(
                f"data.modalities lists {modality}, but none of it would be read: "
                f"data.limits.{modality} is {said}{of_checkpoint}; leave {modality} out of "
                f"data.modalities, or set data.limits.{modality}"
            )
    return reader


def _limit(source: AnySource, data: DataConfig, modality: Modality) -> int | None:
    limit = data.limits.get(modality)
    if limit != "checkpoint":
        return limit
    return None if source.pretraining is None else source.pretraining.limits.get(modality)
