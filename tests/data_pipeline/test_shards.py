"""Shards: bytes that depend on the samples alone, and a reader that is never silently short."""

import dataclasses
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
import toys
import webdataset as wds

from data_pipeline.schema import (
    FORMAT_VERSION,
    ClipSample,
    FeatureSpec,
    Reject,
    SchemaError,
    Stream,
)
from data_pipeline.shards import (
    ShardError,
    list_shards,
    load_passport,
    read_manifest,
    read_shard,
    verify_shard,
    write_shard,
)

PASSPORT = toys.passport(speech_width=6)
REJECT = Reject(clip="lost", stage="media", reason="unreadable_video", detail="random bytes")


def make_sample(number: int, *, without: tuple[str, ...] = (), **changes) -> ClipSample:
    about = {"corpus": "toy", "label": "anger", "start": 0.0, "end": 1.5}
    sample = toys.sample(
        f"toy-{number:03d}", "say wörds", faces=3 + number, states=5, width=6, seed=number, **about
    )
    kept = {name: stream for name, stream in sample.streams.items() if name not in without}
    return dataclasses.replace(sample, **({"streams": kept} | changes))


def spoilt(number: int, name: str, values_ND: np.ndarray) -> ClipSample:
    """A sample whose stream `name` has these values."""
    streams = dict(make_sample(number).streams)
    streams[name] = dataclasses.replace(streams[name], values_ND=values_ND)
    return make_sample(number, streams=streams)


def write(folder, samples, index=0, passport=PASSPORT, task="t"):
    return write_shard(folder, index, samples, [REJECT], passport, {"numpy": "2"}, task)


def same(a: ClipSample, b: ClipSample) -> bool:
    """Equal to the bit, absent streams absent."""
    return (
        (a.id, a.text, a.words, a.meta) == (b.id, b.text, b.words, b.meta)
        and a.streams.keys() == b.streams.keys()
        and all(
            x.dtype == y.dtype and np.array_equal(x, y)
            for name in a.streams
            for x, y in (
                (a.streams[name].values_ND, b.streams[name].values_ND),
                (a.streams[name].seconds_N, b.streams[name].seconds_N),
            )
        )
    )


def test_read_gives_back_what_was_written_and_absent_stays_absent(tmp_path):
    samples = [
        make_sample(0),
        make_sample(1, without=("face", "face_probs")),
        make_sample(2, without=("speech",)),
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
    read[0].streams["face"].values_ND[0] = 0  # training may write into what it reads


def test_plain_webdataset_reads_a_shard(tmp_path):
    samples = [make_sample(n) for n in range(3)]
    write(tmp_path, samples)
    rows = list(wds.WebDataset(str(tmp_path / "000000.tar"), shardshuffle=False).decode())
    assert [row["__key__"] for row in rows] == [s.id for s in samples]
    assert rows[1]["json"]["words"] == ["say", "wörds"]
    assert np.array_equal(rows[2]["face.npy"], samples[2].streams["face"].values_ND)
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
    toys.flip_bit(tar)
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
    "bad",
    [
        make_sample(1, id="../../x"),
        make_sample(1, id="a.b"),
        spoilt(1, "face", np.zeros((4, 7), np.float16)),
        spoilt(1, "speech", np.full((5, 6), np.nan, np.float16)),
        make_sample(1, meta={"label": object()}),
        make_sample(1, meta={"score": float("nan")}),
    ],
)
def test_a_sample_that_breaks_its_contract_is_not_written(tmp_path, bad):
    with pytest.raises(SchemaError):
        write(tmp_path, [make_sample(0), bad])
    assert list(tmp_path.iterdir()) == []


def test_an_id_twice_in_a_shard_is_refused(tmp_path):
    with pytest.raises(SchemaError, match="twice"):
        write(tmp_path, [make_sample(0), make_sample(0)])


def test_a_feature_the_passport_does_not_know_is_refused(tmp_path):
    with pytest.raises(SchemaError, match="has face_probs, the passport only"):
        write(tmp_path, [make_sample(0)], passport={"face": PASSPORT["face"]})


FBANK = {
    "fbank": FeatureSpec(
        name="fbank80",
        weights_sha256="",
        layer=0,
        pooling=1,
        rate_hz=100.0,
        width=3,
        dtype="float32",
    )
}


def fbank_of(sample: ClipSample) -> ClipSample:
    values = np.arange(6, dtype=np.float32).reshape(2, 3) + int(sample.id[-1])
    stream = Stream(values_ND=values, seconds_N=FBANK["fbank"].seconds(2))
    return ClipSample(id=sample.id, streams={"fbank": stream})


def add(folder, samples, beside: str) -> None:
    write_shard(folder, 0, samples, [], FBANK, {"numpy": "2"}, "t2", added="fbank", beside=beside)


def test_an_added_stream_is_joined_by_id_and_the_shard_stays_as_it_is(tmp_path):
    samples = [make_sample(n) for n in range(4)]
    manifest = write(tmp_path, samples)
    tar = tmp_path / "000000.tar"
    before = tar.read_bytes()
    add(tmp_path, [fbank_of(samples[n]) for n in (0, 1, 3)], manifest.sha256)  # 2 has none of it
    assert tar.read_bytes() == before and list_shards(tmp_path) == [tar]

    assert all(same(a, b) for a, b in zip(samples, read_shard(tar), strict=True))
    read = list(read_shard(tar, streams=["speech", "fbank"]))
    assert [list(sample.streams) for sample in read] == [
        *(["speech", "fbank"], ["speech", "fbank"], ["speech"], ["speech", "fbank"])
    ]
    assert (
        read[3].streams["fbank"].values_ND == fbank_of(samples[3]).streams["fbank"].values_ND
    ).all()
    assert read[3].streams["fbank"].seconds_N == pytest.approx([0, 0.01])
    assert load_passport(tmp_path) == PASSPORT
    both = load_passport(tmp_path, ["speech", "fbank", "eeg"])
    assert both == {"speech": PASSPORT["speech"], **FBANK}


def test_verified_are_the_bytes_of_a_shard_and_of_the_streams_that_are_asked_for(tmp_path):
    samples = [make_sample(n) for n in range(4)]
    add(tmp_path, map(fbank_of, samples), write(tmp_path, samples).sha256)
    tar, added = tmp_path / "000000.tar", tmp_path / "000000.fbank.tar"
    assert verify_shard(tar, ["face", "eeg"]) == tar.stat().st_size
    assert verify_shard(tar, ["fbank"]) == tar.stat().st_size + added.stat().st_size
    toys.flip_bit(added)
    verify_shard(tar, ["face"])
    with pytest.raises(ShardError, match="000000.fbank.tar has sha256"):
        verify_shard(tar, ["fbank"])
    toys.flip_bit(tar)
    with pytest.raises(ShardError, match="000000.tar has sha256"):
        verify_shard(tar)


def test_a_stream_that_nobody_added_says_how(tmp_path):
    write(tmp_path, [make_sample(0)])
    with pytest.raises(ShardError, match=r"no stream 'fbank'; add it with .* 'add=\[fbank\]"):
        list(read_shard(tmp_path / "000000.tar", streams=["fbank"]))


def test_an_added_stream_of_another_shard_is_refused(tmp_path):
    manifest = write(tmp_path, [make_sample(0), make_sample(1)])
    tar = tmp_path / "000000.tar"
    add(tmp_path, [fbank_of(make_sample(0))], "0" * 64)
    with pytest.raises(ShardError, match="added to another 000000.tar"):
        list(read_shard(tar, streams=["fbank"]))
    add(tmp_path, [fbank_of(make_sample(7))], manifest.sha256)
    with pytest.raises(ShardError, match="'toy-007' is not among its shard's samples"):
        list(read_shard(tar, streams=["fbank"]))
    (tmp_path / "000000.fbank.tar").write_bytes(b"")
    with pytest.raises(ShardError, match="cut or"):
        list(read_shard(tar, streams=["fbank"]))


def forge(folder, members: dict[str, bytes], ids=("toy-000",)) -> None:
    """A tar with any members, and a manifest whose size and hash fit it."""
    tar_path = folder / "000000.tar"
    with tarfile.open(tar_path, "w") as tar:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    manifest = {
        "format_version": FORMAT_VERSION,
        "num_samples": len(ids),
        "num_bytes": tar_path.stat().st_size,
        "sha256": hashlib.sha256(tar_path.read_bytes()).hexdigest(),
        "task": "t",
        "passport": {k: dataclasses.asdict(v) for k, v in PASSPORT.items()},
        "versions": {},
        "samples": list(ids),
        "rejects": [],
        "digests": [""] * len(ids),
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
        (
            {"toy-000.json": ABOUT, "toy-000.face.npy": npy(np.ones((2, 342), "<f2"))},
            "face is timed by face_seconds.npy, which is not there",
        ),
        (
            {"toy-000.json": ABOUT, "toy-000.speech.npy": npy(np.ones((2, 6), "<f4"))},
            "is not as written",
        ),
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
