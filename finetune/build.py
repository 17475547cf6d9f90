"""From settings to the parts of a run. Only these functions see both a config and a component."""

import logging

from accelerate import Accelerator

from data_pipeline.config import ConfigError
from finetune.clips.labelled import LabelledSet
from finetune.config import DataConfig, FinetuneConfig
from finetune.protocols import Protocol, clipless_splits, load_protocol, make_protocol, some
from finetune.systems import System, system_named


def build_systems(
    config: FinetuneConfig, accelerator: Accelerator, log: logging.Logger
) -> dict[str, System]:
    """Each of the config's settings, built by its system's own file; those of one system share
    what they start from.

    Raises ConfigError for a system that there is not, and what its `build` raises.
    """
    groups: dict[str, list[str]] = {}
    for name in config.settings:
        groups.setdefault(config.setting(name).system, []).append(name)
    built: dict[str, System] = {}
    for system, names in groups.items():
        try:
            module = system_named(system)
        except LookupError as error:
            raise ConfigError(f"setting {names[0]}: {error}") from error
        built |= module.build(config, names, accelerator, log)
    return {name: built[name] for name in config.settings}


def build_protocol(data: DataConfig, clips: LabelledSet) -> Protocol:
    """The folds: those of the file, or dealt as `data.deal` says."""
    if data.protocol is not None:
        return load_protocol(data.protocol)
    deal = data.deal
    return make_protocol(
        clips.clips,
        name=f"{clips.corpus}-{deal.by}{deal.folds}",
        by=deal.by,
        num_folds=deal.folds,
        dev=deal.dev,
        allow_shared_speakers=deal.allow_shared_speakers,
        seed=deal.seed,
    )


def build_folds(config: FinetuneConfig, protocol: Protocol, clips: LabelledSet) -> list[int]:
    """Numbers of the folds to run: those asked for, or all that the clips allow, see `left_out`.

    Raises ConfigError for those that the protocol has not, or that lack the dev split that is
    asked for.
    """
    folds = list(range(len(protocol.folds))) if config.folds is None else list(config.folds)
    if config.folds is None:
        without_clips = clipless_splits(clips.clips, protocol)
        folds = [fold for fold in folds if fold not in without_clips] or folds
    strange = [fold for fold in folds if not 0 <= fold < len(protocol.folds)]
    if strange:
        raise ConfigError(
            f"folds {strange}: protocol {protocol.name} has folds 0 to {len(protocol.folds) - 1}"
        )
    without = [fold for fold in folds if not protocol.folds[fold].dev]
    if config.train_on == "train+dev" and without:
        raise ConfigError(
            f"train_on=train+dev, but folds {without} of protocol {protocol.name} have no dev "
            "split; add one, or use train_on=train"
        )
    if config.selection == "dev" and without:
        raise ConfigError(
            f"selection=dev, but folds {without} of protocol {protocol.name} have no dev split; "
            "add one, or use selection=last"
        )
    return folds


def left_out(config: FinetuneConfig, protocol: Protocol, clips: LabelledSet) -> list[str]:
    """A note on the folds that are not run as a split of theirs has no clip here, if there are any:
    a part of a corpus still gives the results of the folds that it holds."""
    without_clips = clipless_splits(clips.clips, protocol)
    if config.folds is not None or not 0 < len(without_clips) < len(protocol.folds):
        return []
    units = {unit for empty in without_clips.values() for _, listed in empty for unit in listed}
    return [
        f"folds {some(list(map(str, without_clips)))} of {protocol.name} are left out: there is no "
        f"clip of {protocol.group} {some(sorted(units))}; the means are over the other "
        f"{len(protocol.folds) - len(without_clips)} of {len(protocol.folds)} folds"
    ]
