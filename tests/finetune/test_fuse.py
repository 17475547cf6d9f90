"""Runs decided together, by the command."""

import csv

import pytest
import toys

from finetune import fuse
from finetune.run import main as finetune

from .conftest import make_clips


def run_of(folder, shards, checkpoint, *, modality, fold=0, labels=()):
    """The folder of a finished run that sees one modality alone."""
    words = [
        *(f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", f"folds=[{fold}]"),
        *(*toys.FAST, "settings=[direct]", f"data.modalities=[{modality}]", *labels),
        f"output={folder}",
    ]
    assert finetune(words) == 0
    (run,) = folder.glob("runs/direct/*")
    return run


@pytest.fixture
def runs(tmp_path, write_shards, checkpoint):
    """By modality; and one of another fold."""
    clips = make_clips(num_speakers=6, per_speaker=8, signal=1.0)
    shards, top = write_shards(clips), tmp_path / "runs"
    found = {m: run_of(top / m, shards, checkpoint, modality=m) for m in ("face", "speech")}
    found["other"] = run_of(top / "other", shards, checkpoint, modality="face", fold=1)
    return found


def test_two_runs_are_decided_together(runs, tmp_path, capsys):
    words = [str(runs["face"]), str(runs["speech"]), "--output", str(tmp_path / "out")]
    assert fuse.main(words) == 0
    with open(tmp_path / "out/fusion.csv") as file:
        lines = list(csv.DictReader(file))
    names = ["direct (face)", "direct (speech)"]
    fused = ["better alone", "product", "weighted sum", "Monte Carlo"]
    assert [line["who"] for line in lines] == [*names, *fused]
    alone = dict(zip(names, lines, strict=False))
    for name, line in alone.items():  # as the run itself was judged
        with open(runs["face" if name == names[0] else "speech"] / "predictions.csv") as file:
            rows = list(csv.DictReader(file))
        right = sum(row["truth"] == row["prediction"] for row in rows) / len(rows)
        assert float(line["wa"]) == pytest.approx(right)
    assert float(lines[2]["ua_gain"]) == 0
    with open(tmp_path / "out/predictions.csv") as file:
        said = list(csv.DictReader(file))
    agreed = [row for row in said if row[names[0]] == row[names[1]] == row["truth"]]
    assert agreed and all(row["product"] == row["truth"] for row in agreed)
    assert "| Monte Carlo |" in (tmp_path / "out/fusion.md").read_text()
    assert "Monte Carlo" in capsys.readouterr().out


def test_runs_that_cannot_be_fused_are_told(runs, tmp_path, capsys):
    face, output = str(runs["face"]), ["--output", str(tmp_path / "out")]
    assert fuse.main([face, str(runs["other"]), *output]) == 2
    assert "has other dev clips than" in capsys.readouterr().err
    assert fuse.main([face, str(tmp_path), *output]) == 2
    assert "recognizer" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        fuse.main([face, *output])
    assert "two runs or more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
