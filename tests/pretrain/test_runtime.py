import dataclasses
import os
import socket
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from pretrain import runtime
from pretrain.runtime import (
    LaunchError,
    RankLost,
    RuntimeSettings,
    _check_own_gpu,
    _device,
    git_commit,
    seed_rank,
    start,
)

CPU = RuntimeSettings(device="cpu", timeout_minutes=0.05)
TWO = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}


def launch(monkeypatch, environment: dict[str, str]) -> None:
    """What a launcher tells its processes by."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_without_a_launcher_this_is_one_process():
    runtime = start(CPU)
    assert (runtime.rank, runtime.world_size, runtime.is_main) == (0, 1, True)
    assert runtime.dtype == torch.float32
    assert runtime.sum_over_ranks(torch.ones(2)).tolist() == [1, 1]


def test_the_seed_fixes_what_is_drawn_and_ranks_differ():
    draws = []
    for rank in (0, 0, 1):
        seed_rank(5, rank)
        draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_port_in_use_is_named_with_the_way_out(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        launch(monkeypatch, TWO | {"MASTER_PORT": str(port)})
        with pytest.raises(LaunchError, match=f"port {port}.*in use.*--master_port {port + 1}"):
            start(CPU)


def test_a_rank_whose_peers_never_come_gives_up(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch(monkeypatch, TWO | {"MASTER_PORT": port})
    with pytest.raises(LaunchError, match=f"could not meet the other 1 ranks at 127.0.0.1:{port}"):
        start(CPU)


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        ("Timed out waiting 12000ms for recv operation", LaunchError, r"timeout_minutes=0\.05 for"),
        ("Connection closed by peer [127.0.0.1]:5", RankLost, "rank 0 lost another rank"),
        ("writev [::1]:5: Broken pipe", RankLost, "rank 0 lost another rank"),
        ("Invalid scalar type", RuntimeError, "^Invalid scalar type$"),
    ],
)
def test_what_a_collective_says_of_other_ranks_is_told_in_our_words(words, kind, told):
    runtime = dataclasses.replace(start(CPU), world_size=2)
    collective = {}
    exec(
        compile("def wait(m): raise RuntimeError(m)", "torch/distributed/c10d.py", "exec"),
        collective,
    )
    with pytest.raises(kind, match=told), runtime.answering():
        collective["wait"](words)
    with pytest.raises(RuntimeError, match="^Timed out"), runtime.answering():
        raise RuntimeError("Timed out")  # not a collective's


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "0"}, "no LOCAL_RANK, WORLD_SIZE"),
        ({"RANK": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "whole numbers"),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "rank 2 of 2"),
    ],
)
def test_an_odd_environment_is_told(monkeypatch, environment, words):
    launch(monkeypatch, environment)
    with pytest.raises(LaunchError, match=words):
        start(CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_told():
    with pytest.raises(LaunchError, match="sees no GPU"):
        start(RuntimeSettings(device="cuda"))


def test_a_task_that_srun_shows_one_gpu_takes_that(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with pytest.raises(LaunchError, match="local rank 3 has no GPU: this machine shows 1"):
        _device("auto", 3)
    launch(monkeypatch, {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"})
    assert _device("auto", 3) == torch.device("cuda", 0) and chosen == [0]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert _device("auto", 3) == torch.device("cuda", 3)


def test_two_ranks_on_one_gpu_are_told(monkeypatch):
    gpu = SimpleNamespace(uuid="GPU-a")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    of_ranks = ["GPU-b", "GPU-a", "GPU-a"]
    monkeypatch.setattr(
        dist, "all_gather_object", lambda out, own: out.__setitem__(slice(None), of_ranks)
    )
    with pytest.raises(LaunchError, match="ranks 2 and 1 have the same GPU, GPU-a; .*per-task=1"):
        _check_own_gpu(2, 3, torch.device("cuda", 0))
    of_ranks[1] = "GPU-c"
    _check_own_gpu(2, 3, torch.device("cuda", 0))


def test_deterministic_kernels_are_asked_for_before_a_device_is_touched(monkeypatch):
    asked = []
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    device = runtime._device
    monkeypatch.setattr(runtime, "_device", lambda *a: asked.append("device") or device(*a))
    start(CPU)
    assert asked == ["device"] and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    start(dataclasses.replace(CPU, deterministic=True))
    assert asked == ["device", True, "device"]
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"


def test_the_commit_is_asked_once_and_unknown_without_git(monkeypatch):
    git_commit.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert git_commit() == "unknown"
    monkeypatch.undo()
    assert git_commit() == "unknown"  # a run keeps what it found at its start
    git_commit.cache_clear()


def test_bf16_runs_the_products_in_bf16():
    runtime = start(RuntimeSettings(device="cpu", precision="bf16"))
    with runtime.autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
