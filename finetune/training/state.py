"""The state of a training in the folder of its run, so that the same command goes on after a kill.

    state/training.pt    what `fit` keeps at each evaluation: weights, optimizer, the best
                         weights so far, the curve, the random numbers of every process
    state/choosing.pt    of the training on train alone in which dev chose the step, where one on
                         train and dev follows

The first process writes it, whole or not at all, over the one before; once the run has its row the
folder goes. A file ends with the SHA-256 of all before, since torch reads altered numbers without a
word; nothing in it is unpickled.

An evaluation costs a file of three times the weights that learn, and once more where the best of
them are kept; frozen weights are left out, and at the end of a training its weights alone are left.
It is written from where the tensors lie, without a copy in memory, and flushed to the disk. Where
that takes seconds, evaluations are passed over until it is a small part of the training's time.
"""

import hashlib
import logging
import os
import pickle
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from data_pipeline.files.atomic import atomic_file, remove_leftovers
from pretrain.checkpoint.integrity import system_error
from pretrain.runtime import git_commit

STATE_FOLDER = "state"
FORMAT = 1
"""Of the files; one of another format is not read."""
NOT_READ = (
    *(EOFError, IndexError, KeyError, RuntimeError, ValueError),
    pickle.UnpicklingError,
)
"""What torch.load raises for a file that is none of torch's."""


CHEAP_SECONDS = 1.0
"""A state that takes no longer to write is written at every evaluation."""
LARGEST_SHARE = 0.1
"""Of the training's time, what writing dearer ones may take."""


class NotUsable(Exception):
    """A state that this run cannot go on from; it says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """Where a training keeps its state, and what it is the state of."""

    path: Path
    of: dict[str, Any]
    """All that must be the same for the run to go on as if nothing had stopped it."""
    accelerator: Accelerator
    log: logging.Logger
    pace: "Pace" = field(default_factory=lambda: Pace())

    @classmethod
    def of_run(
        cls, folder: Path, facts: dict[str, Any], accelerator: Accelerator, log: logging.Logger
    ) -> "TrainingState":
        """That of the run in `folder`. facts: plain values which tell the run from any other."""
        of = {
            "format": FORMAT,
            **facts,
            "git_commit": git_commit(),
            "torch": str(torch.__version__),
            "device": accelerator.device.type,
            "num_processes": accelerator.num_processes,
        }
        path = folder / STATE_FOLDER / "training.pt"
        return cls(path=path, of=of, accelerator=accelerator, log=log)

    def named(self, name: str) -> "TrainingState":
        """Of another training of the same run."""
        return replace(self, path=self.path.with_name(f"{name}.pt"))

    def telling(self, **facts: Any) -> "TrainingState":
        """With more that must be the same."""
        return replace(self, of=self.of | facts)

    def read(self) -> dict[str, Any] | None:
        """What was kept last, on every process; None where there is nothing that can be used, and
        the log then says why. All processes call it together."""
        content, why = None, ""
        try:
            content = self._read()
        except FileNotFoundError:
            why = "there is none"
        except NotUsable as error:
            why = str(error)
        digests = gather_object([None if content is None else content["digest"]])
        if None not in digests and len(set(digests)) == 1:
            return content
        if self.accelerator.is_main_process and self.path.exists():
            why = why or "not all processes can read it"
            self.log.warning(f"{self.path}: {why}; this training starts from its beginning")
        return None

    def is_due(self) -> bool:
        """Whether it is time to write again, as the first process has it; all ask together."""
        said = [self.pace.is_due(time.monotonic())]
        return bool(broadcast_object_list(said)[0])

    def write(self, content: dict[str, Any]) -> None:
        """Keep `content`, of tensors and plain values, in place of what was kept before.

        A disk that takes no more costs a warning: the training goes on, and the state before
        stays. The first process alone does anything.
        """
        if not self.accelerator.is_main_process:
            return
        started = time.monotonic()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path.parent)
            with atomic_file(self.path) as file:
                digest = _Digest(file)
                torch.save({"of": self.of, **content}, digest)
                file.write(digest.sha256.digest())
        except (OSError, RuntimeError) as error:
            # torch has an error of its own for what the system refused.
            why = system_error(error) or system_error(error.__context__ or error)
            if why is None:
                raise
            self.log.warning(
                f"cannot keep the state of this training: {why}; killed before its end it would go "
                "on from the state before, or from its beginning"
            )
        self.pace.wrote(started, time.monotonic())

    def remove(self) -> None:
        """The run is done: nothing is kept of any of its trainings."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.path.parent, ignore_errors=True)

    def of_other_recipes(self) -> list[Path]:
        """Folders with the state of the same setting, fold and seed by other recipes; no run goes
        on from those of another one."""
        run = self.path.parent.parent
        same = run.name.rpartition("-")[0]  # see finetune.runs.results.run_folder
        found = sorted(run.parent.glob(f"{same}-*/{STATE_FOLDER}"))
        return [folder for folder in found if folder.parent != run]

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                digest = _check_digest(file)
                content = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise NotUsable(system_error(error)) from error
        except NOT_READ as error:
            raise NotUsable(f"torch cannot read it ({type(error).__name__})") from error
        was = content["of"]
        differs = [
            f"{name} {was.get(name)}, now {self.of.get(name)}"
            for name in dict.fromkeys([*was, *self.of])
            if was.get(name) != self.of.get(name)
        ]
        if differs:
            raise NotUsable(f"kept with {'; '.join(differs)}")
        return {**content, "digest": digest}


@dataclass(eq=False)
class Pace:
    """When the last state was written, and how long it took; in seconds of one clock."""

    ended: float = 0.0
    took: float = 0.0

    def is_due(self, now: float) -> bool:
        return self.took <= CHEAP_SECONDS or now - self.ended >= self.took / LARGEST_SHARE

    def wrote(self, started: float, ended: float) -> None:
        self.ended, self.took = ended, ended - started


class _Digest:
    """A file to be written from its start to its end, and the SHA-256 of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, part: bytes) -> int:
        self.sha256.update(part)
        return self._file.write(part)

    def flush(self) -> None:
        self._file.flush()


def _check_digest(file: BinaryIO) -> bytes:
    """The digest that a file ends with. Raises NotUsable where it is another one's."""
    sha256 = hashlib.sha256()
    left = os.fstat(file.fileno()).st_size - sha256.digest_size
    while left > 0 and (part := file.read(min(left, 2**20))):
        sha256.update(part)
        left -= len(part)
    kept = file.read()
    if kept != sha256.digest():
        raise NotUsable("cut or altered since it was written")
    file.seek(0)
    return kept
