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

from pretrain.checkpoint.integrity import CheckpointError
from pretrain.data.manifests import ShardRecord

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
    def of(cls, shards: list[ShardRecord], wanted_C: np.ndarray | None = None) -> "SeenClips":
        """The wanted clips of `shards`, all by default."""
        digests = [_digests(shard.packed_ids) for shard in shards if shard.num_clips]
        ids_C = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
        features_C = np.concatenate([shard.features_C for shard in shards])
        if wanted_C is not None:
            ids_C, features_C = ids_C[wanted_C], features_C[wanted_C]
        return cls(ids_N=_sorted(ids_C), features_N=_sorted(features_C[features_C != 0]))

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
            known = _has(self.ids_N, int.from_bytes(_digest(clip.encode())))
            if _has(self.features_N, int(digest, 16)) if digest else known:
                same.add(clip)
            elif known:
                named_alike.add(clip)
        return Found(same=frozenset(same), named_alike=frozenset(named_alike))


def _digests(packed_ids: bytes) -> bytes:
    """Of one shard at a time, so that there is never an object for every clip of all."""
    return b"".join(map(_digest, packed_ids.split(b"\n")))


def _digest(sample_id: bytes) -> bytes:
    return hashlib.blake2b(sample_id, digest_size=8).digest()


def _sorted(values_C: np.ndarray) -> np.ndarray:
    """Each once. np.unique takes a second for a million, by a table of hashes; sorting, 10 ms."""
    values_C = np.sort(values_C)
    first_C = np.ones(len(values_C), dtype=bool)
    np.not_equal(values_C[1:], values_C[:-1], out=first_C[1:])
    return values_C[first_C]


def _has(values_N: np.ndarray, value: int) -> bool:
    at = np.searchsorted(values_N, np.uint64(value))
    return bool(at < len(values_N) and values_N[at] == value)
