"""The commands that users type, with real launchers and two ranks on this machine."""

import csv
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.masking import TASKS

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
LOSSES = ("loss", *TASKS)


@pytest.fixture(scope="module")
def shards(root, tmp_path_factory) -> Path:
    toy = runpy.run_path(str(root / "tests/pretrain/toy_shards.py"))
    clips = [toy["toy_clip"](number) for number in range(40)]
    return toy["write_toy_shards"](tmp_path_factory.mktemp("toy") / "shards", clips, 4)


@pytest.fixture(scope="module")
def overrides(shards):
    """(output, more) -> settings of a run of 12 steps without dropout on a tiny model."""

    def overrides(output: Path, *more: str) -> list[str]:
        return [
            "model.text_init=none",
            "model.width=24",
            "model.num_layers=2",
            "model.num_heads=2",
            "model.ffn_width=48",
            "model.dropout=0",
            f"data.shards=[{shards}]",
            "optim.steps=12",
            "optim.warmup_steps=2",
            "optim.clip_norm=0.5",  # below the gradients' norms, so that every step is clipped
            f"run.output={output}",
            "run.device=cpu",
            "run.log_every=1",
            "run.checkpoint_every=4",
            *more,
        ]

    return overrides


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """As after `source .venv/bin/activate`, one thread a rank."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def master_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def launch(root, environment):
    """Run a command from the project's root; it must not take longer than ten minutes."""

    def launch(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=root, env=environment | more, capture_output=True, text=True, timeout=600
        )

    return launch


@pytest.fixture
def start(root, environment, overrides):
    """Start a run of two ranks by bash; it comes back once there is a checkpoint."""

    def start(output: Path, port: str, *more: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            ["bash", *TINY, *overrides(output, *more)],
            cwd=root,
            env=environment | {"DEEPSPEED_ARGS": f"--num_gpus 2 --master_port {port}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        latest, deadline = output / "checkpoints/latest", time.monotonic() + 600
        while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return process

    return start


TINY = ("launch/pretrain.sh", "--config", "configs/pretrain/tiny.yaml")


def losses(output: Path) -> list[list[float]]:
    """Rows of metrics.csv; an objective that a step did not ask is nan."""
    with open(output / "metrics.csv", newline="") as file:
        return [[float(row[name] or "nan") for name in LOSSES] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def plain(overrides, launch, tmp_path_factory) -> list[list[float]]:
    """Losses of the plain-torch twin on one rank."""
    output = tmp_path_factory.mktemp("plain")
    command = overrides(output, "engine.kind=torch")
    done = launch(sys.executable, "-m", "pretrain.cli", *TINY[1:], *command)
    assert done.returncode == 0, done.stderr
    return losses(output)


def close(rows: list[list[float]]) -> list:
    return [pytest.approx(row, rel=1e-5, nan_ok=True) for row in rows]


def test_deepspeed_on_one_and_two_ranks_has_the_losses_of_the_plain_twin(
    overrides, launch, plain, tmp_path, master_port
):
    one = launch("deepspeed", *TINY, *overrides(tmp_path / "one"))
    assert one.returncode == 0, one.stdout + one.stderr
    assert losses(tmp_path / "one") == close(plain)
    assert "1 rank on CPU" in one.stdout

    ranks = ("--num_gpus", "2", "--master_port", master_port)
    cut = overrides(tmp_path / "two", "data.micro_batch_clips=3", "engine.zero_stage=1")
    two = launch("deepspeed", *ranks, *TINY, *cut)
    assert two.returncode == 0, two.stdout + two.stderr
    straight = losses(tmp_path / "two")
    assert straight == close(plain)
    assert "2 ranks on CPU" in two.stdout and "x 3 micro-batch(es) of 3" in two.stdout

    (tmp_path / "two/checkpoints/latest").write_text("step-000008")
    again = launch("deepspeed", *ranks, *TINY, *cut)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "going on after step 8" in again.stdout
    assert losses(tmp_path / "two") == [pytest.approx(r, rel=0, nan_ok=True) for r in straight]


def test_the_plain_twin_on_two_ranks_has_the_losses_of_one(
    overrides, launch, plain, tmp_path, master_port
):
    command = overrides(tmp_path, "engine.kind=torch", "data.micro_batch_clips=3")
    ranks = ("--num_gpus", "2", "--master_port", master_port)
    two = launch("deepspeed", *ranks, *TINY, *command)
    assert two.returncode == 0, two.stdout + two.stderr
    assert "2 ranks on CPU" in two.stdout and "torch engine" in two.stdout
    assert losses(tmp_path) == close(plain)

    past = launch("deepspeed", *ranks, *TINY, *command, "optim.steps=4")
    assert past.returncode == 2
    assert (past.stdout + past.stderr).count("past optim.steps=4") == 1  # not once a rank
    assert "Traceback" not in past.stdout + past.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_bash_ends_every_rank(overrides, start, tmp_path, master_port, number, code):
    process = start(tmp_path / "run", master_port, "optim.steps=100000")
    ranks = _ranks_of(process.pid)
    assert len(ranks) == 2, ranks
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]


def test_two_ranks_find_another_run_in_their_folder(
    overrides, start, launch, tmp_path, master_port
):
    """As after a launcher that was killed and left its ranks training."""
    output = tmp_path / "run"
    process = start(output, master_port, "optim.steps=100000")
    command = ("deepspeed", "--num_gpus", "2", "--master_port", str(int(master_port) + 1), *TINY)
    second = launch(*command, *overrides(output))
    process.terminate()
    process.wait(timeout=60)
    assert second.returncode == 2
    told = second.stdout + second.stderr
    assert told.count("another run (pid ") == 1 and f"is writing to {output};" in told
    assert "Traceback" not in told


def test_bash_with_two_ranks_killed_and_rerun(
    overrides, start, launch, plain, tmp_path, master_port
):
    """A rank that dies ends the others, with an exit code; the same command goes on, and so does
    the plain twin on one rank."""
    launcher = {"DEEPSPEED_ARGS": f"--num_gpus 2 --master_port {master_port}"}
    output = tmp_path / "bash"
    command = ["bash", *TINY, *overrides(output, "data.micro_batch_clips=3")]
    process = start(output, master_port, "data.micro_batch_clips=3")
    latest = output / "checkpoints/latest"
    ranks = _ranks_of(process.pid)
    assert len(ranks) == 2, ranks
    os.kill(ranks[-1], signal.SIGKILL)
    assert process.wait(timeout=600) != 0
    assert not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]
    assert latest.read_text().strip() in ("step-000004", "step-000008")

    again = launch(*command, **launcher)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "going on after step" in again.stdout
    assert losses(output) == close(plain)

    latest.write_text("step-000008")
    alone = launch(sys.executable, *TINY, *overrides(output, "engine.kind=torch"))
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert "was saved by 2 ranks, now there are 1" in alone.stdout
    assert losses(output) == close(plain)


def test_a_user_error_is_one_message_and_a_failing_exit_code(overrides, launch, tmp_path):
    done = launch(sys.executable, *TINY, *overrides(tmp_path), "optim.stepz=3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: optim.stepz=3: there is no setting 'optim.stepz'")
    assert "Traceback" not in done.stderr


def test_bash_finds_no_fault_in_the_script(launch):
    assert launch("bash", "-n", "launch/pretrain.sh").returncode == 0


def _ranks_of(launcher: int) -> list[int]:
    """Processes below `launcher` that train: they were given --local_rank."""
    below, found = [launcher], []
    while below:
        pid = below.pop()
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except FileNotFoundError:
            continue
        below += map(int, children)
        if any(argument.startswith("--local_rank=") for argument in arguments):
            found.append(pid)
    return sorted(found)
