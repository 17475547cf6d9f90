"""Shards open with the tools of the field: webdataset and datasets, plain and through arrow.py."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import toys
import webdataset as wds

from data_pipeline.arrow import open_shards, samples_of
from data_pipeline.schema import ClipSample, FeatureSpec, SchemaError
from data_pipeline.shards import list_shards, load_passport, read_shard, write_shard

FBANK = FeatureSpec(name="toy", weights_sha256="", layer=0, pooling=1, rate_hz=100.0, width=4)
FBANK_ND = np.arange(8, dtype=np.float16).reshape(2, 4)


@pytest.fixture
def folder(tmp_path) -> tuple[Path, list[ClipSample]]:
    """Two shards of three clips, of which the last has no face, and a stream beside them."""
    samples = [
        toys.sample(f"toy-{n}", "say wörds", faces=0 if n == 5 else 3 + n, states=5, label="anger")
        for n in range(6)
    ]
    for index in range(2):
        part = samples[3 * index : 3 * index + 3]
        write_shard(tmp_path, index, part, [], toys.passport(), {}, "task")
    toys.add_stream(tmp_path, FBANK, lambda _: FBANK_ND)
    return tmp_path, samples


def test_webdataset_reads_shards_and_added_streams(folder):
    home, samples = folder
    tars = str(home / "{000000..000001}.tar")
    rows = list(wds.WebDataset(tars, shardshuffle=False).decode())
    assert [row["__key__"] for row in rows] == [s.id for s in samples]
    for row, sample in zip(rows, samples, strict=True):
        assert row["json"]["words"] == sample.words
        held = {name.removesuffix(".npy") for name in row if name.endswith(".npy")}
        assert held - {"face_seconds"} == sample.streams.keys()
        for name, stream in sample.streams.items():
            assert row[f"{name}.npy"].dtype == np.float16
            assert np.array_equal(row[f"{name}.npy"], stream.values_ND)
    beside = wds.WebDataset(str(home / "000000.fbank.tar"), shardshuffle=False).decode()
    assert [row["fbank.npy"].shape for row in beside] == [(2, 4)] * 3


def test_datasets_opens_shards_with_their_types(folder, tmp_path):
    home, samples = folder
    files = [str(home / f"00000{n}.tar") for n in range(2)]
    found = datasets.load_dataset(
        "webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert found.num_rows == 6
    rows_of = datasets.List(datasets.List(datasets.Value("float16")))
    assert {n: found.features[f"{n}.npy"] for n in samples[0].streams} == dict.fromkeys(
        samples[0].streams, rows_of
    )
    assert found.features["face_seconds.npy"] == datasets.List(datasets.Value("float32"))
    assert found.features["json"]["words"] == datasets.List(datasets.Value("string"))
    for row, sample in zip(found, samples, strict=True):
        assert row["__key__"] == row["json"]["id"] == sample.id
        assert row["json"]["meta"]["label"] == "anger"
        for name in samples[0].streams:
            stream = sample.streams.get(name)
            if stream is None:
                assert row[f"{name}.npy"] is None
            else:
                assert np.array_equal(np.float16(row[f"{name}.npy"]), stream.values_ND)


def test_a_folder_opens_with_one_call_typed_and_checked(folder, tmp_path):
    home, samples = folder
    clips = open_shards(home, cache_dir=tmp_path / "cache")
    assert clips["id"][:] == [s.id for s in samples]
    assert clips.features["face_probs"] == datasets.List(
        datasets.List(datasets.Value("float16"), length=8)
    )
    for row, sample in zip(clips.with_format("numpy"), samples, strict=True):
        assert json.loads(str(row["meta"])) == sample.meta and list(row["words"]) == sample.words
        assert np.array_equal(row["speech"], sample.streams["speech"].values_ND)
        if sample.has("face"):
            assert np.array_equal(row["face"], sample.streams["face"].values_ND)
            assert np.array_equal(row["face_seconds"], sample.streams["face"].seconds_N)
    assert clips[5]["face"] is None and clips[5]["face_seconds"] is None


def test_streams_are_chosen_and_other_bytes_are_read_anew(folder, tmp_path):
    home, samples = folder
    cache = tmp_path / "cache"
    clips = open_shards(home, streams=["fbank"], cache_dir=cache)
    assert set(clips.column_names) == {"id", "text", "words", "meta", "fbank"}
    assert np.array_equal(clips.with_format("numpy")[4]["fbank"], FBANK_ND)
    fewer = samples[3:5]
    write_shard(home, 1, fewer, [], toys.passport(), {}, "task")
    assert open_shards(home, cache_dir=cache).num_rows == 5
    (home / "000001.tar").write_bytes((home / "000001.tar").read_bytes()[:-512])
    with pytest.raises(SchemaError, match="cut or altered"):
        open_shards(home, cache_dir=tmp_path / "other")


def test_samples_are_those_of_the_tars_and_views_of_the_cache(folder, tmp_path):
    home, samples = folder
    for streams in (None, ["face_probs"], []):
        passport = load_passport(home, streams)
        clips = open_shards(home, streams, cache_dir=tmp_path / "cache")
        found = list(samples_of(clips, passport))
        read = [sample for tar in list_shards(home) for sample in read_shard(tar, streams=streams)]
        assert [(s.id, s.text, s.words, s.meta) for s in found] == [
            (s.id, s.text, s.words, s.meta) for s in read
        ]
        for one, other in zip(found, read, strict=True):
            assert one.streams.keys() == other.streams.keys()
            for name, stream in one.streams.items():
                assert np.array_equal(stream.values_ND, other.streams[name].values_ND)
                assert np.array_equal(stream.seconds_N, other.streams[name].seconds_N)
                assert not stream.values_ND.flags.writeable and not stream.values_ND.flags.owndata
