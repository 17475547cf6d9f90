import numpy as np
import pytest

from pretrain.data.order import ClipOrder

COUNTS = np.array([5, 1, 12, 7, 3, 12], dtype=np.int32)


def places(order: ClipOrder, epoch: int) -> list[tuple[int, int]]:
    return [order.place(epoch, position) for position in range(order.num_clips)]


@pytest.mark.parametrize("epoch", [0, 1, 1000])
def test_an_epoch_is_a_permutation_of_all_clips_shard_after_shard(epoch):
    found = places(ClipOrder(COUNTS, 7), epoch)
    assert sorted(found) == [(s, clip) for s, n in enumerate(COUNTS) for clip in range(n)]
    shards = [shard for shard, _ in found]
    changes = sum(a != b for a, b in zip(shards, shards[1:], strict=False))
    assert changes == len(COUNTS) - 1


def test_epochs_and_seeds_have_orders_of_their_own():
    found = [places(ClipOrder(COUNTS, seed), epoch) for seed in (7, 8) for epoch in (0, 1)]
    assert len({tuple(order) for order in found}) == 4
    # Inside a shard too: the one of 12 clips is not gone through in the same way again.
    inside = [[clip for shard, clip in order if shard == 2] for order in found]
    assert len(set(map(tuple, inside))) == 4


def test_a_place_is_the_same_whichever_was_asked_for_before():
    """Whatever is kept of other epochs and shards."""
    in_turn = {epoch: places(ClipOrder(COUNTS, 7), epoch) for epoch in range(4)}
    order = ClipOrder(COUNTS, 7, keep=2)
    rng = np.random.default_rng(0)
    for _ in range(200):
        epoch, position = int(rng.integers(4)), int(rng.integers(order.num_clips))
        assert order.place(epoch, position) == in_turn[epoch][position]


def test_every_order_of_a_shard_and_every_place_of_it_is_as_likely():
    """Of three clips there are six orders; 600 epochs give each of them about 100 times."""
    order = ClipOrder(np.array([3, 3]), 7)
    inside = [tuple(order.inside(epoch, 1).tolist()) for epoch in range(600)]
    _, counts = np.unique(inside, axis=0, return_counts=True)
    assert len(counts) == 6 and counts.min() > 60 and counts.max() < 140
    first = [order.shards(epoch)[0][0] for epoch in range(600)]
    assert 240 < sum(first) < 360
    # The order of the shards and that inside a shard are drawn apart.
    assert abs(np.corrcoef(first, [clips[0] for clips in inside])[0, 1]) < 0.15


def test_the_memory_of_an_order_is_that_of_its_shards():
    """A million clips or ten thousand: the same arrays, and no others are kept."""
    sizes = []
    for clips in (10, 1000):
        order = ClipOrder(np.full(1000, clips, dtype=np.int32), 7, keep=4)
        rng = np.random.default_rng(0)
        for _ in range(300):
            order.place(int(rng.integers(5)), int(rng.integers(order.num_clips)))
        arrays = [array for pair in order._epochs.values() for array in pair]
        assert len(order._epochs) <= 2 and len(order._inside) <= 4
        sizes.append(sum(array.nbytes for array in arrays))
    assert sizes == [2 * 12 * 1000] * 2
