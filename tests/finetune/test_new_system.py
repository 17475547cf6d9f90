"""A system from outside the package goes through the doors that MEmoBERT uses, beside it."""

import csv

import pytest
import toys

from finetune.recognizer import load_recognizer
from finetune.run import main
from finetune.runs.results import read_rows

from .conftest import make_clips


def test_a_system_from_outside_is_judged_saved_and_loaded(tmp_path, write_shards, checkpoint):
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    arguments = [
        *(f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", "folds=[0]", *toys.FAST),
        "own_settings.mine={system: own.nearest_mean, options: {scale: 0.5}}",
        *("settings=[mine, pretrain_finetune]", f"output={tmp_path / 'out'}"),
    ]
    assert main(arguments) == 0
    rows = {row.setting: row for row in read_rows(tmp_path / "out")}
    assert (rows["mine"].system, rows["mine"].head) == ("own.nearest_mean", "nearest_mean")
    assert rows["mine"].checkpoint_sha256 == ""
    assert rows["pretrain_finetune"].system == "memobert"
    assert rows["mine"].num_test == rows["pretrain_finetune"].num_test == 8
    assert rows["mine"].ua == 1  # the signal is strong, and the classes' means are apart
    (folder,) = tmp_path.glob("out/runs/mine/*")
    recognizer = load_recognizer(folder / "recognizer")
    assert recognizer.classes == ("anger", "happy", "neutral", "sad")
    samples = {sample.id: sample for sample in recognizer.read(shards)}
    with open(folder / "predictions.csv") as file:
        for line in csv.DictReader(file):
            (found_C,) = recognizer.predict([samples[line["clip"]]])
            expected = [float(line[f"p_{name}"]) for name in recognizer.classes]
            assert found_C.tolist() == pytest.approx(expected, abs=1e-6)


def test_it_needs_no_checkpoint(tmp_path, write_shards):
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    arguments = [
        *(f"data.shards=[{shards}]", "model.checkpoint=null", "settings=[mine]", *toys.FAST),
        "own_settings.mine={system: own.nearest_mean, options: {scale: 0.5}}",
        f"output={tmp_path / 'out'}",
    ]
    assert main(arguments) == 0
    assert {row.setting for row in read_rows(tmp_path / "out")} == {"mine"}


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ("unimse2", "setting mine: no system 'unimse2'; expected a file in finetune/systems"),
        ("own.nowhere", "setting mine: no system 'own.nowhere'"),
        ("json.decoder", "setting mine: system 'json.decoder': json.decoder has no build, load"),
    ],
)
def test_a_system_that_cannot_be_is_told(tmp_path, write_shards, capsys, system, message):
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    arguments = [f"data.shards=[{shards}]", "model.checkpoint=null", "settings=[mine]"]
    change = f"own_settings.mine={{system: {system}}}"
    assert main([*arguments, *toys.FAST, f"output={tmp_path / 'out'}", change]) == 2
    assert message in capsys.readouterr().err
