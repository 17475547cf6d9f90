"""TERM and USR1: extraction leaves with 75 and says what the next start does.

Pretraining, which saves first, is in test_pretrain_launch.py and test_slurm.py, finetuning in
tests/finetune/test_run.py.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
GO_ON_EXIT = 75


@pytest.fixture
def stopped(root, tmp_path):
    """Start a command, send it a signal once a file is there; exit code and all it said."""

    def stopped(command: list[str], path: Path, number: signal.Signals) -> tuple[int, str]:
        told = tmp_path / "told"
        with open(told, "w") as file:
            process = subprocess.Popen(
                command,
                cwd=root,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 300
        while not path.exists() and time.monotonic() < deadline:
            assert process.poll() is None, told.read_text()
            time.sleep(0.05)
        process.send_signal(number)
        return process.wait(timeout=60), told.read_text()

    return stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_extraction_keeps_its_shards_and_goes_on(root, stopped, tmp_path, number):
    sounds = sorted((root / "data_pipeline/assets/samples").glob("*.mp3"))[:4]
    (tmp_path / "clips.csv").write_text("\n".join(["video", *map(str, sounds)]))
    command = [sys.executable, "-m", "data_pipeline.extract", f"clips={tmp_path / 'clips.csv'}"]
    command += ["require=[speech]", "clips_per_shard=1", "workers=1"]
    command += [f"output={tmp_path / 'shards'}"]
    code, said = stopped(command, tmp_path / "shards/000000.json", number)
    assert code == GO_ON_EXIT and "Traceback" not in said, said
    assert said.count(f"extract: stopped by {number.name}; the same command goes on from here") == 1
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert "clips are done already" in done.stderr
    assert "input clips 4 = samples 4 + rejects 0" in done.stdout
