"""The commands as a user types them."""

import contextlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toys

from finetune.runs.results import read_rows

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


def stopped(root: Path, command: list[str], told: Path) -> int:
    """Start a finetuning, send TERM in its second run; the exit code. What it said is in `told`."""
    with open(told, "w") as file:
        process = subprocess.Popen(
            command,
            cwd=root,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        )
    deadline = time.monotonic() + 300
    while "run 2/2" not in told.read_text() and time.monotonic() < deadline:
        assert process.poll() is None, told.read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=60)


@pytest.mark.slow
def test_asked_to_stop_it_keeps_its_rows_and_does_what_is_missing(root, tmp_path, settings):
    command = [sys.executable, str(root / "finetune/run.py"), *settings, f"output={tmp_path / 'r'}"]
    told = tmp_path / "told"
    assert stopped(root, command, told) == 75, told.read_text()
    said = told.read_text()
    assert said.count("finetune: stopped by SIGTERM; the same command does what is missing") == 1
    assert "Traceback" not in said and len(read_rows(tmp_path / "r")) == 1
    done = call(root, command)
    assert done.returncode == 0 and "1 have results already" in done.stdout


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("launcher", "says"),
    [
        (("accelerate", "launch", "--quiet"), "the launcher has gone, so its ranks end"),
        (("torchrun", "--standalone", "--nproc_per_node", "2"), "stopped by SIGTERM"),
    ],
)
def test_the_end_of_its_launcher_ends_every_process(root, tmp_path, settings, launcher, says):
    tool, *options = launcher
    command = [str(Path(sys.executable).parent / tool), *options, str(root / "finetune/run.py")]
    command += [*settings, "plans.pretrain_prompt.num_steps=100000", f"output={tmp_path / 'r'}"]
    told = tmp_path / "told"
    assert stopped(root, command, told) != 0
    deadline = time.monotonic() + 60
    while running(f"output={tmp_path / 'r'}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(f"output={tmp_path / 'r'}")
    assert told.read_text().count(f"{says}; the same command ") == 1
    assert len(read_rows(tmp_path / "r")) == 1


def running(word: str) -> list[int]:
    """Processes that have `word` in their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if word in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
