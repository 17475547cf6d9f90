"""Ranks, device, precision, seeds and logging: what every training entry point sets up first.

    runtime = start(config.run)
    runtime.log.info("hello")     # rank 0 speaks; the others only warn

Ranks come from the environment that `deepspeed` and `torchrun` set (RANK, LOCAL_RANK, WORLD_SIZE,
MASTER_ADDR, MASTER_PORT), and data_pipeline.slurm from a Slurm step; without it this is one
process, which opens no port at all.
"""

import contextlib
import datetime
import functools
import json
import logging
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from data_pipeline.extraction.devices import unseen_gpu
from data_pipeline.slurm import num_step_tasks
from pretrain.launcher import LaunchError, RankLost, ToldByRankZero, follow_launcher
from pretrain.settings import RuntimeSettings

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    rank: int
    local_rank: int
    """Index of its GPU among those that this process sees; on a CPU, of it on its machine."""
    world_size: int
    device: torch.device
    dtype: torch.dtype
    """Of matrix products, under autocast when it is not float32."""
    timeout: datetime.timedelta
    """How long a rank waits for another one."""
    log: logging.Logger

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of `values` over all ranks, in place. CPU tensors go by gloo, no device sync."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def max_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise maximum over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def on_main(self, work: Callable[[], Result]) -> Result | None:
        """What `work()` gives on rank 0, None on the others; where it fails, every rank fails.

        Raises the error of `work` on rank 0, and ToldByRankZero on the others.
        """
        result, error = None, None
        if self.is_main:
            try:
                result = work()
            except Exception as caught:  # told to the others first: they would wait for rank 0
                error = caught
        failed = self.sum_over_ranks(torch.tensor(int(error is not None))).item()
        if error is not None:
            raise error
        if failed:
            raise ToldByRankZero("rank 0 gave up; its message says why")
        return result

    def from_main(self, arrays: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """The arrays of rank 0, on every rank; what the others give is not looked at.

        They travel as one piece over the CPU's process group, as plain bytes.
        """
        if self.world_size == 1:
            return arrays
        about, content = b"", b""
        if self.is_main:
            about = json.dumps([(n, a.dtype.str, a.shape) for n, a in arrays.items()]).encode()
            content = b"".join(array.tobytes() for array in arrays.values())
        received, at = {}, 0
        about, content = self._bytes_from_main(about), self._bytes_from_main(content)
        for name, dtype, shape in json.loads(about):
            size = math.prod(shape)
            flat = np.frombuffer(content, dtype, count=size, offset=at)
            received[name], at = flat.reshape(shape).copy(), at + flat.nbytes
        return received

    def _bytes_from_main(self, content: bytes) -> bytes:
        length = torch.tensor(len(content))
        dist.broadcast(length, src=0)
        buffer = np.zeros(int(length), dtype=np.uint8)
        if self.is_main:
            buffer[:] = np.frombuffer(content, dtype=np.uint8)
        dist.broadcast(torch.from_numpy(buffer), src=0)
        return buffer.tobytes()

    def on_every_rank(self, work: Callable[[], Result]) -> Result:
        """What `work()` gives; where it fails on one rank, every rank fails and can say why.

        Raises on rank 0 the error of `work`, or LaunchError with the words of the rank where it
        failed; ToldByRankZero on the others.
        """
        try:
            result, error = work(), None
        except Exception as caught:  # told to the others first: they would wait for this rank
            if _raised_by_collective(caught):
                raise
            result, error = None, caught
        first = self.world_size if error is None else self.rank
        first = -int(self.max_over_ranks(torch.tensor(-first)))  # the lowest of those that failed
        words = [str(error)]
        if first < self.world_size and self.world_size > 1:
            dist.broadcast_object_list(words, src=first, device=torch.device("cpu"))
        if first < self.world_size and not self.is_main:
            raise ToldByRankZero(words[0]) from error
        if error is not None:
            raise error
        if first < self.world_size:
            raise LaunchError(f"rank {first}: {words[0]}")
        return result

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Within it, a rank that waited in vain for another one says so in this project's words.

        Raises LaunchError, which names run.timeout_minutes, or RankLost.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not _raised_by_collective(error):
                raise
            again = "the same command goes on from the last checkpoint"
            if re.search(r"time[d ]*out", str(error), re.IGNORECASE):
                raise LaunchError(
                    f"rank {self.rank} waited run.timeout_minutes="
                    f"{self.timeout.total_seconds() / 60:g} for another rank, which is stopped, "
                    "hangs, or is that much slower: look at the other processes and their "
                    f"machines, or set run.timeout_minutes higher; {again}"
                ) from error
            if not re.search(r"connection|broken pipe|remote process", str(error), re.IGNORECASE):
                raise
            raise RankLost(
                f"rank {self.rank} lost another rank, which has ended: its own message says why, "
                f"or, where it was killed, the log of its machine (memory?); {again}"
            ) from error

    def autocast(self) -> torch.autocast:
        """Context in which the forward pass runs; does nothing in float32."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    def finish(self) -> None:
        """Leave the process group. Call it when all went well; a failing rank just exits."""
        if dist.is_initialized():
            dist.destroy_process_group()


def start(settings: RuntimeSettings, *, name: str = "memobert") -> Runtime:
    """Join the other ranks, choose device and precision, seed, and open the log.

    Every rank gets the same seed, so that all build the same model; `seed_rank` makes them
    differ afterwards. Raises LaunchError when ranks, port or GPUs are not there.
    """
    follow_launcher()
    rank, local_rank, world_size = find_ranks()
    timeout = datetime.timedelta(minutes=settings.timeout_minutes)
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    if settings.deterministic:
        # cuBLAS reads it when it starts, and sums in any order where it has no such buffers.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    device = _device(settings.device, local_rank)
    dtype, why = _precision(settings.precision, device)
    log = _logger(name, rank, world_size)
    _join(rank, world_size, device, timeout)
    if device.type == "cuda" and num_step_tasks() > 1 and world_size > 1:
        _check_own_gpu(rank, world_size, device)
    seed_everything(settings.seed)
    log.info(
        f"{world_size} rank{'s' * (world_size > 1)} on {_device_name(device)}, "
        f"{torch.get_num_threads()} CPU threads each, {str(dtype).removeprefix('torch.')} ({why}), "
        f"seed {settings.seed}"
    )
    if settings.device == "auto" and device.type == "cpu" and local_rank == 0:
        unseen = unseen_gpu()
        if unseen:
            log.warning(f"device=auto takes the CPU: {unseen}")
    if rank == 0:
        log.info(f"code at commit {git_commit()}")
    return Runtime(
        rank=rank,
        local_rank=device.index if device.type == "cuda" else local_rank,
        world_size=world_size,
        device=device,
        dtype=dtype,
        timeout=timeout,
        log=log,
    )


@functools.cache
def git_commit() -> str:
    """Commit of this code, `-dirty` when tracked files differ from it; "unknown" without git.

    Asked once a process, by `start`, since the files may change while a run goes on.
    """
    describe = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *describe],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy's global generator and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries below us may draw from it
    random.seed(seed)


def seed_rank(seed: int, rank: int) -> None:
    """Give each rank its own stream, for dropout; call it once the model is built."""
    seed_everything(int(np.random.SeedSequence((seed, rank)).generate_state(1)[0]))


def _raised_by_collective(error: BaseException) -> bool:
    """Whether torch.distributed raised it, which has no class of its own for gloo's errors."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "torch/distributed/" in trace.tb_frame.f_code.co_filename


def open_group_of_one(device: torch.device) -> None:
    """A process group of this process alone, for libraries that want one; it needs no port."""
    dist.init_process_group(_backend(device), store=dist.HashStore(), rank=0, world_size=1)


def _backend(device: torch.device) -> str:
    # Both in one group: device tensors go by NCCL, numbers of the host by gloo.
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def find_ranks() -> tuple[int, int, int]:
    """(rank, local rank, number of ranks) as the environment has them; (0, 0, 1) of one alone."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    found = {name: os.environ[name] for name in names if name in os.environ}
    if "RANK" not in found and "WORLD_SIZE" not in found:
        return 0, 0, 1
    if len(found) != len(names):
        missing = ", ".join(name for name in names if name not in found)
        raise LaunchError(
            f"the environment has {found} but no {missing}; start with `deepspeed` or `torchrun`, "
            f"or unset {', '.join(found)} for a single process"
        )
    try:
        rank, local_rank, world_size = (int(found[name]) for name in names)
    except ValueError as error:
        raise LaunchError(f"the environment has {found}: expected whole numbers") from error
    if world_size == 1 and num_step_tasks() > 1:
        raise LaunchError(
            f"one rank alone, in a Slurm step of {num_step_tasks()} tasks: each of them would be a "
            "run of its own, into one folder; start the ranks by srun itself (srun python -m "
            "pretrain.cli ...), or one launcher a node that is told of the others, such as srun "
            "torchrun --nnodes N --rdzv_backend c10d --rdzv_endpoint HOST:PORT"
        )
    if not 0 <= rank < world_size:
        raise LaunchError(f"rank {rank} of {world_size} ranks: expected 0 to {world_size - 1}")
    return rank, local_rank, world_size


def meeting_place() -> tuple[str, int]:
    """(address, port) at which rank 0 waits for the others."""
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    return address, int(os.environ.get("MASTER_PORT", "29500"))


def _device(wanted: str, local_rank: int) -> torch.device:
    num_gpus = torch.cuda.device_count() if wanted != "cpu" else 0
    if wanted == "cuda" and not num_gpus:
        words = ["device=cuda, but torch sees no GPU; use device=cpu or auto", unseen_gpu()]
        raise LaunchError(". ".join(filter(None, words)))
    if not num_gpus:
        return torch.device("cpu")
    index = gpu_index(local_rank, num_gpus)
    if index >= num_gpus:
        raise LaunchError(
            f"local rank {local_rank} has no GPU: this machine shows {num_gpus}; "
            f"start at most {num_gpus} ranks here, or run on the CPU"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def gpu_index(local_rank: int, num_gpus: int) -> int:
    """Which of the GPUs that a process sees is its own. The one that it sees, where srun shows each
    task one (--gpus-per-task, --gpu-bind=single:1); else that of its local rank."""
    return 0 if num_gpus == 1 and num_step_tasks() > 1 else local_rank


def _check_own_gpu(rank: int, world_size: int, device: torch.device) -> None:
    """Raise LaunchError if another rank has the same GPU, which NCCL tells in words of its own."""
    gpus: list[str] = [""] * world_size
    dist.all_gather_object(gpus, str(torch.cuda.get_device_properties(device).uuid))
    others = [other for other in range(world_size) if other != rank and gpus[other] == gpus[rank]]
    if others:
        raise LaunchError(
            f"ranks {rank} and {others[0]} have the same GPU, {gpus[rank]}; ask Slurm for one GPU "
            "a task (--gpus-per-task=1), or for all of a node's (--gpus-per-node)"
        )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _precision(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    if wanted != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[wanted], "as precision says"
    if device.type == "cpu":
        return torch.float32, "auto: CPU"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "auto: this GPU has it"
    return torch.float32, "auto: this GPU has no bf16"


def _join(rank: int, world_size: int, device: torch.device, timeout: datetime.timedelta) -> None:
    if world_size == 1 or dist.is_initialized():
        return
    address, port = meeting_place()
    try:
        dist.init_process_group(
            _backend(device),
            init_method=f"tcp://{address}:{port}",
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "EADDRINUSE" in str(error) or "in use" in str(error):
            raise LaunchError(
                f"port {port} on {address} is in use, perhaps by another run; choose a free one: "
                f"deepspeed --master_port {port + 1} launch/pretrain.sh ..."
            ) from error
        raise LaunchError(
            f"rank {rank} could not meet the other {world_size - 1} ranks at {address}:{port} "
            f"within run.timeout_minutes={timeout.total_seconds() / 60:g}: "
            f"{str(error).splitlines()[0]}"  # then comes a trace of C++
        ) from error


def _logger(name: str, rank: int, world_size: int) -> logging.Logger:
    log = logging.getLogger(name)
    log.handlers.clear()
    handler = logging.StreamHandler(sys.stdout)
    who = f"[rank {rank}] " if world_size > 1 and rank else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s {who}%(message)s", datefmt="%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    log.propagate = False
    return log
