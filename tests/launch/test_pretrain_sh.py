"""launch/pretrain.sh: which launcher it takes, and how many ranks that one starts."""

import os
import subprocess

import pytest


@pytest.fixture
def start(root, tmp_path):
    """What the launcher is told, with launchers that only say it."""
    for name in ("deepspeed", "torchrun"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*"\n')
        (tmp_path / name).chmod(0o755)
    script = root / "launch/pretrain.sh"
    hides = ("CUDA_VISIBLE_DEVICES", "DEEPSPEED_ARGS", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    kept = {name: value for name, value in os.environ.items() if name not in hides}

    def start(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", script, "optim.steps=2"],
            env=kept | {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | variables,
            capture_output=True,
            text=True,
        )

    return start, f"{script} optim.steps=2\n"


def test_gpus_by_number_are_deepspeeds(start):
    run, words = start
    assert run(CUDA_VISIBLE_DEVICES="0,3").stdout == f"deepspeed {words}"
    assert run(DEEPSPEED_ARGS="--num_gpus 2").stdout == f"deepspeed --num_gpus 2 {words}"


@pytest.mark.parametrize(
    ("visible", "ranks"),
    [
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", 2),
        ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", 1),
    ],
)
def test_gpus_by_name_are_torchruns_since_deepspeed_takes_numbers(start, visible, ranks):
    run, words = start
    told = run(CUDA_VISIBLE_DEVICES=visible)
    assert told.stdout == f"torchrun --standalone --nproc_per_node {ranks} {words}", told.stderr
    refused = run(CUDA_VISIBLE_DEVICES=visible, DEEPSPEED_ARGS="--num_gpus 2")
    assert refused.returncode == 2 and "unset DEEPSPEED_ARGS" in refused.stderr
