"""On which device a worker's encoders run, and how many workers there are."""

import logging
import os
import subprocess

import torch

from data_pipeline.config import ConfigError

log = logging.getLogger(__name__)

HIDDEN = ("", "-1", "NoDevFiles")
"""CUDA_VISIBLE_DEVICES of one who wants no GPU, or of a job of Slurm's without."""


def resolve_device(device: str) -> str:
    """What `device` stands for here. Raises ConfigError for a GPU that torch does not see; where
    `auto` finds none and there is one, it says so."""
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        unseen = unseen_gpu()
        if unseen:
            log.warning("device=auto takes the CPU: %s", unseen)
        return "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        words = [f"device={device}, but torch sees no GPU here; device=cpu works as well"]
        raise ConfigError(". ".join(filter(None, [*words, unseen_gpu()])))
    return device


def unseen_gpu() -> str:
    """Of a GPU that the driver sees and torch does not: which, and what to do. Else nothing."""
    if torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN:
        return ""
    asked = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = told.stdout.splitlines()
    if told.returncode or not found:
        return ""
    name, _, driver = found[0].rpartition(", ")
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} is built without CUDA: install one with it"
    else:
        why = (
            f"torch {torch.__version__}, of CUDA {torch.version.cuda}, cannot use it: most often "
            "the driver is too old for that CUDA; renew it, or install a torch of an older CUDA"
        )
    return f"nvidia-smi sees {name} with driver {driver}, and {why} (pytorch.org/get-started)"


def device_kind(device: str) -> str:
    """cpu or cuda: features of the two differ in their last digits."""
    return device.partition(":")[0]


def num_workers(workers: int | None, device: str) -> int:
    """`workers`, or one a core, or one a GPU; device: as `resolve_device` gives it."""
    if workers is not None:
        return workers
    if device == "cuda":
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0))


def take_device(device: str, number: int) -> str:
    """`device`, and of several GPUs the one of worker `number`; it becomes the process's own, so
    that an extractor which says no more than `cuda` leaves the first GPU alone."""
    if device == "cuda":
        device = f"cuda:{number % torch.cuda.device_count()}"
    if device != "cpu":
        torch.cuda.set_device(device)
    return device
