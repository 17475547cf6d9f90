"""What to run first on a new node: does this machine compute what the others do?

    make gpu-check
    python -m pretrain.check --device cpu --only memobert packing

A line of a table for each thing that is compared, as it is done: on a GPU against the CPU, on a CPU
against itself on another number of threads, and fast ways against their plain twins. A check that
fails or crashes, or whose run hangs, is a line that says why and what to do; the others go on. It
needs torch and transformers; what needs more is skipped where that is not installed. Nothing is
fetched.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from data_pipeline.extraction.devices import unseen_gpu
from pretrain.bench.results import hardware
from pretrain.check import encoders, model, runs
from pretrain.check.table import COLUMNS, Check, Place, Row, line, run_check

CHECKS: dict[str, Check] = {
    "face": encoders.face,
    "speech": encoders.speech,
    "memobert": model.memobert,
    "packing": model.packing,
    "memory": model.memory,
    "waits": runs.waits,
    "deepspeed": runs.deepspeed,
    "ranks": runs.ranks,
    "exactness": runs.exactness,
    "finetuning": runs.finetuning,
    "extraction": encoders.extraction,
}
FAILED_EXIT = 1


class DeviceError(UserError):
    """A device that is not there."""


def main(argv: list[str] | None = None) -> int:
    """0 where nothing failed, 1 where something did."""
    return run_command(_main, argv, name="check")


def _main(argv: list[str] | None) -> int:
    options = _options(argv)
    device = _device(options.device)
    began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="memobert-check-"))
    print(f"{hardware(device)}; {torch.cuda.device_count()} GPUs", flush=True)
    print(line(COLUMNS), flush=True)
    count: Counter[str] = Counter()
    for row in check_all(options.only, Place(device=device, folder=folder)):
        print(row.line(), flush=True)
        count[row.verdict] += 1
    told = ", ".join(f"{count[verdict]} {verdict}" for verdict in ("ok", "failed", "skipped"))
    print(f"{told}; {time.monotonic() - began:.0f} s", flush=True)
    if count["failed"]:
        print(f"what the failed ones wrote is in {folder}")
        return FAILED_EXIT
    shutil.rmtree(folder)
    return 0


def check_all(names: list[str], place: Place) -> Iterator[Row]:
    """The rows of the named checks, in the order of CHECKS."""
    for name, check in CHECKS.items():
        if name in names:
            yield from run_check(name, check, place)


def _device(wanted: str) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        if wanted == "auto" and (unseen := unseen_gpu()):
            raise DeviceError(f"{unseen}; --device cpu checks the CPU alone")
        return torch.device("cpu")
    if not torch.cuda.is_available():
        words = ("--device cuda, but torch sees no GPU", unseen_gpu())
        raise DeviceError(". ".join(filter(None, words)))
    return torch.device("cuda")


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "python -m pretrain.check",
        "What to run first on a new node: encoders, model, engines, ranks and resume, on the GPU "
        "against the CPU. Exit code 1 where something failed.",
        "python -m pretrain.check --device cuda",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA if there"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(CHECKS), default=list(CHECKS))
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
