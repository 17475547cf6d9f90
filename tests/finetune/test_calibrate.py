"""A recognizer to hand on: half the size, the same decisions, as sure as it is right."""

import csv

import numpy as np
import pytest
import toys
from scipy.special import softmax

from data_pipeline.shards import write_shard
from finetune.calibrate import calibration_error, fit_temperature
from finetune.calibrate import main as calibrate
from finetune.evaluate import main as evaluate
from finetune.recognizer import load_recognizer, told_of
from finetune.run import main

from .conftest import PASSPORT, make_clips


def test_the_temperature_of_logits_that_were_scaled_is_found():
    rng = np.random.default_rng(0)
    logits_NC = rng.normal(size=(4000, 5)) * 1.5
    truth_N = np.array([rng.choice(5, p=p) for p in softmax(logits_NC, axis=1)])
    assert fit_temperature(3 * logits_NC, truth_N) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits_NC / 4, truth_N) == pytest.approx(1 / 4, rel=0.05)


def test_the_calibration_error_is_the_mean_gap():
    sure_NC = np.array([[0.9, 0.1]] * 10)
    assert calibration_error(sure_NC, np.array([0] * 9 + [1])) == pytest.approx(0)
    assert calibration_error(sure_NC, np.array([0] * 4 + [1] * 6)) == pytest.approx(0.5)
    halves_NC = np.array([[0.9, 0.1]] * 5 + [[0.4, 0.6]] * 5)
    assert calibration_error(halves_NC, np.ones(10, int)) == pytest.approx((0.9 + 0.4) / 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint):
    """(folder of a run, shards)."""
    top = tmp_path_factory.mktemp("run")
    (top / "shards").mkdir()
    clips = make_clips(num_speakers=3, per_speaker=12, signal=1.0)
    write_shard(top / "shards", 0, clips, [], PASSPORT, {}, "toy")
    arguments = [
        *(f"data.shards=[{top / 'shards'}]", f"model.checkpoint={checkpoint}", "folds=[0]"),
        *("settings=[pretrain_prompt]", f"output={top / 'out'}", *toys.FAST),
    ]
    assert main(arguments) == 0
    (folder,) = top.glob("out/runs/*/*")
    return folder, top / "shards"


@pytest.fixture(scope="module")
def handed_on(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("handed") / "recognizer"
    assert calibrate([str(run[0] / "recognizer"), "--output", str(output)]) == 0
    return output


def test_half_the_size_and_the_same_decisions_by_subset(run, handed_on, capsys):
    before, after = load_recognizer(run[0] / "recognizer"), load_recognizer(handed_on)
    weights = [(f / "model.safetensors").stat().st_size for f in (run[0] / "recognizer", handed_on)]
    assert weights[1] < 0.6 * weights[0]
    temperatures = told_of(handed_on)["temperatures"]
    assert len(temperatures) == 7
    samples = list(before.read(run[1]))
    for case in (("text",), ("face", "speech"), ("text", "face", "speech")):
        shown = [sample.only(case) for sample in samples]
        raw_NC = np.log(before.predict(shown)) / temperatures["+".join(case)]
        np.testing.assert_allclose(after.predict(shown), softmax(raw_NC, axis=1), atol=0.01)
    card = (handed_on / "README.md").read_text()
    assert "## Calibration" in card and "## Figures on its" in card


def test_what_is_calibrated_is_not_calibrated_again(handed_on, tmp_path, capsys):
    assert calibrate([str(handed_on), "--output", str(tmp_path / "again")]) == 2
    assert "is calibrated, or none of system memobert" in capsys.readouterr().err


def test_figures_by_corpus_and_subset_with_prior_pairs_and_clips(run, handed_on, tmp_path, capsys):
    folder, shards = run
    command = [str(handed_on), "--run", str(folder), "--clips", str(shards)]
    assert evaluate([*command, "--output", str(tmp_path)]) == 0
    with open(tmp_path / "evaluation.csv") as file:
        lines = {line["sees"]: line for line in csv.DictReader(file)}
    assert len(lines) == 8 and all(line["corpus"] == "toy" for line in lines.values())
    assert float(lines["nothing"]["ua"]) == 0.25
    whole = lines["text+face+speech"]
    assert float(whole["ua_low"]) <= float(whole["ua"]) <= float(whole["ua_high"])
    with open(folder / "predictions.csv") as file:
        said = list(csv.DictReader(file))
    right = np.mean([line["truth"] == line["prediction"] for line in said])
    assert float(whole["wa"]) == pytest.approx(right)
    with open(tmp_path / "paired.csv") as file:
        (pair,) = csv.DictReader(file)
    assert pair["a"] == "text+face+speech" and 0 <= float(pair["p_mcnemar"]) <= 1
    with open(tmp_path / "clips.csv") as file:
        clips = list(csv.DictReader(file))
    assert len(clips) == 36
    total = [sum(float(v) for k, v in clip.items() if k.startswith("p_")) for clip in clips]
    assert total == pytest.approx([1] * 36)
    told = capsys.readouterr().out
    assert "of 36 right" in told and told.strip() in (tmp_path / "evaluation.md").read_text()
    assert (tmp_path / "reliability.png").stat().st_size > 1000


def test_the_card_has_the_figures_once(run, handed_on, tmp_path):
    command = [str(handed_on), "--run", str(run[0]), "--output", str(tmp_path), "--card"]
    for _ in range(2):
        assert evaluate(command) == 0
    card = (handed_on / "README.md").read_text()
    assert card.count("## Figures by corpus and by what it sees") == 1
    assert "## Calibration" in card and "| toy | 12 | face+speech |" in card
    load_recognizer(handed_on)


def test_another_folder_than_the_runs_is_one_message(handed_on, tmp_path, capsys):
    command = [str(handed_on), "--run", str(tmp_path), "--output", str(tmp_path / "out")]
    assert evaluate(command) == 2
    assert "no finished run in" in capsys.readouterr().err
