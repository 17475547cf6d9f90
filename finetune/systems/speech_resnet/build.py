"""From a config to the system `speech_resnet`."""

import logging
from collections.abc import Sequence
from dataclasses import asdict

from accelerate import Accelerator

from data_pipeline.config import ConfigError, check_settings
from data_pipeline.schema import FeatureSpec, check_passport
from data_pipeline.shards import load_passport
from finetune.clips.labelled import LabelMap
from finetune.config import FinetuneConfig, Setting
from finetune.systems.speech_resnet.config import Options, Shape
from finetune.systems.speech_resnet.stream import heard_stream
from finetune.systems.speech_resnet.system import SpeechResNetSystem
from finetune.systems.speech_resnet.trunk import Trunk
from finetune.training.refit import Choice


def build(
    config: FinetuneConfig, names: Sequence[str], accelerator: Accelerator, log: logging.Logger
) -> dict[str, SpeechResNetSystem]:
    """Those of the config's settings that are `names`.

    Raises ConfigError for what is not this system's to be told, or a stream that cannot be heard,
    CheckpointError for a trunk that is not whole, and SchemaError for one of another passport.
    """
    stream = _stream(config)
    spec = heard_stream(load_passport(config.data.shards, (stream,)), stream)
    return {name: _system(config, name, stream, spec, accelerator, log) for name in names}


def _stream(config: FinetuneConfig) -> str:
    """The one that is heard."""
    modalities = config.data.modalities
    if len(modalities) != 1 or modalities == ("text",):
        raise ConfigError(
            f"data.modalities is {list(modalities)}; speech_resnet hears one stream, such as "
            "data.modalities=[fbank]"
        )
    if config.data.limits.get(modalities[0]) not in (None, "checkpoint"):
        raise ConfigError(
            f"data.limits.{modalities[0]} is set, and speech_resnet cuts nothing; leave it out"
        )
    return modalities[0]


def _system(
    config: FinetuneConfig,
    name: str,
    stream: str,
    spec: FeatureSpec,
    accelerator: Accelerator,
    log: logging.Logger,
) -> SpeechResNetSystem:
    setting = config.setting(name)
    for field in ("weights", "head"):
        if getattr(setting, field) != getattr(Setting(), field):
            raise ConfigError(
                f"own_settings.{name}.{field} is {getattr(setting, field)}, which speech_resnet "
                "does not have: it starts from options.trunk, and its last layers are its own"
            )
    options = check_settings(Options, setting.options, "own_settings", name, "options")
    trunk = None if options.trunk is None else Trunk.load(options.trunk)
    if trunk is None and setting.plan.freeze_model:
        raise ConfigError(
            f"own_settings.{name}.plan.freeze_model=true without options.trunk: a trunk that has "
            "learned nothing would stay so; give one, or set it to false"
        )
    if trunk is not None:
        check_passport({stream: spec}, trunk.passport, ", ".join(config.data.shards))
        shape = trunk.shape
    else:
        shape = {"mel_bins": spec.width, **asdict(options.shape or Shape())}
    return SpeechResNetSystem(
        stream=stream,
        spec=spec,
        shape=shape,
        trunk=trunk,
        options=options,
        plan=setting.plan,
        classes=tuple(LabelMap.build(config.data.labels, config.data.ignore_labels).classes),
        optim=config.optim,
        choice=Choice(
            selection=config.selection,
            train_on=config.train_on,
            eval_every_steps=config.eval_every_steps,
        ),
        judge_oracle=config.judge_oracle,
        accelerator=accelerator,
        log=log,
    )
