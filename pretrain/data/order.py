"""The order of the clips in every epoch, found place by place: no list of all clips is ever made.

    order = ClipOrder(counts_S, seed=7)
    shard, clip = order.place(epoch=3, position=1_000_000)

An epoch's order is the shards permuted, and the clips permuted inside each shard. The first is
drawn by (seed, epoch, 0), the second by (seed, epoch, 1 + shard), each when it is asked for. So a
position is found by a search in the summed numbers of clips, and what an epoch takes is 12 bytes a
shard, whatever the shards hold.

S: shards.
"""

from collections import OrderedDict

import numpy as np

ORDER = 2
"""Raised when the same seed gives another order: a checkpoint of the one before is refused. 1 drew
a whole epoch from one generator, in two numbers a clip."""


class ClipOrder:
    """A permutation of all clips for every epoch, a function of the counts and the seed alone.

    Args:
        counts_S: clips of each shard, at least one.
        seed: not negative.
        keep: shards whose inner order is kept, those asked for last: as many as are read at once.
    """

    def __init__(self, counts_S: np.ndarray, seed: int, *, keep: int = 1) -> None:
        self.counts_S = counts_S
        self.seed = seed
        self.keep = keep
        self.num_clips = int(counts_S.sum(dtype=np.int64))
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._inside: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """([S] int32, [S] int64): the shards of `epoch` in order, and the position after each."""
        if epoch not in self._epochs:
            drawn_S = self._generator(epoch, 0).permutation(len(self.counts_S)).astype(np.int32)
            self._epochs[epoch] = drawn_S, np.cumsum(self.counts_S[drawn_S], dtype=np.int64)
            if len(self._epochs) > 2:  # lanes drift apart by skips: two epochs are in use
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def inside(self, epoch: int, shard: int) -> np.ndarray:
        """[counts_S[shard]] int64: the clips of `shard` in the order of `epoch`."""
        key = (epoch, shard)
        if key not in self._inside:
            rng = self._generator(epoch, 1 + shard)
            self._inside[key] = rng.permutation(int(self.counts_S[shard]))
            if len(self._inside) > self.keep:
                self._inside.popitem(last=False)
        self._inside.move_to_end(key)
        return self._inside[key]

    def place(self, epoch: int, position: int) -> tuple[int, int]:
        """(shard, which of its clips) at `position` of `epoch`, 0 to num_clips - 1."""
        shards_S, ends_S = self.shards(epoch)
        at = int(np.searchsorted(ends_S, position, side="right"))
        shard = int(shards_S[at])
        before = int(ends_S[at]) - int(self.counts_S[shard])
        return shard, int(self.inside(epoch, shard)[position - before])

    def _generator(self, epoch: int, which: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, which))
