"""The list of clips beside a checkpoint: small, found again, the same from manifests and tars."""

import dataclasses

import numpy as np
import pytest
import toys

from data_pipeline.schema import ClipSample, Stream
from data_pipeline.shards import features_digest, write_shard
from pretrain.checkpoint.integrity import CheckpointError
from pretrain.data.manifests import ShardRecord, read_manifests
from pretrain.data.seen import SeenClips

PASSPORT = toys.passport(speech_width=4)


def clip(number: int, *, words: bool = False) -> ClipSample:
    text = "Yes." if words else None
    states = 0 if words else 5
    return toys.sample(
        f"toy-{number:04d}", text, faces=0, states=states, width=4, seed=number, corpus="toy"
    )


def known(sample: ClipSample) -> tuple[str, str]:
    return sample.id, features_digest(sample)


def shards(tmp_path) -> list[ShardRecord]:
    return read_manifests([str(tmp_path / "shards")]).shards[str(tmp_path / "shards")]


@pytest.fixture
def seen(tmp_path) -> SeenClips:
    """Of eight clips in two shards, two of them words alone."""
    clips = [clip(n, words=n > 5) for n in range(8)]
    for index in range(2):
        part = clips[index::2]
        write_shard(tmp_path / "shards", index, part, [], PASSPORT, {}, "t")
    return SeenClips.of(shards(tmp_path))


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "shards").mkdir()


def test_a_clip_is_known_by_its_features_or_by_its_id(seen):
    relabelled = dataclasses.replace(clip(1), meta={"corpus": "toy", "label": "happy"})
    renamed = dataclasses.replace(clip(2), id="other-2", text="New words.", words=["New", "words."])
    otherwise = dataclasses.replace(clip(3), streams=clip(40).streams)
    silent = clip(7, words=True)
    found = seen.among(
        map(known, [relabelled, renamed, otherwise, silent, clip(20), clip(21, words=True)])
    )
    assert found.same == {relabelled.id, renamed.id, silent.id}
    assert found.named_alike == {otherwise.id}


def test_it_is_saved_in_sixteen_bytes_a_clip_and_read_back(tmp_path, seen):
    seen.save(tmp_path)
    again = SeenClips.load(tmp_path)
    assert np.array_equal(again.ids_N, seen.ids_N) and len(seen.ids_N) == 8
    assert np.array_equal(again.features_N, seen.features_N) and len(seen.features_N) == 6
    assert seen.ids_N.dtype == np.uint64 and (np.diff(seen.ids_N.astype(object)) > 0).all()
    many = np.arange(10_000, dtype=np.uint64)
    SeenClips(ids_N=many, features_N=many).save(tmp_path)
    assert (tmp_path / "clips.safetensors").stat().st_size < 10_000 * 16 + 500


def test_held_out_clips_are_not_among_those_trained_on(tmp_path, seen):
    wanted_C = np.array([True, True, False, False, True, True, True, True])
    found = SeenClips.of(shards(tmp_path), wanted_C).among(known(clip(n)) for n in range(6))
    assert found.same == {clip(n).id for n in (0, 1, 2, 3, 5)}


def test_a_list_that_is_absent_is_none_and_a_cut_one_is_named(tmp_path, seen):
    assert SeenClips.load(tmp_path) is None
    seen.save(tmp_path)
    path = tmp_path / "clips.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match="clips.safetensors"):
        SeenClips.load(tmp_path)


def test_a_digest_tells_shapes_and_streams_apart():
    def of(name: str, *shape: int) -> str:
        stream = Stream(values_ND=np.zeros(shape, np.float16), seconds_N=np.zeros(2, np.float32))
        return features_digest(ClipSample(id=name, streams={name: stream}))

    one = clip(1)
    assert features_digest(one) == features_digest(dataclasses.replace(one, id="b"))
    assert len({of("speech", 2, 4), of("speech", 4, 2), of("face", 2, 4)}) == 3
    late = Stream(
        values_ND=one.streams["speech"].values_ND, seconds_N=one.streams["speech"].seconds_N + 1
    )
    assert features_digest(dataclasses.replace(one, streams={"speech": late})) != (
        features_digest(one)
    )
    assert features_digest(ClipSample(id="a", text="Yes.", words=["Yes."])) == ""
