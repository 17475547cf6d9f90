"""What finetuning saved says the same again: in another process, from another folder."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import toys
from safetensors import SafetensorError

from data_pipeline.schema import SchemaError
from data_pipeline.shards import load_passport
from finetune.recognizer import RecognizerError, load_recognizer, write_recognizer
from finetune.run import main

from .conftest import PASSPORT

ELSEWHERE = """
import json, sys
from finetune.recognizer import load_recognizer
recognizer = load_recognizer(sys.argv[1])
samples = list(recognizer.read(sys.argv[2]))
found = recognizer.predict(samples).tolist()
of = dict(zip([sample.id for sample in samples], found, strict=True))
json.dump({"classes": recognizer.classes, "of": of}, sys.stdout)
"""


@pytest.mark.parametrize("setting", ["pretrain_finetune", "pretrain_prompt"])
def test_a_moved_recognizer_says_in_another_process_what_the_run_said(tmp_path, trained, setting):
    folders, shards = trained
    moved = shutil.copytree(folders[setting] / "recognizer", tmp_path / "elsewhere" / "mine")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(moved), str(shards)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    with open(folders[setting] / "predictions.csv") as file:
        said = list(csv.DictReader(file))
    assert len(said) == 8 and len(told["of"]) == 24
    for line in said:
        expected = [float(line[f"p_{name}"]) for name in told["classes"]]
        assert told["of"][line["clip"]] == pytest.approx(expected, abs=1e-6)
        assert told["classes"][int(np.argmax(told["of"][line["clip"]]))] == line["prediction"]


def test_few_or_no_clips_and_clips_without_a_stream_are_judged(trained):
    folders, shards = trained
    recognizer = load_recognizer(folders["pretrain_prompt"] / "recognizer")
    samples = list(recognizer.read(shards))
    whole_NC = recognizer.predict(samples, passport=load_passport(shards))
    assert whole_NC.shape == (24, 4) and np.allclose(whole_NC.sum(1), 1)
    np.testing.assert_allclose(recognizer.predict(samples[3:5]), whole_NC[3:5], atol=1e-6)
    assert recognizer.predict([]).shape == (0, 4)
    bare = [sample.only(("text",)) for sample in samples[:2]]
    assert not np.allclose(recognizer.predict(bare), whole_NC[:2], atol=1e-3)


def test_clips_of_another_passport_are_refused(trained):
    folders, shards = trained
    recognizer = load_recognizer(folders["pretrain_finetune"] / "recognizer")
    samples = list(recognizer.read(shards))
    other = PASSPORT | {"speech": dataclasses.replace(PASSPORT["speech"], weights_sha256="6" * 64)}
    with pytest.raises(SchemaError, match="speech.weights_sha256: found '666"):
        recognizer.predict(samples, passport=other)
    speech = samples[0].streams["speech"]
    wider = dataclasses.replace(speech, values_ND=np.repeat(speech.values_ND, 2, axis=1))
    strange = dataclasses.replace(samples[0], streams={"speech": wider})
    with pytest.raises(SchemaError, match="another feature passport than the recognizer's"):
        recognizer.predict([strange])


def test_a_damaged_or_foreign_folder_is_one_clear_error(tmp_path, trained, checkpoint):
    folders, _ = trained

    def copy(name):
        return shutil.copytree(folders["pretrain_prompt"] / "recognizer", tmp_path / name)

    cut = copy("cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    flipped = copy("flipped") / "model.safetensors"
    content = bytearray(flipped.read_bytes())
    content[-5] ^= 1
    flipped.write_bytes(content)
    gone = copy("gone") / "tokenizer.json"
    gone.unlink()
    turned = copy("turned") / "recognizer.json"
    turned.write_text(turned.read_text().replace("anger", "happy", 1))
    for name, message in {
        "cut": "model.safetensors was cut or altered",
        "flipped": "model.safetensors was cut or altered",
        "gone": "tokenizer.json is gone",
        "turned": "recognizer.json was cut or altered",
        "nowhere": "expected the folder `recognizer` that finetuning leaves",
    }.items():
        with pytest.raises(RecognizerError, match=message):
            load_recognizer(tmp_path / name)
    with pytest.raises(RecognizerError, match="no recognizer.json in"):
        load_recognizer(checkpoint)


def test_recognizers_can_be_left_out(tmp_path, trained, checkpoint):
    _, shards = trained
    arguments = [
        *(f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", "folds=[0]"),
        *(*toys.FAST, "settings=[pretrain_finetune]", "save_recognizers=false"),
        f"output={tmp_path}",
    ]
    assert main(arguments) == 0
    (folder,) = tmp_path.glob("runs/*/*")
    assert (folder / "row.json").is_file() and not (folder / "recognizer").exists()


def test_a_full_disk_leaves_no_half_recognizer(tmp_path):
    def write(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    with pytest.raises(RecognizerError, match="No space left; make room, or use save_recognizers"):
        write_recognizer(tmp_path / "recognizer", {}, write)
    assert not list(tmp_path.iterdir())
