"""Every byte of the shards against their manifests, before a run takes its first step.

    num_bytes = verify_shards([clips.train, clips.held_out], streams, rank=0, world_size=8)

A shard that is cut is found when its manifest is read; a flipped bit is a number like any other,
and only a digest tells. Each rank reads its part, in threads, since hashing lets go of the
interpreter: what a run reads once more than it would is in its machine's memory afterwards, where
that is large enough.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_pipeline.shards import ShardError, verify_shard
from pretrain.data.clip_index import ClipIndex

THREADS = 4
"""Shards of a rank that are read at once: a network disk is fast for many readers alone."""


def verify_shards(
    indices: Sequence[ClipIndex], streams: Collection[str], rank: int = 0, world_size: int = 1
) -> int:
    """Bytes that this rank read: of every world_size-th tar, and of the tars added to it.

    Raises ShardError, the first one's words and how many there are, once all were read.
    """
    tars = sorted({index.tar(shard) for index in indices for shard in range(len(index))})

    def verified(tar: Path) -> int | ShardError:
        try:
            return verify_shard(tar, streams)
        except ShardError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(verified, tars[rank::world_size]))
    bad = [one for one in found if isinstance(one, ShardError)]
    if bad:
        others = f" ({len(bad)} such shards of {len(found)} that were read)" * (len(bad) > 1)
        raise ShardError(f"{bad[0]}{others}")
    return sum(found)
