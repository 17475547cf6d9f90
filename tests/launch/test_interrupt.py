"""Ctrl-C in the terminal of a run of two ranks: how to go on is told, and no rank stays."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toys

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    clips = [toys.numbered(number) for number in range(40)]
    return toys.write_shards(tmp_path_factory.mktemp("toy") / "shards", clips, 4)


@pytest.mark.parametrize("launcher", ["deepspeed", "bash"])
def test_ctrl_c_says_once_how_to_go_on(root, shards, tmp_path, launcher):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        options = ["--num_gpus", "2", "--master_port", str(free.getsockname()[1])]
    script = ["launch/pretrain.sh", "--config", "configs/pretrain/tiny.yaml"]
    settings = [
        *("model.text_init=none", "model.width=24", "model.num_layers=1", "model.num_heads=2"),
        *("model.ffn_width=48", f"data.shards=[{shards}]", f"run.output={tmp_path / 'run'}"),
        *("run.device=cpu", "optim.steps=100000", "run.checkpoint_every=5"),
    ]
    command = [launcher, *(options if launcher == "deepspeed" else []), *script, *settings]
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with open(tmp_path / "told", "w") as told:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=os.environ
            | {"PATH": tools, "OMP_NUM_THREADS": "1", "DEEPSPEED_ARGS": " ".join(options)},
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Where the tests run under nohup, INT would be ignored from the start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    deadline = time.monotonic() + 500
    while not (tmp_path / "run/checkpoints/latest").exists() and time.monotonic() < deadline:
        assert process.poll() is None, (tmp_path / "told").read_text()[-2000:]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all in the foreground
    assert process.wait(timeout=60) != 0
    said = (tmp_path / "told").read_text()
    assert said.count("the same command goes on from the last checkpoint") == 1, said[-2000:]
    # `deepspeed` itself ends on Ctrl-C with a traceback of its own, and of its own alone.
    assert said.count("Traceback") == (launcher == "deepspeed"), said[-4000:]
    deadline = time.monotonic() + 40  # `deepspeed` does not wait for the launcher below it
    while (ours := _processes(str(tmp_path / "run"))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not ours


def _processes(word: str) -> list[str]:
    """Those with `word` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if word in path.read_bytes().decode(errors="replace"):
                found.append(path.parent.name)
    return found
