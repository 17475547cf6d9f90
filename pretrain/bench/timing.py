"""Several things timed by turns, so that what else the machine does falls on all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Times:
    """Of one thing, over the repeats."""

    wall: tuple[float, ...]
    """Seconds."""
    cpu: tuple[float, ...]
    """Seconds of all its threads: what wall seconds would be on one thread of an idle machine."""

    @property
    def median(self) -> float:
        return statistics.median(self.wall)


def by_turns(
    work: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, Times]:
    """Each once to warm up, then all of them `repeats` times, one after another."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wait(device)
            if turn:
                found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Times(wall=tuple(w for w, _ in pairs), cpu=tuple(c for _, c in pairs))
        for name, pairs in found.items()
    }


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
