"""Shards: bytes that depend on the samples alone, and a reader that is never silently short."""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import tarfile
import time

import numpy as np
import pytest
import webdataset as wds

from data_pipeline import atomic
from data_pipeline.atomic import atomic_file, remove_leftovers
from data_pipeline.schema import ClipSample, FeatureSpec, Reject, SchemaError
from data_pipeline.shards import (
    ShardError,
    list_shards,
    load_passport,
    read_manifest,
    read_shard,
    write_shard,
)

PASSPORT = {
    "face": FeatureSpec(
        name="toy", weights_sha256="f" * 64, layer=-1, pooling=1, rate_hz=10.0, width=342
    ),
    "speech": FeatureSpec(
        name="toy", weights_sha256="5" * 64, layer=-1, pooling=3, rate_hz=50 / 3, width=6
    ),
}
REJECT = Reject(clip="lost", stage="media", reason="unreadable_video", detail="random bytes")


def make_sample(number: int, **changes) -> ClipSample:
    rng = np.random.default_rng(number)
    frames = 3 + number
    sample = ClipSample(
        id=f"toy-{number:03d}",
        text="say wörds",
        words=["say", "wörds"],
        face=rng.normal(size=(frames, 342)).astype(np.float16),
        face_probs=rng.random((frames, 8)).astype(np.float16),
        face_seconds=np.arange(frames, dtype=np.float32) / 10,
        speech=rng.normal(size=(5, 6)).astype(np.float16),
        meta={"corpus": "toy", "label": "anger", "start": 0.0, "end": 1.5},
    )
    return dataclasses.replace(sample, **changes)


def write(folder, samples, index=0, passport=PASSPORT, task="t"):
    return write_shard(folder, index, samples, [REJECT], passport, {"numpy": "2"}, task)


def same(a: ClipSample, b: ClipSample) -> bool:
    for f in dataclasses.fields(ClipSample):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, np.ndarray):
            if y is None or x.dtype != y.dtype or not np.array_equal(x, y):
                return False
        elif x != y:
            return False
    return True


def test_read_gives_back_what_was_written_and_absent_stays_absent(tmp_path):
    samples = [
        make_sample(0),
        make_sample(1, face=None, face_probs=None, face_seconds=None),
        make_sample(2, speech=None),
        make_sample(3, text=None, words=[]),
    ]
    manifest = write(tmp_path, samples)
    (tar,) = list_shards(tmp_path)
    read = list(read_shard(tar, verify=True))
    assert all(same(a, b) for a, b in zip(samples, read, strict=True))
    assert manifest.samples == [s.id for s in samples]
    assert manifest.rejects == [dataclasses.asdict(REJECT)]
    assert read_manifest(tar.with_suffix(".json")) == manifest
    assert load_passport(tmp_path) == PASSPORT
    read[0].face[0] = 0  # training may write into what it reads


def test_plain_webdataset_reads_a_shard(tmp_path):
    samples = [make_sample(n) for n in range(3)]
    write(tmp_path, samples)
    rows = list(wds.WebDataset(str(tmp_path / "000000.tar"), shardshuffle=False).decode())
    assert [row["__key__"] for row in rows] == [s.id for s in samples]
    assert rows[1]["json"]["words"] == ["say", "wörds"]
    assert np.array_equal(rows[2]["face.npy"], samples[2].face)
    assert set(rows[0]) >= {"face_probs.npy", "face_seconds.npy", "speech.npy"}


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, (make_sample(n) for n in range(4)))
    for name in ("000000.tar", "000000.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["000000.json", "000000.tar"]


def test_a_long_id_and_an_empty_shard_are_shards_too(tmp_path):
    long = make_sample(0, id="x" * 180)
    write(tmp_path, [long])
    write(tmp_path, [], index=1)
    assert [s.id for s in read_shard(tmp_path / "000000.tar")] == [long.id]
    assert list(read_shard(tmp_path / "000001.tar")) == []


def test_a_cut_tar_gives_no_sample_at_all(tmp_path):
    write(tmp_path, [make_sample(n) for n in range(4)])
    tar = tmp_path / "000000.tar"
    whole = tar.read_bytes()
    for size in (0, 700, len(whole) // 2, len(whole) - 1):
        tar.write_bytes(whole[:size])
        with pytest.raises(ShardError, match="cut or altered. Remove it and run the same"):
            next(read_shard(tar))


def test_an_altered_byte_is_found_on_first_opening(tmp_path):
    write(tmp_path, [make_sample(n) for n in range(2)])
    tar = tmp_path / "000000.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ShardError, match="sha256"):
        next(read_shard(tar))


def test_a_tar_without_its_manifest_is_not_done(tmp_path):
    write(tmp_path, [make_sample(0)])
    (tmp_path / "000000.json").unlink()
    assert list_shards(tmp_path) == []
    with pytest.raises(ShardError, match="no manifest"):
        next(read_shard(tmp_path / "000000.tar"))
    with pytest.raises(ShardError, match="run python -m data_pipeline.extract"):
        load_passport(tmp_path)


def test_a_manifest_without_its_tar_and_a_missing_folder_say_so(tmp_path):
    write(tmp_path, [make_sample(0)])
    (tmp_path / "000000.tar").unlink()
    with pytest.raises(ShardError, match="is gone"):
        list_shards(tmp_path)
    with pytest.raises(ShardError, match="no folder"):
        list_shards(tmp_path / "nowhere")


def test_shards_of_two_passports_do_not_mix(tmp_path):
    other = {
        **PASSPORT,
        "speech": dataclasses.replace(PASSPORT["speech"], weights_sha256="6" * 64),
    }
    write(tmp_path, [make_sample(0)])
    write(tmp_path, [make_sample(1)], index=1, passport=other)
    with pytest.raises(SchemaError, match="speech.weights_sha256"):
        load_passport([tmp_path])


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../x"},
        {"id": "a.b"},
        {"face": np.zeros((3, 7), np.float16)},
        {"speech": np.full((5, 6), np.nan, np.float16)},
        {"meta": {"label": object()}},
        {"meta": {"score": float("nan")}},
    ],
)
def test_a_sample_that_breaks_its_contract_is_not_written(tmp_path, changes):
    with pytest.raises(SchemaError):
        write(tmp_path, [make_sample(0), make_sample(1, **changes)])
    assert list(tmp_path.iterdir()) == []


def test_an_id_twice_in_a_shard_is_refused(tmp_path):
    with pytest.raises(SchemaError, match="twice"):
        write(tmp_path, [make_sample(0), make_sample(0)])


def test_a_feature_the_passport_does_not_know_is_refused(tmp_path):
    with pytest.raises(SchemaError, match="has speech, the passport has only"):
        write(tmp_path, [make_sample(0)], passport={"face": PASSPORT["face"]})


def forge(folder, members: dict[str, bytes], ids=("toy-000",)) -> None:
    """A tar with any members, and a manifest whose size and hash fit it."""
    tar_path = folder / "000000.tar"
    with tarfile.open(tar_path, "w") as tar:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    manifest = {
        "num_samples": len(ids),
        "num_bytes": tar_path.stat().st_size,
        "sha256": hashlib.sha256(tar_path.read_bytes()).hexdigest(),
        "task": "t",
        "passport": {k: dataclasses.asdict(v) for k, v in PASSPORT.items()},
        "versions": {},
        "samples": list(ids),
        "rejects": [],
    }
    (folder / "000000.json").write_text(json.dumps(manifest))


def npy(array, **kwargs) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


ABOUT = json.dumps({"id": "toy-000", "text": "hi", "words": ["hi"], "meta": {}}).encode()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../toy-000.json": ABOUT}, "none of a sample's fields"),
        ({"sub/toy-000.json": ABOUT}, "none of a sample's fields"),
        ({"toy-000.json": ABOUT, "toy-000.evil.npy": b""}, "none of a sample's fields"),
        ({"toy-000.json": ABOUT, "toy-000.speech.pkl": b""}, "none of a sample's fields"),
        ({"toy-000.json": b"{"}, "no readable json"),
        ({"toy-000.json": ABOUT.replace(b"000", b"001")}, "says id"),
        ({"toy-007.json": ABOUT}, "not where the manifest has it"),
        ({"toy-000.json": ABOUT, "toy-000.speech.npy": b"PK\x03\x04junk"}, "is no npy"),
        (
            {
                "toy-000.json": ABOUT,
                "toy-000.speech.npy": npy(np.array([[print]]), allow_pickle=True),
            },
            "is not as written",
        ),
        (
            {"toy-000.json": ABOUT, "toy-000.speech.npy": npy(np.ones((2, 6), "<f2"))[:-4]},
            "is not as written",
        ),
        ({"toy-000.json": ABOUT, "toy-000.face.npy": npy(np.ones((2, 342), "<f2"))}, "go together"),
    ],
)
def test_a_forged_tar_is_refused(tmp_path, members, message):
    forge(tmp_path, members)
    with pytest.raises(SchemaError, match=message):
        list(read_shard(tmp_path / "000000.tar"))


def test_fewer_samples_than_the_manifest_says_is_an_error(tmp_path):
    forge(tmp_path, {"toy-000.json": ABOUT}, ids=("toy-000", "toy-001"))
    with pytest.raises(ShardError, match="1 samples, its manifest says 2"):
        list(read_shard(tmp_path / "000000.tar"))


def test_another_tar_never_stands_beside_an_old_manifest(tmp_path, monkeypatch):
    """Killed between the new tar and the new manifest: the old manifest is gone by then."""
    write(tmp_path, [make_sample(0)])
    monkeypatch.setattr(
        "data_pipeline.shards.ShardManifest.to_json", lambda self: (_ for _ in ()).throw(KeyError)
    )
    with pytest.raises(KeyError):
        write(tmp_path, [make_sample(1)])
    assert [p.name for p in tmp_path.iterdir()] == ["000000.tar"]


def test_atomic_file_leaves_the_old_content_when_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_long_name_on_a_machine_of_a_long_name_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_HOST", atomic._short_host("node-" + "x" * 200 + ".example.org"))
    for name in ("i" * 180 + "-strip.png", "é" * 120):
        with atomic_file(tmp_path / name) as file:
            (temporary,) = tmp_path.glob(".*.tmp")
            assert atomic._TEMPORARY.fullmatch(temporary.name)
            file.write(b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"


def test_only_what_the_dead_left_is_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = atomic._HOST
    keep = [f".a.tar.{host}.{os.getpid()}.00.tmp", ".a.tar.elsewhere.1.00.tmp", "a.tmp", ".x.tmp"]
    gone = [f".a.tar.{host}.{dead.pid}.00.tmp", ".old.tar.elsewhere.1.00.tmp"]
    for name in keep + gone:
        (tmp_path / name).touch()
    two_days_ago = time.time() - 48 * 3600
    os.utime(tmp_path / gone[1], (two_days_ago, two_days_ago))
    assert {path.name for path in remove_leftovers(tmp_path)} == set(gone)
    assert {path.name for path in tmp_path.iterdir()} == set(keep)
