"""What a rank under a launcher says when it is stopped: how to go on.

On Ctrl-C `deepspeed` sends its ranks a TERM within the same moment, and what Python would do about
the first signal never comes to an end. So both are answered by one message, at once.
"""

import os
import signal
import sys
from types import FrameType

GO_ON = "the same command goes on from the last checkpoint"


def answer_signals() -> None:
    """Let INT and TERM end this rank, rank 0 with a message; without a launcher nothing changes.

    Nothing is cleaned up, and need not be: a checkpoint counts from when it is whole. A signal that
    is ignored, as under nohup, stays so.
    """
    if "RANK" not in os.environ:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):  # the next one would come in between
        signal.signal(other, signal.SIG_IGN)
    # launch/pretrain.sh has said it already.
    if os.environ["RANK"] == "0" and "MEMOBERT_PRETRAIN_SH" not in os.environ:
        sys.stderr.write(f"pretrain: interrupted; {GO_ON}\n")
        sys.stderr.flush()
    os._exit(128 + number)
