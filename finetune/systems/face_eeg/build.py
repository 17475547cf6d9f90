"""From a config to the system `face_eeg`, which is the features and a head."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import ClassVar

from accelerate import Accelerator

from data_pipeline.config import ConfigError
from finetune.config import FinetuneConfig, Setting
from finetune.systems.memobert.build import build as build_memobert
from finetune.systems.memobert.system import Memobert

HEAD = "statistics"


class FaceEegSystem(Memobert):
    """What `weights: features` and `head: statistics` are of memobert, under a name of its own."""

    name: ClassVar[str] = "face_eeg"


def build(
    config: FinetuneConfig, names: Sequence[str], accelerator: Accelerator, log: logging.Logger
) -> dict[str, FaceEegSystem]:
    """Those of the config's settings that are `names`.

    Raises ConfigError for what is not this system's to be told, or a stream that the shards lack.
    """
    settings = {name: _setting(name, config.setting(name)) for name in names}
    config = dataclasses.replace(config, own_settings=config.own_settings | settings)
    built = build_memobert(config, names, accelerator, log)
    return {
        name: FaceEegSystem(**{f.name: getattr(system, f.name) for f in dataclasses.fields(system)})
        for name, system in built.items()
    }


def _setting(name: str, said: Setting) -> Setting:
    for field in ("weights", "head"):
        if getattr(said, field) != getattr(Setting(), field):
            raise ConfigError(
                f"own_settings.{name}.{field} is {getattr(said, field)}, which face_eeg does not "
                f"have: it sees the features as they are, with the head {HEAD}; leave it out"
            )
    return dataclasses.replace(said, weights="features", head=HEAD)
