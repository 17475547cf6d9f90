"""What a run tells: one line every few steps, metrics.csv always, TensorBoard on request.

Sums live on the device and are read once a line, so that they make no step wait.
"""

import csv
import io
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from data_pipeline.files.atomic import atomic_file
from pretrain.objectives import OBJECTIVES
from pretrain.runtime import Runtime


def columns() -> list[str]:
    """Of metrics.csv: one for each objective there is."""
    amounts = ["learning_rate", "clips_per_second", "tokens_per_second", "memory_gb"]
    return ["step", "split", "loss", *OBJECTIVES, *amounts]


class Meter:
    """Losses and amounts since the last line."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._names = list(OBJECTIVES)
        self.reset()

    def reset(self) -> None:
        zeros = torch.zeros(1 + len(self._names), dtype=torch.float64, device=self.runtime.device)
        self._sums = zeros  # the step's loss, then each objective's sum, of this rank
        self._counts = dict.fromkeys(self._names, 0)  # of all ranks, as the amounts below
        self._steps = self._clips = self._tokens = 0
        self._seconds = 0.0
        self._since = time.perf_counter()

    def add_loss(self, loss: torch.Tensor, sums: Mapping[str, torch.Tensor]) -> None:
        """This rank's part of a step's loss, from one micro-batch, and its objectives' sums."""
        self._sums[0] += loss.detach()
        for name, loss_sum in sums.items():
            self._sums[1 + self._names.index(name)] += loss_sum.detach()

    def add_step(self, counts: Mapping[str, int], clips: int, tokens: int) -> None:
        """What all ranks together did in one step."""
        for name, count in counts.items():
            self._counts[name] += count
        self._steps += 1
        self._clips += clips
        self._tokens += tokens

    def pause(self) -> None:
        """Stop the clock, for a validation or a checkpoint."""
        self._seconds += time.perf_counter() - self._since

    def go_on(self) -> None:
        self._since = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """What there is since `reset`, of all ranks together, for a checkpoint; waits for the
        device. Every rank calls it."""
        return {
            "sums": self.runtime.sum_over_ranks(self._sums.clone()).tolist(),
            "counts": dict(self._counts),
            "amounts": [self._steps, self._clips, self._tokens],
            "seconds": self._seconds,
        }

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """As it was at a checkpoint; the sums go to rank 0, whatever ranks they were of."""
        if self.runtime.is_main:
            self._sums += torch.tensor(state["sums"], dtype=torch.float64, device=self._sums.device)
        self._counts |= {n: c for n, c in state["counts"].items() if n in self._counts}
        self._steps, self._clips, self._tokens = state["amounts"]
        self._seconds = state["seconds"]

    def read(self) -> dict[str, float]:
        """Means since `reset`, over all ranks; waits for the device."""
        sums = self.runtime.sum_over_ranks(self._sums).tolist()
        self.pause()
        row = {
            "loss": sums[0] / self._steps,
            "clips_per_second": self._clips / self._seconds,
            "tokens_per_second": self._tokens / self._seconds,
            "memory_gb": _memory_gb(self.runtime.device),
        }
        row |= {
            name: loss_sum / self._counts[name]
            for name, loss_sum in zip(self._names, sums[1:], strict=True)
            if self._counts[name]
        }
        self.reset()
        return row


class MetricsFile:
    """metrics.csv in `folder`, one row a line of the log; only rank 0 opens one.

    A run that goes on from step S drops the rows after S first: they are about to be written
    again.
    """

    def __init__(self, folder: Path, last_step: int, tensorboard: bool) -> None:
        self.path = folder / "metrics.csv"
        rows = []
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                # A row that a killed run left half written lies after its last checkpoint.
                rows = [row for row in csv.DictReader(file) if _step_of(row) <= last_step]
        with atomic_file(self.path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.DictWriter(text, columns(), lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows if last_step else [])
            text.detach()
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # What is drawn again is taken back: from a start anew that is step 0 as well.
            purge_step = last_step + 1 if last_step else 0
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()  # it has a thread

    def write(self, step: int, split: str, row: Mapping[str, float]) -> None:
        """Add one row. Floats are written with every digit, so that runs can be compared."""
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns(), lineterminator="\n")
            writer.writerow({"step": step, "split": split, **row})
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(f"{split}/{name}", value, step)
            self.board.flush()


def describe(step: int, row: Mapping[str, float]) -> str:
    """`step 1200 | loss 3.412 | wwmlm 2.710 mafr 0.380 | 640 clips/s | 52k tok/s | ...`"""
    parts = [f"step {step}", f"loss {row['loss']:.3f}", objectives_line(row)]
    parts += [
        f"{row['clips_per_second']:.3g} clips/s",
        f"{row['tokens_per_second'] / 1000:.3g}k tok/s",
        f"lr {row['learning_rate']:.2e}",
        f"{row['memory_gb']:.1f} GB",
    ]
    return " | ".join(parts)


def objectives_line(row: Mapping[str, Any]) -> str:
    """`wwmlm 2.7100 mafr 0.3800`: the objectives that `row` has."""
    return " ".join(
        f"{name.removeprefix('span_')} {row[name]:.4f}" for name in OBJECTIVES if name in row
    )


def _step_of(row: Mapping[str, str | None]) -> float:
    try:
        return int(row["step"]) if row.get("memory_gb") is not None else float("inf")
    except (KeyError, TypeError, ValueError):
        return float("inf")


def _memory_gb(device: torch.device) -> float:
    """Most memory used so far: of the GPU by tensors, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
