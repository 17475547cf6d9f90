"""The folder of a run: there, writable, and held by one run at a time."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data_pipeline.config import ConfigError
from data_pipeline.paths import check_stage
from pretrain.checkpoint.integrity import CheckpointError
from pretrain.runtime import Runtime

LOCK = ".lock"


@contextlib.contextmanager
def held_output(folder: Path, runtime: Runtime) -> Iterator[None]:
    """Make `folder`, and keep other runs out of it as long as this one goes on.

    A launcher that is killed may leave its ranks training; the same command given again would
    then mix checkpoints and metrics with theirs. The lock goes with the process that holds it.

    Raises ConfigError when the folder cannot be written or is another stage's, CheckpointError when
    another run holds it.
    """
    lock = runtime.on_main(lambda: _lock(folder, runtime))
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _lock(folder: Path, runtime: Runtime) -> IO[str]:
    check_stage(folder, "pretraining", "run.output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115  open until the run ends
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CheckpointError(
            f"another run ({_holder(file)}) is writing to {folder}; stop it, or use another "
            "run.output"
        ) from error
    except OSError as error:  # some network disks have no locks
        runtime.log.warning(f"cannot lock {folder} ({error}); let no other run write to it")
    try:
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        (folder / f"{LOCK}.probe").touch()
        (folder / f"{LOCK}.probe").unlink()
    except OSError as error:
        file.close()
        raise _unwritable(folder, error) from error
    return file


def holder_of(folder: Path) -> str:
    """The run that holds `folder` now, as it wrote itself down; "" when none does.

    It looks by a shared lock, let go at once, and writes nothing.
    """
    try:
        file = open(folder / LOCK, encoding="utf-8")  # noqa: SIM115  _holder closes it
    except OSError:
        return ""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(file)
    except OSError:  # a disk without locks
        pass
    file.close()
    return ""


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"run.output={folder} cannot be written to: {error}; give a folder that can, with space "
        "left, as run.output"
    )


def _holder(file: IO[str]) -> str:
    file.seek(0)
    name = file.read().strip()
    file.close()
    return name or "which has just started"
