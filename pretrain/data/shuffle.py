"""How well an order mixes clips, and how evenly it spreads the work over ranks.

Both are worked out from the order itself, as the loader deals it out: an epoch is `num_lanes` equal
runs, a step takes batch_clips / num_lanes clips of each, and lane l is rank l % world_size's.

C: clips. S: shards. L: lanes. T: steps. B: clips of a step.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from pretrain.data.order import ClipOrder

NUM_STEPS = 1000
"""Steps that are looked at: drawn, where an epoch has more."""
LAGS = (1, 100, 1000)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Clips as they lie on disk: shard after shard, recording after recording."""

    counts_S: np.ndarray
    shard_C: np.ndarray
    recording_C: np.ndarray

    @classmethod
    def of(cls, counts_S: np.ndarray, clips_per_recording: int) -> "Pool":
        """int32 throughout. The clips of a recording lie side by side, as a table lists them."""
        shard_C = np.repeat(np.arange(len(counts_S), dtype=np.int32), counts_S)
        recording_C = np.arange(len(shard_C), dtype=np.int32) // clips_per_recording
        return cls(counts_S=counts_S, shard_C=shard_C, recording_C=recording_C)


def whole_epoch(order: ClipOrder, epoch: int) -> np.ndarray:
    """[C] int32: the clips of `epoch` in order, by their numbers on disk."""
    first_S = np.cumsum(order.counts_S, dtype=np.int64) - order.counts_S
    shards_S, _ = order.shards(epoch)
    parts = [first_S[shard] + order.inside(epoch, int(shard)) for shard in shards_S]
    return np.concatenate(parts).astype(np.int32)


def steps_of(clips_C: np.ndarray, num_lanes: int, batch_clips: int) -> np.ndarray:
    """[T, B]: the clips of each whole step of an epoch."""
    run_length, a_step = len(clips_C) // num_lanes, batch_clips // num_lanes
    num_steps = run_length // a_step
    runs = clips_C[: num_lanes * run_length].reshape(num_lanes, run_length)
    runs = runs[:, : num_steps * a_step].reshape(num_lanes, num_steps, a_step)
    return runs.transpose(1, 0, 2).reshape(num_steps, batch_clips)


def quality(
    clips_C: np.ndarray, next_C: np.ndarray, pool: Pool, num_lanes: int, batch_clips: int
) -> dict[str, float]:
    """Measure to value, of an epoch `clips_C` and the one after it.

    displacement: mean distance of a clip's place in the epoch from its place on disk, as a share
        of all clips; 1/3 when nothing is known of it.
    same shard, next to each other: share of clips that follow one of their own shard.
    correlation K apart: of the shard's place on disk, between clips that are K apart in a lane.
    shards, recordings a step: distinct ones, the mean; and the fewest of any step looked at.
    same shard in a step: share of a step's pairs of clips.
    meet again: share of a step's pairs of clips that share a step of the next epoch too.
    """
    num_clips = len(clips_C)
    found = {"displacement": np.abs(clips_C - np.arange(num_clips)).mean() / num_clips}
    shard_C = pool.shard_C[clips_C]
    found["same shard, next to each other"] = (shard_C[1:] == shard_C[:-1]).mean()
    run_length = num_clips // num_lanes
    runs = shard_C[: num_lanes * run_length].reshape(num_lanes, run_length).astype(np.float32)
    for lag in LAGS:
        if lag < run_length:
            ahead, behind = runs[:, lag:].ravel(), runs[:, :-lag].ravel()
            found[f"correlation {lag} apart"] = np.corrcoef(ahead, behind)[0, 1]

    steps_TB = steps_of(clips_C, num_lanes, batch_clips)
    rng = np.random.default_rng(0)
    looked_at = rng.permutation(len(steps_TB))[:NUM_STEPS]
    for name, of_C in (("shards", pool.shard_C), ("recordings", pool.recording_C)):
        distinct_T = distinct(of_C[steps_TB[looked_at]])
        found[f"{name} a step"] = distinct_T.mean()
        found[f"{name} a step, fewest"] = distinct_T.min()
    found["same shard in a step"] = equal_pairs(pool.shard_C[steps_TB[looked_at]])
    later_TB = steps_of(next_C, num_lanes, batch_clips)
    step_C = -1 - np.arange(num_clips)  # left over: in no step, so with nobody
    step_C[later_TB] = np.arange(len(later_TB))[:, None]
    found["meet again"] = equal_pairs(step_C[steps_TB[looked_at]])
    return {name: float(value) for name, value in found.items()}


def distinct(values_TB: np.ndarray) -> np.ndarray:
    """[T]: how many different values each row has."""
    sorted_TB = np.sort(values_TB, axis=1)
    return 1 + (sorted_TB[:, 1:] != sorted_TB[:, :-1]).sum(axis=1)


def equal_pairs(values_TB: np.ndarray) -> float:
    """Share of the pairs of a row that are equal, over all rows."""
    num_rows, width = values_TB.shape
    row_T1 = np.arange(num_rows, dtype=np.int64)[:, None]
    _, counts = np.unique((row_T1 << 33) + values_TB, return_counts=True)  # of one row and value
    return float((counts * (counts - 1)).sum() / (num_rows * width * (width - 1)))


def reads_by_last_use(
    order: ClipOrder, epoch: int, num_lanes: int, world_size: int, batch_clips: int
) -> int:
    """Shards that rank 0 read in `epoch` while it kept the last used ones, as many as its lanes.

    What the loader did before it kept what its lanes are in: a lane that enters a shard in the
    middle of a step pushes out the next lane's, and that one the next.
    """
    shards_S, ends_S = order.shards(epoch)
    lanes = np.arange(0, num_lanes, world_size)
    run_length, a_step = order.num_clips // num_lanes, batch_clips // num_lanes
    starts_TL = np.arange(run_length // a_step)[:, None] * a_step + lanes * run_length
    first_TL = np.searchsorted(ends_S, starts_TL, side="right")
    last_TL = np.searchsorted(ends_S, starts_TL + a_step - 1, side="right")
    kept: OrderedDict[int, None] = OrderedDict()
    reads = 0
    for first, last in zip(first_TL.ravel().tolist(), last_TL.ravel().tolist(), strict=True):
        for shard in shards_S[first : last + 1].tolist():
            reads += shard not in kept
            kept[shard] = None
            kept.move_to_end(shard)
            if len(kept) > len(lanes):
                kept.popitem(last=False)
    return reads


def spread(order: ClipOrder, epoch: int, num_lanes: int, world_size: int) -> dict[str, float]:
    """What the ranks read in `epoch`, where no clip is passed over.

    A lane opens a shard for each that its run touches, and reads all of it; so one that two lanes
    share is read twice. `clips read of those used`: 1 where none is.
    """
    _, ends_S = order.shards(epoch)
    run_length = order.num_clips // num_lanes
    starts_L = np.arange(num_lanes) * run_length
    first_L = np.searchsorted(ends_S, starts_L, side="right")
    last_L = np.searchsorted(ends_S, starts_L + run_length - 1, side="right")
    before_S = np.concatenate([[0], ends_S])
    read_L = before_S[last_L + 1] - before_S[first_L]
    rank_L = np.arange(num_lanes) % world_size
    opened = np.bincount(rank_L, weights=last_L - first_L + 1)
    read = np.bincount(rank_L, weights=read_L)
    return {
        "clips used": run_length * num_lanes // world_size,
        "shards opened, fewest": float(opened.min()),
        "shards opened, mean": float(opened.mean()),
        "shards opened, most": float(opened.max()),
        "clips read, most of any to the mean": float(read.max() / read.mean()),
        "clips read of those used": float(read.sum() / (run_length * num_lanes)),
        "shards decoded at once": num_lanes // world_size,
        "clips of no lane": order.num_clips % num_lanes,
    }
