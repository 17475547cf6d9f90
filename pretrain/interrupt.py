"""How a run is asked to stop, and what it says.

TERM and USR1 ask: a scheduler whose time is up, a launcher that is stopped. The step that is under
way is finished on all ranks, a checkpoint is saved, and the run leaves with GO_ON_EXIT. Whoever
asks again is not heard; whoever has no patience kills. On Ctrl-C a run ends at once, without a
checkpoint: `deepspeed` sends its ranks a TERM within the same moment, and what Python would do
about the first signal never comes to an end.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from data_pipeline.command_line import ASKING, GO_ON_EXIT, INTERRUPTED_EXIT

GO_ON = "the same command goes on from the last checkpoint"

_asked_by: list[str] = []
"""Who asked this rank to stop, by name."""
_saves = threading.Event()
"""Set while there are steps to finish and a run to save."""


def answer_signals() -> None:
    """Let TERM and USR1 ask this rank to stop, and INT end it when a launcher started it.

    A signal that is ignored, as HUP and INT are under nohup, stays so.
    """
    _asked_by.clear()
    for number in ASKING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop_when_saved)
    if "RANK" in os.environ and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _stop_at_once)


@contextlib.contextmanager
def saving_when_asked() -> Iterator[None]:
    """Within it the run looks at `asked_to_stop` after each step; outside of it whoever asks ends
    the process at once, since there is nothing to be saved."""
    _saves.set()
    try:
        yield
    finally:
        _saves.clear()


def ask_to_stop(who: str) -> bool:
    """Have the run save and leave after the step that is under way; False where it trains not."""
    _asked_by.append(who)
    return _saves.is_set()


def asked_to_stop() -> str:
    """Who asked this rank to stop; empty where nobody has."""
    return _asked_by[0] if _asked_by else ""


def _stop_when_saved(number: int, frame: FrameType | None) -> None:
    if not ask_to_stop(signal.Signals(number).name):
        _stop_at_once(number, frame)


def _stop_at_once(number: int, _: FrameType | None) -> None:
    for other in (signal.SIGINT, *ASKING):  # the next one would come in between
        signal.signal(other, signal.SIG_IGN)
    # launch/pretrain.sh has said it already.
    if os.environ.get("RANK", "0") == "0" and "MEMOBERT_PRETRAIN_SH" not in os.environ:
        sys.stderr.write(f"pretrain: interrupted; {GO_ON}\n")
        sys.stderr.flush()
    # Nothing is cleaned up, and need not be: a checkpoint counts from when it is whole.
    os._exit(GO_ON_EXIT if number in ASKING else INTERRUPTED_EXIT)
