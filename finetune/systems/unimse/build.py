"""From a config to the system `unimse`."""

import logging
from collections.abc import Sequence

from accelerate import Accelerator

from data_pipeline.config import ConfigError, check_settings
from data_pipeline.schema import Passport
from data_pipeline.shards import load_passport
from finetune.clips.labelled import LabelMap
from finetune.config import FinetuneConfig, Setting
from finetune.systems.unimse.batch import TurnReader
from finetune.systems.unimse.config import Options
from finetune.systems.unimse.labels.lesson import Teacher
from finetune.systems.unimse.system import UniMseSystem
from finetune.systems.unimse.t5 import Base
from finetune.training.refit import CasesChoice


def build(
    config: FinetuneConfig, names: Sequence[str], accelerator: Accelerator, log: logging.Logger
) -> dict[str, UniMseSystem]:
    """Those of the config's settings that are `names`.

    Raises ConfigError for what is not this system's to be told, T5Error for a T5 that is none, and
    SourceError for a table of labels that cannot be used.
    """
    passport = _passport(config)
    return {name: _system(config, name, passport, accelerator, log) for name in names}


def _passport(config: FinetuneConfig) -> Passport:
    """Of the streams in use, in their order."""
    modalities = config.data.modalities
    if "text" not in modalities:
        raise ConfigError(
            f"data.modalities is {list(modalities)}; unimse is a T5, which reads text, and hears "
            "and sees beside it: add text"
        )
    streams = tuple(name for name in modalities if name != "text")
    found = load_passport(config.data.shards, streams) if streams else {}
    if absent := [name for name in streams if name not in found]:
        raise ConfigError(
            f"the shards have no stream {', '.join(absent)}; add it to them: python -m "
            f"data_pipeline.extract 'add=[{absent[0]}]' output=FOLDER, or leave it out of "
            "data.modalities"
        )
    return {name: found[name] for name in streams}


def _limits(config: FinetuneConfig) -> dict[str, int | None]:
    """Of text and streams; without a pretraining `checkpoint` is no limit."""
    said = {name: config.data.limits.get(name) for name in config.data.modalities}
    if nothing := [name for name, limit in said.items() if limit == 0]:
        raise ConfigError(
            f"data.modalities lists {nothing[0]}, but data.limits.{nothing[0]} is 0; leave "
            f"{nothing[0]} out of data.modalities, or set its limit"
        )
    return {name: None if limit == "checkpoint" else limit for name, limit in said.items()}


def _system(
    config: FinetuneConfig,
    name: str,
    passport: Passport,
    accelerator: Accelerator,
    log: logging.Logger,
) -> UniMseSystem:
    setting = config.setting(name)
    for part in ("weights", "head"):
        if getattr(setting, part) != getattr(Setting(), part):
            raise ConfigError(
                f"own_settings.{name}.{part} is {getattr(setting, part)}, which unimse does not "
                "have: it starts from options.t5, and answers in words"
            )
    if setting.plan.freeze_model:
        raise ConfigError(
            f"own_settings.{name}.plan.freeze_model=true would freeze the adapters too; "
            "options.learning_blocks=0 keeps the T5 as it is while they learn"
        )
    options = check_settings(Options, setting.options, "own_settings", name, "options")
    if not options.adapters.num_blocks:
        passport = {}
    base = Base.load(options)
    for part, count in (
        ("adapters.num_blocks", options.adapters.num_blocks),
        ("learning_blocks", options.learning_blocks or 0),
    ):
        if count > base.num_blocks:
            raise ConfigError(
                f"own_settings.{name}.options.{part} is {count}, and the T5 has {base.num_blocks} "
                "blocks; ask for as many at most"
            )
    classes = tuple(LabelMap.build(config.data.labels, config.data.ignore_labels).classes)
    return UniMseSystem(
        modalities=config.data.modalities,
        passport=passport,
        base=base,
        teacher=Teacher.build(classes, options),
        reader=TurnReader(
            tokenizer=base.tokenizer,
            prefix=options.prefix,
            widths={name: spec.width for name, spec in passport.items()},
            limits=_limits(config),
        ),
        options=options,
        plan=setting.plan,
        classes=classes,
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
