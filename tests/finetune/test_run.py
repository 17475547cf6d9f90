"""The commands as a user types them."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toys

from finetune.results import read_rows

from .conftest import make_clips


@pytest.fixture
def settings(tmp_path, write_shards, checkpoint) -> list[str]:
    """Seven clips a split and a batch, which two processes cannot share evenly."""
    shards = write_shards(make_clips(num_speakers=3, per_speaker=7, signal=2.0))
    return [
        f"data.shards=[{shards}]",
        f"model.checkpoint={checkpoint}",
        "settings=[pretrain_finetune, pretrain_prompt]",
        "folds=[0]",
        *toys.FAST,
    ]


def call(root: Path, words: list[str], **environment: str) -> subprocess.CompletedProcess:
    tools = Path(sys.executable).parent
    return subprocess.run(
        words,
        cwd=root,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_no_module_of_the_scripts_folder_hides_a_package(root):
    """`accelerate launch finetune/run.py` puts finetune/ on the path of every import."""
    own = {path.stem for path in (root / "finetune").iterdir() if path.suffix in ("", ".py")}
    assert own & set(importlib.metadata.packages_distributions()) == set()


@pytest.mark.slow
def test_accelerate_launch_literally(root, tmp_path, settings):
    command = "accelerate launch finetune/run.py --config configs/finetune/prompt.yaml"
    done = call(root, [*command.split(), *settings, f"output={tmp_path}", "num_resamples=0"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| Pretrain+Prompt |" in done.stdout
    assert [row.num_processes for row in read_rows(tmp_path)] == [1, 1]
    command = "bash launch/finetune.sh --config configs/finetune/prompt.yaml"
    script = call(root, [*command.split(), *settings, f"output={tmp_path}", "folds=[7]"])
    assert script.returncode == 1  # the launcher makes 1 of our 2
    assert "folds [7]: protocol toy-speaker3 has folds 0 to 2" in script.stderr


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_give_the_numbers_of_one(root, tmp_path, settings):
    still = "dropout: 0, projection_dropout: 0, attention_dropout: 0"
    settings += [
        "settings=[pretrain_finetune, pretrain_prompt, foal_net, m3er]",
        f"own_settings.foal_net={{head: foal_net, options: {{num_heads: 2, {still}}}}}",
        "own_settings.m3er={head: m3er, options: {dimensions: 3, dropout: 0}, "
        "plan: {freeze_model: true}}",
        *(f"own_settings.{name}.plan.num_steps=4" for name in ("foal_net", "m3er")),
    ]
    predictions = {}
    for processes in (1, 2):
        output = tmp_path / str(processes)
        command = f"torchrun --standalone --nproc_per_node {processes} finetune/run.py"
        done = call(
            root,
            [*command.split(), *settings, f"output={output}"],
            ACCELERATE_USE_CPU="true",
            OMP_NUM_THREADS="1",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = read_rows(output)
        assert [row.num_processes for row in found] == [processes] * 4
        assert [row.num_test for row in found] == [7] * 4
        assert all(row.oracle_gain_ua >= 0 for row in found)
        predictions[processes] = [
            (path.parent.name, path.read_text())
            for path in sorted(output.glob("runs/*/*/predictions.csv"))
        ]
    one, two = predictions[1], predictions[2]
    assert len(one) == 4
    for (name, mine), (other, theirs) in zip(one, two, strict=True):
        assert name == other
        for a, b in zip(mine.splitlines()[1:], theirs.splitlines()[1:], strict=True):
            a, b = a.split(","), b.split(",")
            assert a[:2] == b[:2]
            assert [float(p) for p in a[3:]] == pytest.approx([float(p) for p in b[3:]], abs=2e-3)
