import pytest

from data_pipeline.schema import clip_id
from pretrain.data.held_out import choose_held_out, describe_held_out, file_hashes


def packed(ids: list[str]) -> list[bytes]:
    """As of two shards, and of one without a clip."""
    half = len(ids) // 2
    return ["\n".join(part).encode() for part in (ids[:half], [], ids[half:])]


def held_of(ids: list[str], num_clips: int) -> set[str]:
    held_C = choose_held_out(packed(ids), file_hashes(packed(ids)), num_clips)
    return {clip for clip, held in zip(ids, held_C, strict=True) if held}


def test_whole_files_are_held_out():
    ids = [clip_id("c", f"film{n // 10}", n % 10) for n in range(100)]
    held = held_of(ids, 25)
    films = {clip.rpartition("-")[0] for clip in held}
    assert len(held) == 20 and len(films) == 2
    assert held_of(ids[::-1], 25) == held


def test_single_clips_where_every_file_is_too_large():
    ids = [clip_id("c", "film", second) for second in range(50)]
    held = held_of(ids, 5)
    assert held == {clip_id("c", "film", second) for second in (17, 18, 21, 33, 46)}
    assert held_of(ids[::-1], 5) == held
    assert held < held_of(ids, 6)


def test_ids_of_the_users_own_stand_alone():
    held = held_of([f"my-clip-{n}" for n in range(50)], 5)
    assert held == {f"my-clip-{n}" for n in (6, 9, 25, 45, 47)}


@pytest.mark.parametrize(
    ("num_ids", "wanted", "expected"), [(0, 5, ()), (10, 0, ()), (1, 5, ()), (3, 9, (0, 1))]
)
def test_training_keeps_at_least_one_clip(num_ids, wanted, expected):
    held = held_of([f"clip{n}" for n in range(num_ids)], wanted)
    assert held == {f"clip{n}" for n in expected}


def test_clips_of_one_id_in_two_shards_go_the_same_way():
    ids = [f"clip{n}" for n in range(20)] * 2
    held_C = choose_held_out(packed(ids), file_hashes(packed(ids)), 6)
    assert held_C.sum() == 6 and (held_C[:20] == held_C[20:]).all()
    ids = [clip_id("c", "film", second) for second in range(20)] * 2
    for wanted in (5, 6):
        held_C = choose_held_out(packed(ids), file_hashes(packed(ids)), wanted)
        assert held_C.sum() in (4, 6) and (held_C[:20] == held_C[20:]).all()


def test_they_are_told_in_words():
    files_C = file_hashes(packed([clip_id("c", f"film{n // 4}", n) for n in range(12)]))
    assert describe_held_out(files_C[4:], files_C[:4]) == "4 clips of 1 video files held out"
    assert describe_held_out(files_C[2:], files_C[:6]).endswith("2 of which are trained on too")
    assert describe_held_out(files_C, files_C[:0]) == "0 clips of 0 video files held out"
