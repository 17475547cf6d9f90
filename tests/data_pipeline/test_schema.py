"""The contracts: ids that cannot leave a folder, samples that hold what they promise, passports."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from data_pipeline.schema import (
    MAX_ID_LENGTH,
    ClipSample,
    FeatureSpec,
    SchemaError,
    ShardManifest,
    check_id,
    check_passport,
    clip_id,
    passport_from_json,
    passport_to_json,
    slug,
)

FACE = FeatureSpec(
    name="toy", weights_sha256="f" * 64, layer=-1, pooling=1, rate_hz=10.0, width=342
)
SPEECH = dataclasses.replace(FACE, name="toy-speech", pooling=3, rate_hz=50 / 3, width=4)
PASSPORT = {"face": FACE, "speech": SPEECH}


def make_sample(**changes) -> ClipSample:
    fields = {
        "id": "toy-000000",
        "text": "hello there",
        "words": ["hello", "there"],
        "face": np.zeros((2, 342), np.float16),
        "face_probs": np.full((2, 8), 1 / 8, np.float16),
        "face_seconds": np.array([0.0, 0.1], np.float32),
        "speech": np.zeros((3, 4), np.float16),
    }
    return ClipSample(**(fields | changes))


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
    no_face = {"face": None, "face_probs": None, "face_seconds": None}
    make_sample(**no_face, speech=None).check(PASSPORT)
    make_sample(**no_face, text=None, words=[]).check(PASSPORT)
    make_sample(speech=None, text=None, words=[]).check(PASSPORT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "../x"}, "bad clip id"),
        ({"text": None}, "text None but words"),
        ({"words": []}, "but words"),
        ({"face": None}, "go together"),
        ({"face": np.zeros((2, 341), np.float16)}, "expected float16"),
        ({"face": np.zeros((2, 342), np.float32)}, "float32"),
        ({"face_probs": np.zeros((3, 8), np.float16)}, "face_probs"),
        ({"face_seconds": np.array([0.1, 0.1], np.float32)}, "do not increase"),
        ({"speech": np.zeros((0, 4), np.float16)}, "at least one row"),
        ({"speech": np.zeros((3, 5), np.float16)}, "speech is"),
        ({"speech": np.full((3, 4), np.inf, np.float16)}, "not finite"),
        (
            {
                **{"face": None, "face_probs": None, "face_seconds": None},
                **{"speech": None, "text": None, "words": []},
            },
            "no text, no face and no speech",
        ),
    ],
)
def test_a_sample_that_breaks_its_promise_is_refused(changes, message):
    with pytest.raises(SchemaError, match=message):
        make_sample(**changes).check(PASSPORT)


def test_a_passport_survives_json_and_names_each_difference():
    assert passport_from_json(passport_to_json(PASSPORT)) == PASSPORT
    check_passport(PASSPORT, PASSPORT, "here")
    same_weights = dataclasses.replace(SPEECH, name="hub/toy-speech")
    check_passport({"face": FACE, "speech": same_weights}, PASSPORT, "here")
    other = {"face": FACE, "speech": dataclasses.replace(SPEECH, layer=9, pooling=1)}
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
    )
    assert ShardManifest.from_json(manifest.to_json(), "m.json") == manifest
    newer = manifest.to_json().replace('"format_version": 1', '"format_version": 2')
    with pytest.raises(SchemaError, match="m.json has format version 2, this code reads 1"):
        ShardManifest.from_json(newer, "m.json")
    for text in ("{", "[]", '{"num_samples": 1}', '{"extra": 1}'):
        with pytest.raises(SchemaError, match="m.json is no shard manifest"):
            ShardManifest.from_json(text, "m.json")
    for name, value in (("passport", None), ("samples", 3), ("num_bytes", "10240")):
        altered = dataclasses.replace(manifest, **{name: value}).to_json()
        with pytest.raises(SchemaError, match=f"m.json: {name} is {value!r}, expected a"):
            ShardManifest.from_json(altered, "m.json")
    with pytest.raises(SchemaError, match="bad feature passport"):
        passport_from_json(None)
