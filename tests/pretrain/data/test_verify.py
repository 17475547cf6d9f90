"""Every shard is read by one rank, and all bad ones of a rank are told in one message."""

import pytest
import toys

from data_pipeline.shards import ShardError
from pretrain.config import DataSettings
from pretrain.data.survey import survey_shards
from pretrain.data.verify import verify_shards


@pytest.fixture
def folder(tmp_path):
    return toys.write_shards(tmp_path / "s", [toys.numbered(n) for n in range(20)], 5)


@pytest.fixture
def indices(folder):
    clips = survey_shards(DataSettings(shards=[str(folder)], validation_share=0.2)).clips
    return [clips.train, clips.held_out]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_ranks_together_read_each_shard_once(folder, indices, world_size):
    read = [verify_shards(indices, ["face"], rank, world_size) for rank in range(world_size)]
    assert sum(read) == sum(tar.stat().st_size for tar in folder.glob("*.tar"))


def test_a_flipped_bit_is_found_by_the_rank_that_reads_it(folder, indices):
    toys.flip_bit(folder / "000001.tar")
    verify_shards(indices, ["face"], 0, 2)
    with pytest.raises(ShardError, match=r"000001\.tar has sha256 .*run the same extraction again"):
        verify_shards(indices, ["face"], 1, 2)


def test_several_bad_shards_are_counted_in_one_message(folder, indices):
    toys.flip_bit(folder / "000001.tar")
    (folder / "000003.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"000001.*\(2 such shards of 5 that were read\)"):
        verify_shards(indices, [])
