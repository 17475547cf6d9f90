"""The page of any run's folder, and the row of chance in the table of results."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import toy_extractor
import toys

from finetune import page
from finetune.page import find_runs
from finetune.report import finetune_report
from finetune.run import main as finetune
from pretrain.objectives import OBJECTIVES

from .conftest import make_clips


@pytest.fixture
def extraction(tmp_path: Path) -> Path:
    clips = toy_extractor.make_clips(["one two", "reject", "three"])
    toy_extractor.run_toy(tmp_path / "runs/shards", clips, num_workers=1)
    return tmp_path / "runs/shards"


@pytest.fixture
def pretraining(tmp_path: Path) -> Path:
    """No clip was held out."""
    folder = tmp_path / "runs/pretrain"
    folder.mkdir(parents=True)
    rows = [{"step": n, "split": "train", "wwmlm": 3.0 - n} for n in (1, 2)]
    table = pd.DataFrame(rows, columns=["step", "split", *OBJECTIVES])
    table.to_csv(folder / "metrics.csv", index=False)
    return folder


@pytest.fixture
def finetuning(tmp_path: Path, write_shards: Callable[..., Path], checkpoint: Path) -> Path:
    """Three quarters of each speaker's clips are angry, the others happy; nobody is sad."""
    labels = ("anger", "happy", "anger", "anger")
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0, labels=labels))
    output = tmp_path / "runs/finetune"
    settings = "settings=[direct, pretrain_prompt]"
    words = [f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", f"output={output}"]
    assert finetune([*words, settings, *toys.FAST]) == 0
    return output


def test_each_kind_of_run_has_its_page_and_a_folder_of_runs_has_one(
    extraction: Path,
    pretraining: Path,
    finetuning: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = {
        extraction: ["toy-001", "What the samples hold"],
        pretraining: ["2 steps", "No losses of held-out clips", "A curve over the steps"],
        finetuning: ["Pretrain+Prompt", "Chance", "75.0%", "toy-s0-000"],
    }
    for folder, texts in shown.items():
        assert page.main([str(folder)]) == 0
        written = (folder / "report.html").read_text(encoding="utf-8")
        assert all(text in written for text in texts), folder
    assert page.main([str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "runs/report.html")
    written = (tmp_path / "runs/report.html").read_text(encoding="utf-8")
    places = [written.index(texts[0]) for texts in shown.values()]
    assert places == sorted(places), "stage by stage"
    assert find_runs(tmp_path / "runs") == [
        ("extraction", extraction),
        ("pretraining", pretraining),
        ("finetuning", finetuning),
    ]
    both = [str(pretraining), str(extraction), "--output", str(tmp_path / "new/both.html")]
    assert page.main(both) == 0
    written = (tmp_path / "new/both.html").read_text(encoding="utf-8")
    assert "toy-001" in written and "2 steps" in written and "Pretrain+Prompt" not in written


def test_a_folder_without_a_run_is_named_with_what_was_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert page.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} holds no run" in said and "metrics.csv of launch/pretrain.sh" in said
    assert page.main([str(tmp_path / "gone")]) == 2
    assert "gone; give the output folder of a run" in capsys.readouterr().err


def test_the_table_ends_with_chance_over_the_classes_that_are_there(finetuning: Path) -> None:
    report = finetune_report(finetuning)
    assert report.chance[:3] == ("Chance", "75.0%", "50.0%")
    assert [row[0] for row in report.table] == ["Direct", "Pretrain+Prompt", "Chance"]
    assert "| Chance | 75.0% | 50.0% | - |" in (finetuning / "table.md").read_text()
    table = pd.read_csv(finetuning / "table.csv")
    assert table.chance_wa.tolist() == [0.75] * 2 and table.chance_ua.tolist() == [0.5] * 2


def test_settings_with_other_chances_are_told_theirs_in_a_note(finetuning: Path) -> None:
    (path,) = finetuning.glob("runs/direct/fold0-*/predictions.csv")
    said = pd.read_csv(path)
    said.truth = "anger"
    said.to_csv(path, index=False)
    report = finetune_report(finetuning)
    assert report.chance == () and report.table == report.rows
    chance = "chance is WA 83.3% (always anger) and UA 66.7%"
    assert f"Direct: {chance}" in report.notes
