"""What rank 0 finds, and that the others get that and nothing of their own."""

import os
import socket
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import toys

from data_pipeline.config import ConfigError
from data_pipeline.schema import clip_id
from data_pipeline.shards import write_shard
from pretrain.config import DataSettings
from pretrain.data.survey import RunClips, Survey, survey_shards
from pretrain.runtime import RuntimeSettings, start
from pretrain.scaling import draw_counts, write_manifests


@pytest.fixture
def folder(tmp_path):
    """30 clips of ten films, three of each, in shards of 4: films lie across shards."""
    clips = [toys.sample(clip_id("c", f"film{n // 3}", n % 3), faces=0) for n in range(30)]
    return toys.write_shards(tmp_path / "s", clips, 8)


def survey(folder, **settings) -> Survey:
    return survey_shards(DataSettings(shards=[str(folder)], **settings), {"speech"})


def ids(index) -> set[str]:
    return {sample.id for shard in range(len(index)) for sample in index.samples(shard)}


def test_every_clip_is_trained_on_or_held_out_and_films_are_not_parted(folder):
    found = survey(folder, validation_share=0.2)
    train, held = ids(found.clips.train), ids(found.clips.held_out)
    assert len(train) == 24 and len(held) == 6 and not train & held
    assert not {c.rpartition("-")[0] for c in train} & {c.rpartition("-")[0] for c in held}
    assert found.held_out == "6 clips of 2 video files held out"
    assert len(found.seen.ids_N) == 24
    assert found.seen.among((clip, "") for clip in train | held).same == train
    assert found.clips.passport.keys() == {"speech"}
    assert {k: len(v) for k, v in found.shards_sha256.items()} == {str(folder): 8}


def test_held_out_clips_of_a_folder_of_their_own(folder, tmp_path):
    other = toys.write_shards(tmp_path / "o", [toys.numbered(n) for n in range(3)], 1)
    found = survey(folder, validation_shards=[str(other)])
    assert ids(found.clips.held_out) == {toys.numbered(n).id for n in range(3)}
    assert found.clips.train.num_clips == 30 and list(found.shards_sha256) == [str(folder)]


def test_none_held_out(folder):
    found = survey(folder, validation_share=0.0)
    assert len(found.clips.held_out) == 0 and found.clips.train.num_clips == 30
    assert found.held_out == "0 clips of 0 video files held out"


def test_what_a_clip_takes_of_memory(tmp_path):
    """200 MB for a million while rank 0 looks, 20 MB of what it keeps: no object for a clip."""
    write_manifests(tmp_path, draw_counts(20_000, 80))
    survey(tmp_path)  # what a first call leaves for good
    tracemalloc.start()
    found = survey(tmp_path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.clips.train.num_clips + found.clips.held_out.num_clips == 20_000
    assert peak < 20_000 * 200 and kept < 20_000 * 20


def test_one_shard_in_two_places_is_refused(folder, tmp_path):
    (tmp_path / "copy").mkdir()
    for name in ("000003.tar", "000003.json"):
        (tmp_path / "copy" / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ConfigError, match="s/000003.tar and .*copy/000003.tar are the same shard"):
        survey(folder, validation_shards=[str(tmp_path / "copy")])


def test_shards_without_a_clip_are_told(folder, tmp_path):
    """As where every clip was a reject, and another folder has those to validate on."""
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # with no shard, and with one of no clip
        with pytest.raises(ConfigError, match="no clip in the finished shards of .*empty"):
            survey(tmp_path / "empty", validation_shards=[str(folder)])
        write_shard(tmp_path / "empty", 0, [], [], toys.passport(), {}, "t")


def test_it_goes_through_arrays_unchanged(folder):
    clips = survey(folder, validation_share=0.2).clips
    again = RunClips.from_arrays(clips.to_arrays())
    assert again.passport == clips.passport
    assert ids(again.train) == ids(clips.train) and ids(again.held_out) == ids(clips.held_out)
    assert all(array.dtype != object for array in clips.to_arrays().values())


RANK = """
import sys
import pretrain.data.survey
from pretrain.config import DataSettings
from pretrain.data.order import ClipOrder
from pretrain.runtime import RuntimeSettings, start
from pretrain.runtime import RuntimeSettings, start
from pretrain.data.survey import RunClips, survey_shards

runtime = start(RuntimeSettings(device="cpu", timeout_minutes=2))
if not runtime.is_main:
    pretrain.data.survey.read_manifests = None  # it cannot read any
try:
    found = runtime.on_main(lambda: survey_shards(DataSettings(shards=[sys.argv[1]])))
    clips = RunClips.from_arrays(runtime.from_main(found and found.clips.to_arrays()))
    order = ClipOrder(clips.train.counts_S, 7)
    places = [order.place(epoch, at) for epoch in (0, 1) for at in range(order.num_clips)]
    arrays = {name: array.tolist() for name, array in clips.to_arrays().items()}
    print("FOUND", clips.train.num_clips, hash(str((arrays, places))))
    runtime.finish()
except Exception as error:
    print("FOUND", type(error).__name__)
"""


def two_ranks(folder, root) -> list[str]:
    """What each of two processes prints of the clips of `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_PORT": port, "PYTHONHASHSEED": "0"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder)],
            cwd=root,
            env=environment | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    outs = [rank.communicate(timeout=240)[0] for rank in ranks]
    return [line for out in outs for line in out.splitlines() if line.startswith("FOUND")]


@pytest.mark.distributed
def test_every_rank_has_what_rank_0_found_and_reads_no_manifest(folder, root):
    first, second = two_ranks(folder, root)
    assert first == second and first.split()[1] == "28"


@pytest.mark.distributed
def test_where_rank_0_cannot_read_a_manifest_every_rank_ends(folder, root):
    (folder / "000004.json").write_text("{")
    assert two_ranks(folder, root) == ["FOUND SchemaError", "FOUND ToldByRankZero"]


def test_one_process_alone_sends_nothing():
    arrays = {"a": np.arange(3)}
    assert start(RuntimeSettings(device="cpu")).from_main(arrays) is arrays
