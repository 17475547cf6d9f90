"""The contracts: ids that cannot leave a folder, samples that hold what they promise, passports."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import toys

from data_pipeline.schema import (
    FORMAT_VERSION,
    MAX_ID_LENGTH,
    ClipSample,
    SchemaError,
    ShardManifest,
    Stream,
    all_finite,
    check_id,
    check_passport,
    clip_id,
    passport_from_json,
    passport_to_json,
    slug,
)

PASSPORT = toys.passport(speech_width=4)
FACE, SPEECH = PASSPORT["face"], PASSPORT["speech"]


def make_sample(**changes) -> ClipSample:
    """Of two faces and three states; a change of `face`, `face_probs` or `speech` is of a stream's
    values or times, None leaves it out."""
    sample = toys.sample("toy-000000", "hello there", faces=2, states=3, width=4)
    streams = dict(sample.streams)
    for name in [name for name in changes if name in PASSPORT]:
        part = changes.pop(name)
        streams[name] = dataclasses.replace(streams[name], **part) if part else None
    streams = {name: stream for name, stream in streams.items() if stream is not None}
    return dataclasses.replace(sample, streams=streams, **changes)


NO_FACE = {"face": None, "face_probs": None}


def test_schema_knows_no_torch(root):
    code = "import sys, data_pipeline.schema; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


@pytest.mark.parametrize(
    ("corpus", "recording"),
    [
        ("grid", "s1"),
        ("grid", "../../etc/passwd"),
        ("", "/absolute/path.mp4"),
        ("a.b", "dots.in.names"),
        ("korpus", "żółw 漢字"),
        ("x" * 300, "y" * 300),
        ("", ""),
    ],
)
def test_an_id_is_safe_whatever_the_names(corpus, recording):
    name = clip_id(corpus, recording, 12.3456)
    check_id(name)
    assert name.endswith("-012346") and "." not in name and "/" not in name
    assert name == clip_id(corpus, recording, 12.3456)


def test_names_that_must_change_to_be_ids_do_not_meet():
    names = ["a b", "a_b", "a.b", "a/b", " a_b", "a__b"]
    assert len({clip_id("c", name, 0.0) for name in names}) == len(names)
    assert len({clip_id("c", "y" * 300 + end, 0.0) for end in "abc"}) == 3
    assert clip_id("grid", "s1", 0.0) != clip_id("grid", "s1", 0.001)


@pytest.mark.parametrize("bad", ["", "a.b", "a/b", "..", "a b", "ä", "a\n", "x" * 181])
def test_an_unsafe_id_is_refused(bad):
    with pytest.raises(SchemaError, match="bad clip id"):
        check_id(bad)
    assert len("x" * MAX_ID_LENGTH) == 180


def test_slug_keeps_what_is_safe():
    assert slug("Ses01F_impro01") == "Ses01F_impro01"
    assert slug("../a b.mp4") == "a_b_mp4"


def test_a_whole_sample_and_one_of_each_single_modality_pass():
    make_sample().check(PASSPORT)
    make_sample(**NO_FACE, speech=None).check(PASSPORT)
    make_sample(**NO_FACE, text=None, words=[]).check(PASSPORT)
    make_sample(speech=None, text=None, words=[]).check(PASSPORT)


def test_a_sample_can_be_cut_down_to_some_modalities():
    sample = make_sample()
    assert [m for m in ("text", "face", "speech", "fbank") if sample.has(m)] == [
        *("text", "face", "speech")
    ]
    only = sample.only({"face"})
    assert (only.text, only.words, list(only.streams)) == (None, [], ["face"])
    assert only.streams["face"] is sample.streams["face"] and only.meta == sample.meta
    assert sample.only({"text"}).words == sample.words


def values(*shape, dtype=np.float16, of=0.0) -> dict:
    return {"values_ND": np.full(shape, of, dtype)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "../x"}, "bad clip id"),
        ({"text": None}, "text None but words"),
        ({"words": []}, "but words"),
        ({"face": None}, "face_probs is timed by face, which is absent"),
        ({"face": values(2, 341)}, r"expected float16 \[N, 342\]"),
        ({"face": values(2, 342, dtype=np.float32)}, "face is float32"),
        ({"face_probs": values(3, 8)}, "face_probs has times of"),
        ({"face": {"seconds_N": np.array([0.1, 0.1], np.float32)}}, "do not increase"),
        ({"face": {"seconds_N": np.array([0.1, 0.2], np.float32)}}, "has other times"),
        ({"face": {"seconds_N": np.array([0.1, 0.2])}}, "times of float64"),
        ({"speech": values(0, 4)}, "at least one row"),
        ({"speech": values(3, 5)}, "speech is"),
        ({"speech": values(3, 4, of=np.inf)}, "not finite"),
        (
            {"speech": {"seconds_N": np.array([0.0, 0.06, 0.13], np.float32)}},
            "not those of 16.6667 rows a second",
        ),
        ({**NO_FACE, "speech": None, "text": None, "words": []}, "no text and no stream"),
    ],
)
def test_a_sample_that_breaks_its_promise_is_refused(changes, message):
    with pytest.raises(SchemaError, match=message):
        make_sample(**changes).check(PASSPORT)


def test_a_stream_that_the_passport_lacks_is_refused():
    with pytest.raises(SchemaError, match="has speech, the passport only"):
        make_sample().check({name: PASSPORT[name] for name in NO_FACE})


def test_rows_of_a_stream_go_with_their_times():
    stream = make_sample().streams["speech"]
    assert isinstance(stream[1:], Stream) and len(stream[1:]) == 2
    assert (stream[1:].seconds_N == stream.seconds_N[1:]).all()
    assert (stream[np.array([True, False, True])].values_ND == stream.values_ND[[0, 2]]).all()


def test_a_passport_survives_json_and_names_each_difference():
    assert passport_from_json(passport_to_json(PASSPORT)) == PASSPORT
    check_passport(PASSPORT, PASSPORT, "here")
    same_weights = dataclasses.replace(SPEECH, name="hub/toy-speech")
    check_passport(PASSPORT | {"speech": same_weights}, PASSPORT, "here")
    other = PASSPORT | {"speech": dataclasses.replace(SPEECH, layer=9, pooling=1)}
    with pytest.raises(SchemaError) as error:
        check_passport(other, PASSPORT, "runs/x/000000.tar")
    text = str(error.value)
    assert "runs/x/000000.tar" in text and "data_pipeline.extract" in text
    assert "speech.layer: found 9, expected -1" in text
    assert "speech.pooling: found 1, expected 3" in text and "face" not in text.replace("face.", "")
    with pytest.raises(SchemaError, match="face: found None"):
        check_passport({"speech": SPEECH}, PASSPORT, "here")
    with pytest.raises(SchemaError, match="extract the shards again"):
        passport_from_json({"face": {"name": "toy"}})


def test_a_manifest_survives_json_and_a_newer_one_is_refused():
    manifest = ShardManifest(
        num_samples=1,
        num_bytes=10240,
        sha256="0" * 64,
        task="t",
        passport=passport_to_json(PASSPORT),
        versions={"numpy": "2"},
        samples=["toy-000000"],
        rejects=[],
        digests=["00" * 8],
    )
    assert ShardManifest.from_json(manifest.to_json(), "m.json") == manifest
    mine = f'"format_version": {FORMAT_VERSION}'
    for other in (FORMAT_VERSION - 1, FORMAT_VERSION + 1):
        text = manifest.to_json().replace(mine, f'"format_version": {other}')
        found = f"m.json has format version {other}, this code reads {FORMAT_VERSION}; extract"
        with pytest.raises(SchemaError, match=found):
            ShardManifest.from_json(text, "m.json")
    for text in ("{", "[]", '{"num_samples": 1}', '{"extra": 1}'):
        with pytest.raises(SchemaError, match="m.json is no shard manifest"):
            ShardManifest.from_json(text, "m.json")
    for name, value in (("passport", None), ("samples", 3), ("num_bytes", "10240")):
        altered = dataclasses.replace(manifest, **{name: value}).to_json()
        with pytest.raises(SchemaError, match=f"m.json: {name} is {value!r}, expected a"):
            ShardManifest.from_json(altered, "m.json")
    with pytest.raises(SchemaError, match="bad feature passport"):
        passport_from_json(None)


def test_finite_is_what_numpy_says_of_every_float16():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    found = [all_finite(value[None]) for value in every]
    assert found == np.isfinite(every).tolist()
    strided = np.ones((6, 4), np.float16)[::2, 1:3]
    assert all_finite(strided) and all_finite(strided[:0])
    assert not all_finite(np.array([1, np.nan], np.float32))
