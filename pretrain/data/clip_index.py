"""Which clips there are, in 26 bytes a shard: what every rank of a run holds.

    index = build_index(read_manifests(folders).shards[folder])
    for shard in range(len(index)):
        for sample in index.samples(shard, {"face", "speech"}): ...

No id of a clip is in it: ids come with the samples when a shard is read, and are then held against
the digest of those that rank 0 found when the run started.

S: shards. P: those of which only some clips are wanted. R: the wanted clips of these. C: all clips.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from data_pipeline.schema import ClipSample
from data_pipeline.shards import ShardError, read_shard, shard_name
from pretrain.data.manifests import ShardRecord

DIGEST_BYTES = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipIndex:
    """Shards and those of their clips that somebody wants, at least one of each."""

    folders: tuple[str, ...]
    folder_S: np.ndarray
    """uint16: which of `folders`."""
    number_S: np.ndarray
    """int32, of the tar's name."""
    counts_S: np.ndarray
    """int32: wanted clips."""
    digests_SD: np.ndarray
    """uint8 [S, 16], of the ids of the wanted clips, in order."""
    parts_P: np.ndarray
    """int32, ascending: shards that have clips which nobody wants."""
    rows_R: np.ndarray
    """int32: positions in the tar of the wanted clips of `parts_P`, ascending, tar after tar."""

    def __len__(self) -> int:
        return len(self.counts_S)

    @property
    def num_clips(self) -> int:
        return int(self.counts_S.sum(dtype=np.int64))

    def tar(self, shard: int) -> Path:
        folder = self.folders[self.folder_S[shard]]
        return Path(folder) / f"{shard_name(int(self.number_S[shard]))}.tar"

    def rows(self, shard: int) -> np.ndarray:
        """Positions in the tar of the wanted clips, ascending."""
        part = int(np.searchsorted(self.parts_P, shard))
        if part == len(self.parts_P) or self.parts_P[part] != shard:
            return np.arange(self.counts_S[shard])
        end = int(self.counts_S[self.parts_P[: part + 1]].sum(dtype=np.int64))
        return self.rows_R[end - int(self.counts_S[shard]) : end]

    def samples(self, shard: int, streams: Collection[str] | None = None) -> Iterator[ClipSample]:
        """The wanted clips of `shard`, in order; `streams` as read_shard takes them.

        Raises ShardError when they are not those of the index: the shard was made anew since the
        run started, or lies on this machine in another state than on the machine of rank 0.
        """
        wanted, ids = set(self.rows(shard).tolist()), []
        for row, sample in enumerate(read_shard(self.tar(shard), streams=streams)):
            if row in wanted:
                ids.append(sample.id)
                yield sample
        if _digest("\n".join(ids).encode()) != self.digests_SD[shard].tobytes():
            raise ShardError(
                f"{self.tar(shard)} holds other clips than rank 0 found in it when the run "
                "started; let nothing write to the shards during a run, give every machine the "
                "same ones, and start again"
            )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """For other ranks: all that the index holds, as plain numbers."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        folders = "\0".join(self.folders).encode()  # the one character that no path has
        return arrays | {"folders": np.frombuffer(folders, dtype=np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "ClipIndex":
        folders = arrays["folders"].tobytes().decode().split("\0")
        return cls(**arrays | {"folders": tuple(folders)})


def build_index(shards: Iterable[ShardRecord], wanted_C: np.ndarray | None = None) -> ClipIndex:
    """The wanted clips of `shards`, all by default; a shard without any is left out."""
    folders: dict[str, int] = {}
    found: list[tuple[int, int, int]] = []
    digests: list[bytes] = []
    parts: list[int] = []
    rows = [np.zeros(0, dtype=np.int32)]
    end = 0
    for shard in shards:
        count, packed, end = shard.num_clips, shard.packed_ids, end + shard.num_clips
        if wanted_C is not None and not (wanted := wanted_C[end - count : end]).all():
            rows_W = np.flatnonzero(wanted).astype(np.int32)
            count = len(rows_W)
            if count:
                ids = packed.split(b"\n")
                packed = b"\n".join(ids[row] for row in rows_W)
                parts.append(len(found))
                rows.append(rows_W)
        if count:
            folder = folders.setdefault(str(shard.tar.parent), len(folders))
            found.append((folder, int(shard.tar.stem), count))
            digests.append(_digest(packed))
    table_S3 = np.array(found, dtype=np.int32).reshape(-1, 3)
    return ClipIndex(
        folders=tuple(folders),
        folder_S=table_S3[:, 0].astype(np.uint16),
        number_S=np.ascontiguousarray(table_S3[:, 1]),
        counts_S=np.ascontiguousarray(table_S3[:, 2]),
        digests_SD=np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES),
        parts_P=np.array(parts, dtype=np.int32),
        rows_R=np.concatenate(rows),
    )


def _digest(packed_ids: bytes) -> bytes:
    return hashlib.blake2b(packed_ids, digest_size=DIGEST_BYTES).digest()
