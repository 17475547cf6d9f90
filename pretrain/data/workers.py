"""Lanes read by processes beside the one that trains: what a Loader asks of several LaneReaders.

Reading, cutting and masking a clip is Python, of which a process does one thing at a time; so
processes, not threads. Each has lanes of its own and knows nothing of the others. It is a step
ahead: the pipe holds it back until its step is fetched. A process that dies, or meets an error,
ends the run with one message; none outlives the run.
"""

import multiprocessing
import multiprocessing.connection
import signal
import threading
import traceback
from collections.abc import Sequence

import torch

from data_pipeline.errors import UserError
from data_pipeline.runs.spawned import end_with_parent, start_without_main
from pretrain.data.lanes import LaneReader, LaneStep, LoaderError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What asks a run to stop: its ranks answer, and close their workers."""


class Workers:
    """A process for each reader."""

    def __init__(self, readers: Sequence[LaneReader]) -> None:
        self.readers = readers
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._pipes: list[multiprocessing.connection.Connection] = []

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share the GPU's driver
        for reader in self.readers:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(reader, theirs), daemon=True)
            start_without_main(process, reader)
            theirs.close()  # so that the death of the process ends the pipe
            self._processes.append(process)
            self._pipes.append(ours)

    def read_step(self) -> list[LaneStep]:
        """What each reader gives to the next step. Raises what one of them met, and LoaderError
        for one that is gone."""
        return [self._receive(n) for n in range(len(self._pipes))]

    def _receive(self, number: int) -> LaneStep:
        process = self._processes[number]
        try:
            found = self._pipes[number].recv()
        except (EOFError, OSError):
            process.join()
            raise LoaderError(
                f"a process that reads clips ended with exit code {process.exitcode}"
                + (
                    " (killed, perhaps for its memory)"
                    if process.exitcode == -signal.SIGKILL
                    else ""
                )
                + "; the same command goes on from the last checkpoint, with fewer data.workers or "
                "data.num_lanes in less memory"
            ) from None
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """End the processes and wait for them."""
        for process in self._processes:
            process.kill()  # there is nothing of theirs to lose
        for process in self._processes:
            process.join()


def _serve(reader: LaneReader, pipe: multiprocessing.connection.Connection) -> None:
    """A worker's life: steps until nobody fetches them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        while True:
            pipe.send(reader.read_step())
    except UserError as error:
        pipe.send(error)
    except BrokenPipeError:
        return
    except Exception:
        pipe.send(RuntimeError(f"in a process that reads clips:\n{traceback.format_exc()}"))
