"""Whether the process group of training forms, sums right, and how fast."""

import dataclasses
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from data_pipeline.doctor import Finding
from pretrain.runtime import Runtime, open_group_of_one, start
from pretrain.settings import RuntimeSettings

GROUP_MINUTES = 2.0
"""In place of run.timeout_minutes."""
SUM_SECONDS = 90.0
"""Less than that: NCCL ends a process that waits longer, and its page with it."""
GPU_BYTES, CPU_BYTES = 64_000_000, 4_000_000
"""Of the tensors that are summed."""
REPEATS = 5
SOCKETS = {"gloo": "GLOO_SOCKET_IFNAME", "NCCL": "NCCL_SOCKET_IFNAME, or NCCL_DEBUG=INFO for more"}


def sum_over_ranks(settings: RuntimeSettings) -> tuple[dict[str, Any], Runtime | None]:
    """({library: what came of its sums}, the runtime that was started).

    Of a sum: `seconds` of one, the median, `bytes`, and `right`; or `error`.
    """
    logging.disable(logging.INFO)  # the page is all that is printed
    try:
        runtime = start(dataclasses.replace(settings, timeout_minutes=GROUP_MINUTES))
    except Exception as error:  # whatever keeps the ranks from a group is the finding
        return {"group": {"error": str(error).strip()}}, None
    finally:
        logging.disable(logging.NOTSET)
    found = {}
    if runtime.world_size > 1:
        found["gloo"] = _within(SUM_SECONDS, lambda: _sum(torch.device("cpu"), CPU_BYTES))
    if runtime.device.type == "cuda" and "error" not in found.get("gloo", {}):
        found["NCCL"] = _within(SUM_SECONDS, lambda: _sum(runtime.device, GPU_BYTES))
    return found, runtime


def check_sums(found: list[dict[str, Any]], hosts: list[str]) -> Iterator[Finding]:
    """Of what each rank's sums came to; hosts: of the ranks."""
    broken: dict[tuple[str, str], list[str]] = {}
    for rank, (sums, host) in enumerate(zip(found, hosts, strict=True)):
        for library, said in sums.items():
            words = said.get("error") or ("" if said["right"] else "the sum is wrong")
            if words:
                first = words.partition("\n")[0]
                broken.setdefault((library, first), []).append(f"rank {rank} on {host}")
    for (library, words), who in broken.items():
        name = SOCKETS.get(library, " and ".join(SOCKETS.values()))
        yield Finding(
            level="error",
            what=f"{'no process group' if library == 'group' else library}: {_few(who)}: {words}",
            fix=f"look at the network between the nodes: set {name}",
        )
    for library in found[0]:
        if all("error" not in sums.get(library, {"error": ""}) for sums in found):
            yield Finding(level="ok", what=_speed(library, [sums[library] for sums in found]))
    if not any(found):
        yield Finding(level="ok", what="one rank on the CPU: there is nothing to sum over")


def _speed(library: str, said: list[dict[str, Any]]) -> str:
    ranks, num_bytes = len(said), said[0]["bytes"]
    seconds = max(one["seconds"] for one in said)
    what = f"{library}: {num_bytes / 1e6:g} MB summed over {ranks} rank{'s' * (ranks > 1)} in "
    what += f"{1e3 * seconds:.1f} ms, median of {REPEATS}"
    # What each rank sends and receives in a ring, to be compared with the speed of its link.
    each = 2 * (ranks - 1) / ranks * num_bytes
    return what + (f": {each / seconds / 1e9:.2f} GB/s of each rank's link" if ranks > 1 else "")


def _sum(device: torch.device, num_bytes: int) -> dict[str, Any]:
    if not dist.is_initialized():
        open_group_of_one(device)  # as DeepSpeed does
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # each thread has its own
    values = torch.empty(num_bytes // 4, device=device)
    times = []
    for _ in range(1 + REPEATS):  # the first one opens the connections
        values.fill_(rank + 1)
        _wait_for(device)
        begin = time.perf_counter()
        dist.all_reduce(values)
        _wait_for(device)
        times.append(time.perf_counter() - begin)
    right = bool((values == ranks * (ranks + 1) / 2).all())
    return {"seconds": statistics.median(times[1:]), "bytes": num_bytes, "right": right}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _within(seconds: float, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work()` gives, or its error, or that it hangs."""
    found: dict[str, Any] = {"error": f"no answer within {seconds:g} s", "right": False}

    def run() -> None:
        nonlocal found
        try:
            found = work()
        except Exception as error:  # of whatever library below
            found = {"error": str(error).strip(), "right": False}

    thread = threading.Thread(target=run, name="sum", daemon=True)
    thread.start()
    thread.join(seconds)
    return found


def _few(who: list[str]) -> str:
    return ", ".join(who[:3]) + (f" and {len(who) - 3} more" if len(who) > 3 else "")
