"""`pretrain.check.kills`: runs that it kills are equal to the bit, and it sees where not."""

import csv
import re
import shutil
from pathlib import Path

import pytest
import toys

from pretrain.check.differences import differences
from pretrain.check.kills import last_step, main


@pytest.mark.slow
@pytest.mark.distributed
def test_two_kills_change_nothing(root, tmp_path, capsys):
    """Then what a file or a loss has otherwise is told by its name."""
    shards = toys.write_shards(tmp_path / "shards", [toys.numbered(n) for n in range(40)], 4)
    settings = [
        "model.text_init=none",
        "model.width=24",
        "model.num_layers=2",
        "model.num_heads=2",
        "model.ffn_width=48",
        f"data.shards=[{shards}]",
        "run.device=cpu",
        "run.checkpoint_every=3",
        "run.validate_every=5",
        "optim.steps=12",
        "engine.kind=torch",
    ]
    kills = tmp_path / "kills"
    options = ["--times", "2", "--steps", "4", "--output", str(kills)]
    config = ["--config", str(root / "configs/pretrain/tiny.yaml")]
    assert main([*config, *options, *settings]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^2 kills \(.*; (\d) of \1 runs equal to the bit$", told, re.MULTILINE)
    assert told.splitlines()[2].startswith("   2 | ")

    reference = kills / "reference"
    other = shutil.copytree(reference, tmp_path / "other")
    assert differences(reference, other) == []
    rows = _rows(other)
    rows[3]["loss"] = "4.5"
    rows[4]["clips_per_second"] = "1"
    _write(other, rows)
    state = other / "checkpoints/step-000012/state"
    (state / "rng-00001.pt").unlink()
    (state / "progress.json").write_text('{"step": 12, "meter": {}}')
    expected = ["metrics.csv", "state/progress.json", "state/rng-00001.pt"]
    assert differences(reference, other) == expected
    (other / "checkpoints/latest").write_text("step-000009")
    assert "model.safetensors" in differences(reference, other)


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def _write(folder: Path, rows: list[dict[str, str]]) -> None:
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_row_that_is_half_written_is_no_step(tmp_path):
    metrics = tmp_path / "metrics.csv"
    assert last_step(metrics) == 0
    metrics.write_text("step,loss\n")
    assert last_step(metrics) == 0
    metrics.write_text("step,loss\n1,2.5\n12")
    assert last_step(metrics) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--times", "0"], "expected 1 or more"),
        (["run.output=runs/x"], "give --output"),
        (["--output", "."], "expected a new folder"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_starts(words, told, capsys, tmp_path):
    output = ["--output", str(tmp_path / "new")]
    assert main(["--config", "configs/pretrain/tiny.yaml", *output, *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_fails_is_told_with_its_log(capsys, tmp_path):
    output = tmp_path / "new"
    config = ["--config", str(tmp_path / "none.yaml"), "--output", str(output)]
    assert main([*config, "--ranks", "1"]) == 2
    assert f"a run ended with 1; {output}/reference.log says why" in capsys.readouterr().err
    assert "no config file" in (output / "reference.log").read_text()
