from pathlib import Path

import numpy as np
import pytest
import toys

from data_pipeline.shards import ShardError, list_shards, read_shard, write_shard
from pretrain.data.clip_index import ClipIndex, build_index
from pretrain.data.manifests import ShardRecord, read_manifests

from ..conftest import index_of


@pytest.fixture
def folder(tmp_path):
    """14 clips in shards of 5, 5 and 4."""
    return toys.write_shards(tmp_path / "s", [toys.numbered(n) for n in range(14)], 3)


def records(folder) -> list[ShardRecord]:
    return read_manifests([str(folder)]).shards[str(folder)]


def ids(index: ClipIndex) -> list[list[str]]:
    return [[sample.id for sample in index.samples(shard)] for shard in range(len(index))]


def test_all_clips_of_a_folder(folder):
    index = index_of(folder)
    tars = list_shards(folder)
    assert [index.tar(shard) for shard in range(len(index))] == tars
    assert ids(index) == [[sample.id for sample in read_shard(tar)] for tar in tars]
    assert index.counts_S.tolist() == [5, 5, 4] and index.num_clips == 14
    assert [index.rows(shard).tolist() for shard in range(3)] == [[*range(n)] for n in (5, 5, 4)]


def test_wanted_clips_alone_and_no_shard_without_any(folder):
    wanted_C = np.array([0, 1, 1, 0, 1] + [0] * 5 + [1, 1, 0, 1], dtype=bool)
    index, whole = build_index(records(folder), wanted_C), ids(index_of(folder))
    assert [index.rows(shard).tolist() for shard in range(len(index))] == [[1, 2, 4], [0, 1, 3]]
    assert [index.tar(shard).stem for shard in range(len(index))] == ["000000", "000002"]
    assert ids(index) == [[whole[0][r] for r in (1, 2, 4)], [whole[2][r] for r in (0, 1, 3)]]
    rest = build_index(records(folder), ~wanted_C)
    assert index.num_clips + rest.num_clips == 14 and len(rest) == 3
    assert sorted(sum(ids(index) + ids(rest), [])) == sorted(sum(whole, []))


def test_shards_of_several_folders_and_empty_ones(folder, tmp_path):
    other = toys.write_shards(tmp_path / "o", [toys.numbered(n) for n in range(20, 23)], 1)
    write_shard(other, 7, [], [], toys.passport(), {}, "t")
    index = build_index([*records(folder), *records(other)])
    assert [index.tar(shard).parent for shard in range(len(index))] == [folder] * 3 + [other]
    assert index.counts_S.tolist() == [5, 5, 4, 3]
    assert len(build_index([])) == 0 == build_index([]).num_clips


def test_it_goes_through_arrays_unchanged(folder):
    index = build_index(records(folder), np.arange(14) % 3 > 0)
    again = ClipIndex.from_arrays(index.to_arrays())
    assert again.folders == index.folders and ids(again) == ids(index)
    for name, array in index.to_arrays().items():
        assert np.array_equal(again.to_arrays()[name], array), name
        assert array.dtype.kind in "iu", name
    none = build_index([])
    assert len(ClipIndex.from_arrays(none.to_arrays())) == 0


def test_its_memory_is_that_of_its_shards():
    """26 bytes a shard, whether it holds one clip or a thousand; 4 bytes a row where not all are
    wanted."""

    def size(index: ClipIndex) -> int:
        return sum(array.nbytes for name, array in index.to_arrays().items() if name != "folders")

    def shards(clips: int) -> list[ShardRecord]:
        names = "\n".join(f"clip{n:04d}" for n in range(clips)).encode()
        none_C = np.zeros(clips, dtype=np.uint64)
        return [
            ShardRecord(
                tar=Path(f"s/{number:06d}.tar"),
                sha256="",
                num_clips=clips,
                packed_ids=names,
                features_C=none_C,
            )
            for number in range(50)
        ]

    assert size(build_index(shards(1))) == size(build_index(shards(1000))) == 50 * 26
    wanted_C = np.ones(50_000, dtype=bool)
    wanted_C[:10] = False
    assert size(build_index(shards(1000), wanted_C)) == 50 * 26 + 4 + 4 * 990


def test_a_shard_made_anew_during_a_run_is_told(folder):
    index = index_of(folder)
    write_shard(folder, 1, [toys.numbered(n) for n in range(50, 55)], [], toys.passport(), {}, "t")
    assert len(list(index.samples(0))) == 5
    with pytest.raises(ShardError, match="000001.tar holds other clips than rank 0 found in it"):
        list(index.samples(1))


def test_a_tar_that_went_away_is_told(folder):
    index = index_of(folder)
    (folder / "000002.tar").unlink()
    with pytest.raises(ShardError, match="000002.tar is gone"):
        list(index.samples(2))
