"""On which device, and by how many processes: of GPUs that are there, and of some that are not."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data_pipeline.config import ConfigError, load_config
from data_pipeline.doctor import check_quickly
from data_pipeline.extraction.config import DataConfig
from data_pipeline.extraction.devices import num_workers, resolve_device, take_device, unseen_gpu
from pretrain.runtime import start
from pretrain.settings import RuntimeSettings


@pytest.fixture
def no_gpu(monkeypatch, tmp_path):
    """Torch sees none; whether nvidia-smi does, a test says."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))

    def nvidia_smi(script: str) -> None:
        path = Path(tmp_path / "nvidia-smi")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return nvidia_smi


OLD = "echo 'NVIDIA A100-SXM4-80GB, 470.57.02'"


def test_a_device_that_is_not_there_is_named(no_gpu):
    assert resolve_device("cpu") == resolve_device("auto") == "cpu"
    with pytest.raises(ConfigError, match="no GPU here; device=cpu works as well$"):
        resolve_device("cuda")
    assert num_workers(3, "cpu") == 3
    assert num_workers(None, "cpu") == len(os.sched_getaffinity(0))


def test_a_gpu_that_torch_cannot_use_is_told(no_gpu, monkeypatch, caplog):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    no_gpu(OLD)
    assert resolve_device("auto") == "cpu"
    assert "auto takes the CPU: nvidia-smi sees NVIDIA A100-SXM4-80GB" in caplog.text
    assert "driver 470.57.02" in caplog.text and "the driver is too old" in caplog.text
    with pytest.raises(ConfigError, match="works as well. nvidia-smi sees NVIDIA A100.*renew it"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is built without CUDA: install one with it" in unseen_gpu()


def test_a_training_on_the_cpu_beside_a_gpu_says_why(no_gpu, capsys):
    no_gpu(OLD)
    start(RuntimeSettings(device="auto"))
    assert "auto takes the CPU: nvidia-smi sees NVIDIA A100" in capsys.readouterr().out
    start(RuntimeSettings(device="cpu"))
    assert "nvidia-smi" not in capsys.readouterr().out


@pytest.mark.parametrize("script", ["echo 'NVIDIA-SMI has failed' >&2; exit 9", "exit 0"])
def test_where_there_is_no_gpu_nothing_is_told(no_gpu, script):
    assert unseen_gpu() == ""
    no_gpu(script)
    assert unseen_gpu() == ""


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_is_hidden_on_purpose_is_not_told(no_gpu, monkeypatch, hidden):
    no_gpu(OLD)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert unseen_gpu() == ""


@pytest.fixture
def gpus(monkeypatch):
    """(gigabytes of each) -> torch sees them, beside 16 cores."""

    def gpus(*gigabytes: float) -> None:
        memory = {
            f"cuda:{n}": SimpleNamespace(total_memory=int(each * 1e9))
            for n, each in enumerate(gigabytes)
        }
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(memory))
        monkeypatch.setattr(torch.cuda, "get_device_properties", memory.__getitem__)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))

    return gpus


@pytest.mark.parametrize(
    ("gigabytes", "device", "workers"),
    [
        ((16,), "cuda", 5),
        ((80,), "cuda", 16),  # the cores
        ((16, 16), "cuda", 10),
        ((16, 16), "cuda:1", 5),
        ((80, 8), "cuda", 4),  # dealt out evenly
        ((2,), "cuda", 1),
        ((80,) * 20, "cuda", 20),  # one each
    ],
)
def test_a_gpu_has_as_many_workers_as_its_memory_and_the_cores_allow(
    gpus, gigabytes, device, workers
):
    gpus(*gigabytes)
    assert num_workers(None, device) == workers


def test_the_doctor_says_how_many_workers_a_gpu_holds(gpus, tmp_path):
    gpus(16)
    words = [f"clips={tmp_path}", f"output={tmp_path}/o", "device=cuda"]
    config = load_config(DataConfig, None, words)
    *_, few = check_quickly(config, [], 5)
    *_, many = check_quickly(config, [], 6)
    assert few.level == "ok" and few.what.startswith("5 workers on 1 GPU, whose memory holds 5")
    assert many.level == "warning" and many.fix == "workers=5 is safe"


def test_workers_go_round_the_gpus_and_make_each_its_own(monkeypatch):
    own = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", own.append)
    assert [take_device("cuda", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert take_device("cuda:1", 0) == "cuda:1"
    assert own == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert take_device("cpu", 5) == "cpu" and len(own) == 4
