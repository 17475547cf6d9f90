"""What a run learns of its clips before it starts: rank 0 looks, and tells the others.

    survey = runtime.on_main(lambda: survey_shards(config.data, streams))
    clips = RunClips.from_arrays(runtime.from_main(survey and survey.clips.to_arrays()))

Rank 0 alone lists the folders and reads the manifests, each once. The others get numbers: 26 bytes
a shard. So 512 ranks ask a file system no more than one does, and none can see other shards than
the rest.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.config import ConfigError
from data_pipeline.schema import Passport, passport_from_json, passport_to_json
from pretrain.config import DataSettings
from pretrain.data.clip_index import ClipIndex, build_index
from pretrain.data.held_out import choose_held_out, describe_held_out, file_hashes
from pretrain.data.manifests import Manifests, ShardRecord, read_manifests
from pretrain.data.seen import SeenClips


@dataclass(frozen=True, kw_only=True)
class RunClips:
    """What every rank knows."""

    train: ClipIndex
    held_out: ClipIndex
    """Has no shard where no clip is held out."""
    passport: Passport

    def to_arrays(self) -> dict[str, np.ndarray]:
        passport = json.dumps(passport_to_json(self.passport)).encode()
        parts = (("train", self.train), ("held_out", self.held_out))
        arrays = {f"{part}.{k}": v for part, index in parts for k, v in index.to_arrays().items()}
        return arrays | {"passport": np.frombuffer(passport, dtype=np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "RunClips":
        def index(part: str) -> ClipIndex:
            named = {k.removeprefix(part): v for k, v in arrays.items() if k.startswith(part)}
            return ClipIndex.from_arrays(named)

        passport = passport_from_json(json.loads(arrays["passport"].tobytes()))
        return cls(train=index("train."), held_out=index("held_out."), passport=passport)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What rank 0 knows."""

    clips: RunClips
    seen: SeenClips
    """The clips to train on: 16 bytes a clip, for the checkpoints."""
    shards_sha256: dict[str, list[str]]
    """Folder of data.shards to the digest of each of its tars."""
    held_out: str
    """In words."""
    unfinished: list[str]
    """Warnings of tars that are left out."""


def survey_shards(data: DataSettings, streams: Collection[str] | None = None) -> Survey:
    """Held out are the clips of data.validation_shards, or a share of all.

    streams: those whose passport is asked for, see load_passport.
    Raises ConfigError when one shard lies in two places or there is no clip to train on, and what
    read_manifests does.
    """
    found = read_manifests([*data.shards, *data.validation_shards], streams)
    return survey_manifests(data, found)


def survey_manifests(data: DataSettings, found: Manifests) -> Survey:
    """survey_shards of manifests that were read already."""
    _check_once(found)
    pool = [shard for folder in data.shards for shard in found.shards[folder]]
    others = [shard for folder in data.validation_shards for shard in found.shards[folder]]
    if not any(shard.num_clips for shard in pool):
        raise ConfigError(
            f"no clip in the finished shards of {', '.join(data.shards)} (data.shards); expected "
            "at least one: the rejects.csv beside them says why clips gave no sample"
        )
    train_C, held, described = _held_out(data, pool, others)
    return Survey(
        clips=RunClips(train=build_index(pool, train_C), held_out=held, passport=found.passport),
        seen=SeenClips.of(pool, train_C),
        shards_sha256={
            folder: [shard.sha256 for shard in found.shards[folder]] for folder in data.shards
        },
        held_out=described,
        unfinished=found.unfinished,
    )


def _held_out(
    data: DataSettings, pool: list[ShardRecord], others: list[ShardRecord]
) -> tuple[np.ndarray | None, ClipIndex, str]:
    """(which clips of `pool` are to train on, None: all; those held out; these in words)."""
    files_C = file_hashes(packed := [shard.packed_ids for shard in pool])
    if data.validation_shards:
        others_C = file_hashes(shard.packed_ids for shard in others)
        return None, build_index(others), describe_held_out(files_C, others_C)
    budget = min(round(data.validation_share * len(files_C)), data.validation_clips)
    held_C = choose_held_out(packed, files_C, budget)
    described = describe_held_out(files_C[~held_C], files_C[held_C])
    return ~held_C, build_index(pool, held_C), described


def _check_once(found: Manifests) -> None:
    """Raise ConfigError when one shard lies in two places: its clips would count double, or be held
    out and trained on."""
    first: dict[str, Path] = {}
    for shard in (shard for shards in found.shards.values() for shard in shards):
        if shard.num_clips and (other := first.setdefault(shard.sha256, shard.tar)) != shard.tar:
            raise ConfigError(
                f"{other} and {shard.tar} are the same shard, so its clips would count double; "
                "leave one of their folders out of data.shards and data.validation_shards"
            )
