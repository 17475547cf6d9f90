import numpy as np
import pytest
import toys

from data_pipeline.shards import read_shard
from pretrain.data.example import Limits
from pretrain.data.loader import Loader
from pretrain.data.masking import MaskingSettings
from pretrain.data.order import ClipOrder
from pretrain.data.shuffle import (
    Pool,
    distinct,
    equal_pairs,
    quality,
    reads_by_last_use,
    spread,
    steps_of,
    whole_epoch,
)
from pretrain.objectives import OBJECTIVES

from ..conftest import index_of

COUNTS = np.array([7, 3, 5, 9, 6], dtype=np.int32)


def test_a_whole_epoch_is_that_of_its_places():
    order = ClipOrder(COUNTS, 7)
    first_S = np.cumsum(COUNTS) - COUNTS
    places = [order.place(1, position) for position in range(30)]
    assert whole_epoch(order, 1).tolist() == [first_S[shard] + clip for shard, clip in places]


def test_steps_are_those_that_a_loader_deals_out(tmp_path, bert_tokenizer):
    """The clips of every step, and what each of two ranks opens in an epoch."""
    clips = [toys.numbered(number) for number in range(34)]
    folder = toys.write_shards(tmp_path / "s", clips, 5)
    order = ClipOrder(np.array([7, 7, 7, 7, 6]), 3)
    expected_TB = steps_of(whole_epoch(order, 0), 4, 8)
    assert expected_TB.shape == (4, 8)
    opened, ids = [], []
    for rank in range(2):
        index, shards = index_of(folder), []
        object.__setattr__(
            index, "samples", lambda s, streams, i=index, o=shards: o.append(s) or _read(i, s)
        )
        loader = Loader(
            index,
            tokenizer=bert_tokenizer,
            limits=Limits(),
            masking=MaskingSettings(),
            batch_clips=8,
            micro_batch_clips=8,
            num_lanes=4,
            weights={name: 1.0 for name in OBJECTIVES},
            mixing="clip",
            seed=3,
            rank=rank,
            world_size=2,
        )
        with loader:
            steps = [loader.next_step() for _ in range(4)]
        ids.append([[clip for batch in step.batches for clip in batch.ids] for step in steps])
        opened.append(len(shards))
    for step, row in enumerate(expected_TB):
        assert {*ids[0][step], *ids[1][step]} == {clips[clip].id for clip in row}
    found = spread(order, 0, 4, 2)
    assert sorted(opened) == [found["shards opened, fewest"], found["shards opened, most"]]
    assert found["clips used"] == 16 and found["clips of no lane"] == 2


def _read(index, shard):
    return read_shard(index.tar(shard))


def test_the_work_of_ranks_by_hand():
    """Runs of 15 clips over shards of 10: each lane opens two, and one of them is shared."""
    order = ClipOrder(np.full(3, 10), 7)
    found = spread(order, 0, 2, 2)
    assert found["clips used"] == 15 and found["clips of no lane"] == 0
    assert found["shards opened, fewest"] == found["shards opened, most"] == 2
    assert found["clips read of those used"] == pytest.approx(40 / 30)
    assert spread(order, 0, 3, 1)["clips read of those used"] == 1  # cuts fall between shards
    assert spread(order, 0, 3, 1)["shards decoded at once"] == 3


def test_what_was_read_while_shards_were_kept_by_their_last_use():
    """Two lanes of three shards of ten clips. Turns of five end where shards do; of three, one
    enters a shard in its middle, twice, and each time two shards that are in use are pushed out."""
    order = ClipOrder(np.full(6, 10), 7)
    assert reads_by_last_use(order, 0, 2, 1, 10) == 6
    assert reads_by_last_use(order, 0, 2, 1, 6) == 6 + 4
    assert reads_by_last_use(order, 0, 2, 2, 6) == 3  # one lane alone


def test_pairs_and_distinct_values_by_hand():
    rows = np.array([[1, 1, 2, 3], [4, 4, 4, 4]])
    assert distinct(rows).tolist() == [3, 1]
    assert equal_pairs(rows) == pytest.approx((2 + 12) / (2 * 12))


def test_a_uniform_shuffle_and_no_shuffle_are_told_apart():
    counts_S = np.full(200, 50, dtype=np.int32)
    pool = Pool.of(counts_S, 100)
    rng = np.random.default_rng(0)
    uniform = quality(rng.permutation(10_000), rng.permutation(10_000), pool, 10, 100)
    assert uniform["displacement"] == pytest.approx(1 / 3, abs=0.01)
    assert uniform["same shard in a step"] == pytest.approx(49 / 9999, abs=0.001)
    assert uniform["meet again"] == pytest.approx(99 / 9999, abs=0.002)
    assert abs(uniform["correlation 1 apart"]) < 0.05
    still = quality(np.arange(10_000), np.arange(10_000), pool, 10, 100)
    assert still["displacement"] == 0 and still["meet again"] == 1
    assert still["shards a step"] == still["shards a step, fewest"] == 10
    assert still["recordings a step"] == 10
    assert still["same shard, next to each other"] == pytest.approx(0.98, abs=0.001)


def test_more_lanes_mix_better():
    counts_S = np.full(200, 50, dtype=np.int32)
    pool, order = Pool.of(counts_S, 100), ClipOrder(counts_S, 7)
    epochs = [whole_epoch(order, epoch) for epoch in (0, 1)]
    few, many = (quality(*epochs, pool, lanes, 100) for lanes in (10, 100))
    assert few["shards a step"] < 30 < 60 < many["shards a step"]
    assert few["same shard in a step"] > 5 * many["same shard in a step"]
