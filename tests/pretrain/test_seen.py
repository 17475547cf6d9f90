"""The list of clips beside a checkpoint: small, found again, the same from manifests and tars."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipeline.schema import ClipSample, FeatureSpec
from data_pipeline.shards import features_digest, list_shards, write_shard
from pretrain.integrity import CheckpointError
from pretrain.loader import index_shards
from pretrain.seen import SeenClips

WIDTH = 4
PASSPORT = {
    "speech": FeatureSpec(
        name="toy", weights_sha256="5" * 64, layer=-1, pooling=3, rate_hz=50 / 3, width=WIDTH
    )
}


def clip(number: int, *, words: bool = False) -> ClipSample:
    rng = np.random.default_rng(number)
    return ClipSample(
        id=f"toy-{number:04d}",
        text="Yes." if words else None,
        words=["Yes."] if words else [],
        speech=None if words else rng.normal(size=(5, WIDTH)).astype(np.float16),
        meta={"corpus": "toy"},
    )


@pytest.fixture
def seen(tmp_path) -> SeenClips:
    """Of eight clips in two shards, two of them words alone."""
    clips = [clip(n, words=n > 5) for n in range(8)]
    for index in range(2):
        part = clips[index::2]
        write_shard(tmp_path / "shards", index, part, [], PASSPORT, {}, "t")
    return SeenClips.of(index_shards([str(tmp_path / "shards")]))


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "shards").mkdir()


def test_a_clip_is_known_by_its_features_or_by_its_id(seen):
    relabelled = dataclasses.replace(clip(1), meta={"corpus": "toy", "label": "happy"})
    renamed = dataclasses.replace(clip(2), id="other-2", text="New words.", words=["New", "words."])
    otherwise = dataclasses.replace(clip(3), speech=clip(4).speech * 2)
    silent = clip(7, words=True)
    found = seen.among([relabelled, renamed, otherwise, silent, clip(20), clip(21, words=True)])
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


def test_shards_of_older_code_are_read_for_it_and_give_the_same(tmp_path, seen):
    for tar in list_shards(tmp_path / "shards"):
        path = tar.with_suffix(".json")
        manifest = json.loads(path.read_text())
        assert len(manifest.pop("digests")) == manifest["num_samples"]
        path.write_text(json.dumps(manifest))
    again = SeenClips.of(index_shards([str(tmp_path / "shards")]))
    assert np.array_equal(again.features_N, seen.features_N)


def test_held_out_clips_are_not_among_those_trained_on(tmp_path, seen):
    (first, second) = index_shards([str(tmp_path / "shards")])
    half = dataclasses.replace(first, rows=first.rows[:2], ids=first.ids[:2])
    found = SeenClips.of([half, second]).among([clip(n) for n in range(6)])
    assert found.same == {clip(n).id for n in (0, 1, 2, 3, 5)}


def test_a_list_that_is_absent_is_none_and_a_cut_one_is_named(tmp_path, seen):
    assert SeenClips.load(tmp_path) is None
    seen.save(tmp_path)
    path = tmp_path / "clips.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match="clips.safetensors"):
        SeenClips.load(tmp_path)


def test_a_digest_tells_shapes_and_streams_apart():
    flat = np.zeros((2, 4), np.float16)
    one = ClipSample(id="a", speech=flat)
    assert features_digest(one) == features_digest(dataclasses.replace(one, id="b"))
    assert features_digest(one) != features_digest(ClipSample(id="a", speech=flat.reshape(4, 2)))
    assert features_digest(one) != features_digest(ClipSample(id="a", face=flat))
    assert features_digest(ClipSample(id="a", text="Yes.", words=["Yes."])) == ""
