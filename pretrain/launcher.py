"""A rank ends when the launcher that started it has gone.

A launcher that is stopped by a signal which it does not hand on (`deepspeed` and SIGTERM, any of
them and SIGKILL) leaves its ranks to init, and they would train on with nobody to stop them.

Who counts is told by name. The parent of a process may go for good reasons: a shell whose user
logs out of a run under nohup, or one that starts each rank by hand. And it may be process 1 from
the start, in a container, which nobody outlives. Neither ends a run. Schedulers (Slurm, MPI) end
their own.

A launcher that came by ssh as a command, as pdsh brings DeepSpeed's to every machine, ends with its
connection: sshd only closes its output, and nobody could reach it any more. Under nohup it stays.
"""

import contextlib
import functools
import os
import signal
import threading
import time
from pathlib import Path

import psutil

from data_pipeline.errors import UserError
from pretrain.interrupt import ask_to_stop, asked_to_stop


class LaunchError(UserError):
    """The processes of a run cannot be brought together, or do not stay so."""


class ToldByRankZero(LaunchError):
    """What every rank has met, and rank 0 tells."""


class RankLost(LaunchError):
    """Another rank has ended. Why is its own to tell, so this one waits before it says so."""


LAUNCHERS = {
    "deepspeed",
    "ds",
    "deepspeed.launcher.runner",
    "deepspeed.launcher.launch",
    "torchrun",
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate",
    "accelerate-launch",
    "accelerate.commands.launch",
    "pretrain.sh",
    "finetune.sh",
}
"""Names of commands and modules whose end is the end of what they started."""

SSH_SERVERS = {"sshd", "sshd-session"}
"""Names of the process that stands for a connection; the second from OpenSSH 9.8 on."""

LOOK_SECONDS = 1.0
SAVE_SECONDS = 300.0
"""What a rank whose launcher has gone has to finish its step and to save."""

TOLD = "the launcher has gone, so its ranks end; the same command goes on from what is saved\n"


@functools.cache
def follow_launcher() -> tuple[int, ...]:
    """End this process, from a thread, soon after one of the launchers above it has gone.

    Returns the processes that are followed, nearest first; none where there is no launcher. The
    first call counts: make it early, since a launcher may go while torch is still being imported.
    """
    chain = launchers_above(os.getpid())
    if chain and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        chain += connection_above(chain[-1])
    if chain:
        threading.Thread(target=_watch, args=(chain,), name="launcher watch", daemon=True).start()
    return chain


def launchers_above(pid: int) -> tuple[int, ...]:
    """The launchers above process `pid`, nearest first, up to the first process that is none.

    `deepspeed` is two of them and launch/pretrain.sh a third: the end of the outermost leaves the
    inner ones running, so all are followed.
    """
    chain: list[int] = []
    try:
        parent = psutil.Process(pid).parent()
        while parent is not None and is_launcher(parent.cmdline()):
            chain.append(parent.pid)
            parent = parent.parent()
    except psutil.Error:  # gone while we looked, or another user's
        pass
    return tuple(chain)


def connection_above(pid: int) -> tuple[int, ...]:
    """The sshd whose connection brought `pid` as a command, below it the shell that it gave the
    command to; none for what was typed into a shell, whose user may log out."""
    chain: list[int] = []
    try:
        parent = psutil.Process(pid).parent()
        while parent is not None:
            chain.append(parent.pid)
            if parent.name() in SSH_SERVERS:
                return tuple(chain)
            if len(chain) > 1 or "-c" not in parent.cmdline()[1:2]:
                break
            parent = parent.parent()
    except psutil.Error:
        pass
    return ()


def is_launcher(command: list[str]) -> bool:
    """Whether a command line is one's: the program, or the script or module that Python or bash
    was given, has such a name."""
    words = [*command[:1], *[word for word in command[1:] if not word.startswith("-")][:1]]
    return any(Path(word).name in LAUNCHERS for word in words)


def _watch(chain: tuple[int, ...]) -> None:
    while all(
        _parent_of(pid) == parent for pid, parent in zip((os.getpid(), *chain), chain, strict=False)
    ):
        time.sleep(LOOK_SECONDS)
    if os.environ.get("RANK", "0") != "0":
        time.sleep(2 * LOOK_SECONDS)  # rank 0 tells it, and would leave with us before it looks
    elif not asked_to_stop():  # else it is known
        with contextlib.suppress(OSError):  # the terminal may have gone with the launcher
            os.write(2, TOLD.encode())
    if ask_to_stop("the end of its launcher"):
        time.sleep(SAVE_SECONDS)
    # Whatever the main thread does: it may wait for a rank that has ended already. A checkpoint
    # that is half written has no effect.
    os._exit(1)


def _parent_of(pid: int) -> int | None:
    """An orphan has another parent than before, even while the old one waits to be reaped."""
    if pid == os.getpid():
        return os.getppid()
    try:
        return psutil.Process(pid).ppid()
    except psutil.Error:
        return None
