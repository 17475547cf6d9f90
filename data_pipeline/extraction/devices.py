"""On which device a worker's encoders run, and how many workers there are."""

import logging
import os
import subprocess

import torch

log = logging.getLogger(__name__)

GPU_WORKER_BYTES = 3_000_000_000
"""Of a GPU's memory, for a worker: CUDA's own 0.5 GB, wav2vec2-base's weights of 0.4 GB and its
first layers at 30 s of sound, MTCNN and what torch's allocator keeps. Reckoned, not measured."""
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
        from data_pipeline.config import ConfigError  # needs pydantic, the rest torch alone

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
    """`workers`, or one a core; on GPUs no more than their memory holds, but at least one each,
    since most of a worker's time goes to the CPU. device: as `resolve_device` gives it."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0))
    if device == "cpu":
        return cores
    return max(len(gpus_of(device)), min(cores, num_fitting(device)))


def num_fitting(device: str) -> int:
    """Workers that the memory of these GPUs holds, dealt out evenly as `take_device` does."""
    gpus = gpus_of(device)
    return len(gpus) * max(1, min(map(_memory_bytes, gpus)) // GPU_WORKER_BYTES)


def gpus_of(device: str) -> list[str]:
    """`cuda` is every GPU that torch sees, `cuda:1` is one."""
    if device != "cuda":
        return [device]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def _memory_bytes(gpu: str) -> int:
    return torch.cuda.get_device_properties(gpu).total_memory


def take_device(device: str, number: int) -> str:
    """`device`, and of several GPUs the one of worker `number`; it becomes the process's own, so
    that an extractor which says no more than `cuda` leaves the first GPU alone."""
    gpus = gpus_of(device)
    device = gpus[number % len(gpus)]
    if device != "cpu":
        torch.cuda.set_device(device)
    return device
