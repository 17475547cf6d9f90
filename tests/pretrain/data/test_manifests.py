import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import toys

from data_pipeline.schema import SchemaError
from data_pipeline.shards import ShardError, list_shards, load_passport, read_manifest, write_shard
from pretrain.config import DataSettings, PretrainConfig
from pretrain.data.manifests import ShardRecord, read_manifests
from pretrain.run import shards_manifests


@pytest.fixture
def folders(tmp_path) -> list[str]:
    """Of three shards and of one, the second with words alone in it and an empty shard after."""
    first = toys.write_shards(tmp_path / "a", [toys.numbered(n) for n in range(10)], 3)
    silent = toys.sample("silent", "bin blue", faces=0, states=0)
    second = toys.write_shards(tmp_path / "b", [toys.numbered(10), silent], 1)
    write_shard(second, 1, [], [], toys.passport(), {}, "t")
    return [str(first), str(second)]


def ids(record: ShardRecord) -> list[str]:
    return record.packed_ids.decode().split("\n") if record.num_clips else []


def test_the_records_are_what_the_manifests_say(folders):
    found = read_manifests(folders)
    assert list(found.shards) == folders
    for folder, records in found.shards.items():
        assert [record.tar for record in records] == list_shards(folder)
        for record in records:
            manifest = read_manifest(record.tar.with_suffix(".json"))
            assert ids(record) == manifest.samples and record.num_clips == manifest.num_samples
            assert record.sha256 == manifest.sha256
            digests = [f"{digest:016x}" if digest else "" for digest in record.features_C.tolist()]
            assert digests == manifest.digests
    assert found.passport == load_passport(folders)
    assert found.unfinished == []


def test_each_manifest_is_read_once_and_each_folder_listed_once(folders, monkeypatch):
    opened, listed = [], []
    read, real = Path.read_bytes, os.listdir
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path) or read(path))
    monkeypatch.setattr("os.listdir", lambda path: listed.append(str(path)) or real(path))
    read_manifests(folders, {"face", "speech"})
    assert len(opened) == len(set(opened)) == 5
    assert listed == folders


def test_more_chunks_than_are_read_ahead_come_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.data.manifests.CHUNK", 2)
    monkeypatch.setattr("pretrain.data.manifests.THREADS", 2)
    clips = [toys.sample(f"c{n:03d}", faces=0, states=2) for n in range(21)]
    folder = str(toys.write_shards(tmp_path / "s", clips, len(clips)))
    found = read_manifests([folder]).shards[folder]
    assert sum(map(ids, found), []) == [clip.id for clip in clips]


def test_a_stream_that_was_added_is_in_the_passport_where_it_is_wanted(folders):
    fbank = dataclasses.replace(toys.passport()["speech"], name="fbank", width=3)
    for folder in map(Path, folders):
        toys.add_stream(folder, fbank, lambda clip: np.zeros((2, 3), "<f2"))
    assert read_manifests(folders, {"speech", "fbank", "eeg"}).passport.keys() == {
        "speech",
        "fbank",
    }
    assert "fbank" not in read_manifests(folders).passport


def test_where_each_shard_has_all_that_a_run_asks_for_no_added_one_is_looked_for(
    folders, monkeypatch
):
    monkeypatch.setattr("pretrain.data.manifests.with_added", None)
    config = PretrainConfig(data=DataSettings(shards=folders))
    assert shards_manifests(config).passport.keys() == {"face", "face_probs", "speech"}


def test_folders_need_to_agree_on_what_is_wanted_alone(folders, tmp_path):
    face = dataclasses.replace(toys.passport()["face"], weights_sha256="0" * 64)
    other = toys.passport() | {"face": face}
    (tmp_path / "c").mkdir()
    write_shard(tmp_path / "c", 0, [toys.numbered(20)], [], other, {}, "t")
    three = [*folders, str(tmp_path / "c")]
    assert read_manifests(three, {"speech"}).passport.keys() == {"speech"}
    assert read_manifests(three, {"speech", "eeg"}).passport.keys() == {"speech"}
    for wanted in ({"speech", "face"}, None):
        with pytest.raises(SchemaError, match="face"):
            read_manifests(three, wanted)


def test_tars_without_a_manifest_are_told(folders):
    (Path(folders[0]) / "000001.json").unlink()
    found = read_manifests(folders)
    assert [len(records) for records in found.shards.values()] == [2, 2]
    assert found.unfinished == [
        f"1 of 3 tars in {folders[0]} has no manifest and is left out; run the same extraction "
        "again"
    ]


def test_a_folder_of_no_shard_is_told(tmp_path, folders):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match="no finished shard in .*empty; run python -m"):
        read_manifests([str(tmp_path / "empty")])
    assert read_manifests([str(tmp_path / "empty"), *folders]).shards[str(tmp_path / "empty")] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "is no shard manifest.*extract it again"),
        (lambda text: "", "is no shard manifest"),
        (lambda text: edited(text, digests=["f" * 16]), "4 samples, 1 digests.*altered"),
        (lambda text: edited(text, samples=["a\nb", "c", "d", "e"]), "4 samples, 4 digests"),
        (lambda text: edited(text, samples=[1, 2, 3, 4]), "an id or a digest that is none"),
        (lambda text: edited(text, digests=["x"] * 4), "an id or a digest that is none"),
        (lambda text: edited(text, digests=["f" * 17] * 4), "an id or a digest that is none"),
    ],
)
def test_a_manifest_that_is_cut_or_altered_is_named(folders, change, words):
    path = Path(folders[0]) / "000000.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(SchemaError, match=f"(?s)000000.json.*{words}"):
        read_manifests(folders)


def edited(text: str, **fields: list) -> str:
    return json.dumps(json.loads(text) | fields)


def test_a_shard_that_goes_away_after_the_listing_is_named(folders, monkeypatch):
    read = Path.read_bytes

    def vanishing(path):
        if path.name == "000002.json":
            path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", vanishing)
    with pytest.raises(ShardError, match="a/000002.json went away after its folder was listed"):
        read_manifests(folders)


def test_a_tar_that_goes_away_after_the_listing_is_named(folders, monkeypatch):
    read = Path.read_bytes

    def vanishing(path):
        if path.name == "000002.json":
            path.with_suffix(".tar").unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", vanishing)
    with pytest.raises(ShardError, match="a/000002.tar is gone, its manifest is there"):
        read_manifests(folders)


def test_a_tar_that_was_cut_is_refused_before_it_is_read(folders):
    tar = list_shards(folders[0])[1]
    with open(tar, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ShardError, match=rf"{tar} has 1000 bytes, its manifest says .*cut"):
        read_manifests(folders)


def test_shards_of_two_passports_are_refused(folders, tmp_path):
    write_shard(tmp_path / "b", 7, [], [], toys.passport(speech_width=5), {}, "t")
    with pytest.raises(SchemaError, match=r"speech\.width: found 5, expected 24"):
        read_manifests(folders)
