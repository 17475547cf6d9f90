"""From a config to the system `stories`."""

import logging
from collections.abc import Sequence

from accelerate import Accelerator

from data_pipeline.config import ConfigError, check_settings
from data_pipeline.schema import Passport
from data_pipeline.shards import load_passport
from finetune.clips.labelled import LabelMap
from finetune.clips.reader import modality_cases
from finetune.config import FinetuneConfig, Setting
from finetune.systems.stories.config import Options
from finetune.systems.stories.kept import skops_io
from finetune.systems.stories.system import StoriesSystem


def build(
    config: FinetuneConfig, names: Sequence[str], accelerator: Accelerator, log: logging.Logger
) -> dict[str, StoriesSystem]:
    """Those of the config's settings that are `names`.

    Raises ConfigError for what is not this system's to be told, or streams that are not there.
    """
    if config.save_recognizers:
        skops_io()  # before the first run
    passport = _passport(config)
    labels = LabelMap.build(config.data.labels, config.data.ignore_labels)
    return {
        name: StoriesSystem(
            passport=passport,
            cases=modality_cases(config.data.modalities, config.evaluate_cases),
            options=_options(config.setting(name), name),
            classes=labels.classes,
            selection=config.selection,
            train_on=config.train_on,
            judge_oracle=config.judge_oracle,
            log=log,
        )
        for name in names
    }


def _passport(config: FinetuneConfig) -> Passport:
    """Of the streams, in the order in which they are asked for."""
    streams = config.data.modalities
    if "text" in streams:
        raise ConfigError(
            "data.modalities names text, and stories reads streams alone; what is said is the "
            "stream sentence: data.modalities=[yamnet, sentence]"
        )
    found = load_passport(config.data.shards, streams)
    for name in streams:
        if name not in found:
            raise ConfigError(
                f"data.modalities names {name}, and the shards hold {', '.join(found) or 'none'} "
                f"of what is asked for; python -m data_pipeline.extract 'add=[{name}]' "
                "output=FOLDER adds it"
            )
        if config.data.limits.get(name) not in (None, "checkpoint"):
            raise ConfigError(f"data.limits.{name}: stories reads all of a clip; leave it out")
    return {name: found[name] for name in streams}


def _options(setting: Setting, name: str) -> Options:
    """Raises ConfigError for what classical models do not have."""
    other = Setting()
    strange = [f for f in ("weights", "head", "plan") if getattr(setting, f) != getattr(other, f)]
    if strange:
        raise ConfigError(
            f"own_settings.{name}.{strange[0]}: stories starts from no weights, has no head and "
            "learns without steps; options.models says what is tried"
        )
    return check_settings(Options, setting.options, "own_settings", name, "options")
