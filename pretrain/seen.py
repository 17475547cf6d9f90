"""Which clips a checkpoint was trained on, in 16 bytes a clip beside its weights.

    clips.safetensors    ids_N, features_N: uint64, sorted, each value once

A clip is known by its id, and by its features, which stay what they are when labels are added and
the clips extracted again. Eight bytes of a hash: among five million clips and ten thousand asked
for, one mistaken for another has a chance of 3e-9.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from data_pipeline.shards import read_manifest
from pretrain.clip_index import ShardClips
from pretrain.integrity import CheckpointError

FILE = "clips.safetensors"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Clips of a set that pretraining read, by their ids."""

    same: frozenset[str]
    """The very features, under whatever id."""
    named_alike: frozenset[str]
    """The id of a clip that was read, with other features."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenClips:
    """Digests of the clips that a model was trained on."""

    ids_N: np.ndarray
    features_N: np.ndarray
    """Fewer than ids where clips have words alone: those are known by their ids."""

    @classmethod
    def of(cls, shards: list[ShardClips]) -> "SeenClips":
        """Those of a loader, from the manifests."""
        ids, features = [], []
        for shard in shards:
            digests = read_manifest(shard.tar.with_suffix(".json")).digests
            ids += map(_hash_of, shard.ids)
            features += [int(digests[row], 16) for row in shard.rows if digests[row]]
        return cls(ids_N=_sorted(ids), features_N=_sorted(features))

    def save(self, folder: Path) -> None:
        save_file({"ids_N": self.ids_N, "features_N": self.features_N}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "SeenClips | None":
        """Those beside a checkpoint; None beside one of older code. Raises CheckpointError."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            return cls(**load_file(path))
        except (SafetensorError, TypeError, OSError) as error:
            raise CheckpointError(
                f"cannot read {path}: {error}; copy it from the run again, or remove it: then it "
                "is not known which clips the checkpoint was trained on"
            ) from error

    def among(self, clips: Iterable[tuple[str, str]]) -> Found:
        """Which of `clips`, ids and digests as their manifests have them, were trained on."""
        same, named_alike = set(), set()
        for clip, digest in clips:
            known = _has(self.ids_N, _hash_of(clip))
            if _has(self.features_N, int(digest, 16)) if digest else known:
                same.add(clip)
            elif known:
                named_alike.add(clip)
        return Found(same=frozenset(same), named_alike=frozenset(named_alike))


def _hash_of(sample_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest())


def _sorted(values: list[int]) -> np.ndarray:
    return np.unique(np.array(values, dtype=np.uint64))


def _has(values_N: np.ndarray, value: int) -> bool:
    at = np.searchsorted(values_N, np.uint64(value))
    return bool(at < len(values_N) and values_N[at] == value)
