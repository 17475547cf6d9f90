import collections
import dataclasses
import threading

import numpy as np
import pytest
import torch
import toys

from data_pipeline.shards import ShardError
from pretrain.data.clip_index import ClipIndex
from pretrain.data.loader import Loader, LoaderError
from pretrain.model.batch import Batch
from pretrain.objectives import OBJECTIVES


def fields_of(batch: Batch) -> dict[str, torch.Tensor]:
    """Every tensor of a batch, by its path."""
    parts = {"": batch, **batch.frames, **batch.targets}
    return {
        f"{path}.{f.name}": getattr(part, f.name)
        for path, part in parts.items()
        for f in dataclasses.fields(part)
        if isinstance(getattr(part, f.name), torch.Tensor)
    }


def same(a: list[Batch], b: list[Batch]) -> bool:
    """Equal to the bit: clips, features, masks, targets."""
    return [x.ids for x in a] == [x.ids for x in b] and all(
        fields_of(x).keys() == fields_of(y).keys()
        and all(torch.equal(fields_of(x)[name], fields_of(y)[name]) for name in fields_of(x))
        for x, y in zip(a, b, strict=True)
    )


def one_clip_batches(loader: Loader, steps: int) -> list[dict[str, Batch]]:
    """For each step, clip id to its batch of one."""
    return [{batch.ids[0]: batch for batch in loader.next_step().batches} for _ in range(steps)]


def test_an_epoch_gives_every_clip_once_and_the_next_another_order(build):
    loader = build()
    epochs = [
        [i for _ in range(5) for b in loader.next_step().batches for i in b.ids] for _ in "ab"
    ]
    assert len(set(epochs[0])) == len(epochs[0]) == 40
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]


def test_clips_left_over_differ_from_epoch_to_epoch(build):
    loader = build(batch_clips=9, num_lanes=9)  # 40 = 9 lanes x 4 + 4 left over
    order = loader.readers[0].order
    left = [{order.place(epoch, at) for at in range(36, 40)} for epoch in range(6)]
    assert all(len(rest) == 4 for rest in left)
    assert len({frozenset(rest) for rest in left}) > 1


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_shard_is_read_once_by_each_lane_that_needs_it(build, tmp_path, monkeypatch, world_size):
    """Where lanes go from shard to shard in the middle of a step; and no more than one a lane is
    held."""
    folder = toys.write_shards(tmp_path / "s", [toys.numbered(n) for n in range(48)], 11)
    read = []
    real = ClipIndex.samples
    monkeypatch.setattr(ClipIndex, "samples", lambda *a: read.append(a[1]) or real(*a))
    for rank in range(world_size):
        loader = build(folder, batch_clips=24, rank=rank, world_size=world_size)  # 6 clips a lane
        (reader,) = loader.readers
        shards_S, ends_S = reader.order.shards(0)
        needed = [
            set(np.searchsorted(ends_S, np.arange(12 * n, 12 * n + 12), "right"))
            for n in loader.lanes
        ]
        read.clear()
        for _ in range(2):
            loader.next_step()
            assert len(reader.decoded) <= len(loader.lanes)
        assert len(read) <= sum(map(len, needed))
        assert set(read) == {shards_S[at] for lane in needed for at in lane}


@pytest.mark.parametrize("mixing", ["clip", "step"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_a_step_holds_the_same_clips_and_masks_on_any_number_of_ranks(build, mixing, world_size):
    alone = one_clip_batches(build(micro_batch_clips=1, mixing=mixing), 12)
    ranks = [
        one_clip_batches(
            build(micro_batch_clips=1, mixing=mixing, rank=rank, world_size=world_size), 12
        )
        for rank in range(world_size)
    ]
    for step, expected in enumerate(alone):
        shares = [rank[step] for rank in ranks]
        assert {len(share) for share in shares} == {8 // world_size}
        found = {clip: batch for share in shares for clip, batch in share.items()}
        assert found.keys() == expected.keys()
        assert all(same([found[clip]], [expected[clip]]) for clip in expected)


@pytest.mark.parametrize("mixing", ["clip", "step"])
@pytest.mark.parametrize("prefetch_steps", [0, 3])
def test_restored_after_17_steps_the_next_8_are_equal_to_the_bit(build, mixing, prefetch_steps):
    loader = build(mixing=mixing, prefetch_steps=prefetch_steps)
    for _ in range(17):
        loader.next_step()
    state = loader.state_dict()
    expected = [loader.next_step().batches for _ in range(8)]
    again = build(mixing=mixing, prefetch_steps=prefetch_steps)
    again.load_state_dict(state)
    assert all(same(again.next_step().batches, batches) for batches in expected)


def test_state_of_two_ranks_goes_on_at_one_and_at_four(build):
    two = [build(rank=rank, world_size=2, micro_batch_clips=1) for rank in range(2)]
    for loader in two:
        one_clip_batches(loader, 7)
    states = [loader.state_dict() for loader in two]
    state = states[0] | {"places_L2": np.maximum(*(s["places_L2"] for s in states))}
    alone = build(micro_batch_clips=1)
    one_clip_batches(alone, 7)
    expected = set(one_clip_batches(alone, 1)[0])
    for world_size in (1, 4):
        found = set()
        for rank in range(world_size):
            loader = build(rank=rank, world_size=world_size, micro_batch_clips=1)
            loader.load_state_dict(state)
            found |= set(one_clip_batches(loader, 1)[0])
        assert found == expected


def test_state_is_small_and_plain(build):
    loader = build(prefetch_steps=2)
    loader.next_step()
    state = loader.state_dict()
    assert state["step"] == 1
    assert state["places_L2"].tolist() == [[0, 2]] * 4
    assert set(state) == {"step", "places_L2", "clips", "order"}


def test_one_objective_a_step_in_the_ratio_2_1_1_1(build):
    loader = build(mixing="step", batch_clips=4, micro_batch_clips=2)
    drawn = collections.Counter()
    for _ in range(400):
        tasks = {task for batch in loader.next_step().batches for task in batch.counts}
        assert len(tasks) == 1
        drawn[tasks.pop()] += 1
    shares = [drawn[task] / 400 for task in OBJECTIVES]
    assert shares == pytest.approx([0.4, 0.2, 0.2, 0.2], abs=0.075)  # 3 sigma


def test_a_clip_has_other_masks_in_the_next_epoch(build):
    """One objective, so that every clip is asked the same in both epochs."""
    loader = build(micro_batch_clips=1, weights={"span_mafr": 1.0})
    first, second = (
        {k: v for step in one_clip_batches(loader, 5) for k, v in step.items()} for _ in "ab"
    )
    assert first.keys() == second.keys() and len(first) == 40
    same_targets = [
        torch.equal(
            first[clip].targets["span_mafr"].index_M, second[clip].targets["span_mafr"].index_M
        )
        for clip in first
    ]
    assert sum(same_targets) < 20  # short clips have few masks to choose from


def test_the_objectives_of_the_steps_depend_on_the_seed(build):
    def drawn(seed: int) -> list[str]:
        loader = build(mixing="step", seed=seed, batch_clips=4, micro_batch_clips=4)
        return [next(iter(loader.next_step().batches[0].counts)) for _ in range(30)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_mixing_by_clip_draws_among_what_the_clip_has(build, tmp_path):
    clips = [toys.numbered(n, face=n % 2 == 0, text="" if n % 3 else None) for n in range(24)]
    loader = build(toys.write_shards(tmp_path / "s", clips, 2), micro_batch_clips=1)
    without_face = {clip.id for clip in clips if not clip.has("face")}
    for _ in range(30):
        data = loader.next_step()
        assert not data.dropped
        for batch in data.batches:
            if batch.ids[0] in without_face:
                assert not {"span_mvfr", "span_mvfc_kl"} & batch.counts.keys()


def test_clips_that_cannot_be_used_are_counted_and_replaced(build, tmp_path):
    clips = [toys.numbered(n, text="red " * 31 if n % 4 == 0 else "") for n in range(24)]
    loader = build(toys.write_shards(tmp_path / "s", clips, 2))
    long = {clip.id for clip in clips if len(clip.words) == 31}
    dropped, used = 0, 0
    while used + dropped < 24 * 10:
        data = loader.next_step()
        assert data.num_clips == 8
        assert not long & {clip for batch in data.batches for clip in batch.ids}
        assert set(data.dropped) <= {"text_too_long"}
        used, dropped = used + 8, dropped + sum(data.dropped.values())
    assert dropped / (used + dropped) == pytest.approx(0.25, abs=0.03)


def test_a_modality_that_nobody_has_is_an_error_not_a_hang(build, tmp_path):
    clips = [toys.numbered(n, face=False) for n in range(16)]
    loader = build(
        toys.write_shards(tmp_path / "s", clips, 2), mixing="step", weights={"span_mvfr": 1.0}
    )
    with pytest.raises(LoaderError, match="no_face.*mixing=clip"):
        loader.next_step()


def test_counts_are_those_of_the_targets(build):
    data = build().next_step()
    assert sum(len(batch.ids) for batch in data.batches) == data.num_clips == 8
    assert [len(batch.ids) for batch in data.batches] == [2, 3, 3]
    for task in OBJECTIVES:
        values = [b.targets[task].values for b in data.batches if task in b.targets]
        assert data.count(task) == sum(value.numel() for value in values)
    assert data.num_tokens == sum(
        int(mask.sum())
        for b in data.batches
        for mask in (b.text_mask_NT, *(frames.real_NF for frames in b.frames.values()))
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0, "world_size": 8, "num_lanes": 8}, ["4 shards", "8 ranks", "clips_per_shard"]),
        ({"rank": 0, "world_size": 3}, ["num_lanes=4", "3 ranks"]),
        ({"rank": 0, "world_size": 4, "num_lanes": 2}, ["num_lanes=2", "4 ranks", "4 or 8"]),
        ({"num_lanes": 80, "batch_clips": 80}, ["40 training clips", "num_lanes=80"]),
    ],
)
def test_ranks_lanes_and_shards_that_do_not_fit(build, changes, words):
    with pytest.raises(LoaderError) as caught:
        build(**changes)
    for word in words:
        assert word in str(caught.value)


def test_state_of_other_clips_is_refused(build, tmp_path):
    state = build().state_dict()
    other = toys.write_shards(tmp_path / "s", [toys.numbered(n) for n in range(39)], 4)
    with pytest.raises(LoaderError, match="not those this checkpoint was made with"):
        build(other).load_state_dict(state)
    with pytest.raises(LoaderError, match="run.seed"):
        build(seed=8).load_state_dict(state)


def test_state_of_an_older_order_is_refused_by_its_name(build):
    """As of a checkpoint from before orders had numbers."""
    loader = build()
    state = loader.state_dict()
    del state["order"]
    with pytest.raises(LoaderError, match="another version of the code.*another order .1, this"):
        loader.load_state_dict(state)


@pytest.mark.parametrize("prefetch_steps", [0, 2])
def test_an_altered_shard_stops_the_run_with_a_message(build, tmp_path, prefetch_steps):
    folder = toys.write_shards(tmp_path / "s", [toys.numbered(n) for n in range(8)], 2)
    with open(folder / "000001.tar", "r+b") as tar:
        tar.seek(2000)
        tar.write(b"!")
    loader = build(folder, prefetch_steps=prefetch_steps)
    with pytest.raises(ShardError, match=r"000001\.tar.*altered"):
        for _ in range(2):
            loader.next_step()


def test_closed_in_the_middle_of_its_work_the_thread_has_ended(build):
    """A thread that is still in native code when the interpreter ends aborts the process."""
    before = set(threading.enumerate())
    with build(prefetch_steps=64) as loader:
        loader.next_step()
        started = set(threading.enumerate()) - before
        assert [thread.name for thread in started] == ["loader"]
    assert not any(thread.is_alive() for thread in started)
    with pytest.raises(RuntimeError, match="closed"):
        loader.next_step()


def test_closed_while_the_queue_is_full_the_thread_has_ended(build):
    loader = build(prefetch_steps=1)
    loader.next_step()
    thread = next(t for t in threading.enumerate() if t.name == "loader")
    thread.join(0.5)  # it waits for room
    loader.close()
    assert not thread.is_alive()
    loader.close()  # once is enough, twice is nothing
