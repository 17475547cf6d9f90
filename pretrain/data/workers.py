"""Lanes read by processes beside the one that trains: what a Loader asks of several LaneReaders.

Reading, cutting and masking a clip is Python, of which a process does one thing at a time; so
processes, not threads. Each has lanes of its own and knows nothing of the others. The queue is
bounded by asking: a process reads a step when it is asked for one, and is asked AHEAD steps early.

Arrays are not sent: they are written once into memory of their own, whose file descriptor goes
through the socket, and the batch is put together from there. Memory that both sides let go of is
gone, so that nothing is left behind by a process that is killed. What is pickled goes between a
process and its own child alone; no file is read so.

A process that dies, or meets an error, ends the run with one message; none outlives the run.
"""

import contextlib
import itertools
import mmap
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from data_pipeline.runs.spawned import end_with_parent, start_without_main
from pretrain.data.columns import from_columns, to_columns
from pretrain.data.lanes import LaneReader, LaneStep, LoaderError

AHEAD = 2
"""Steps asked for early: one is read while the other waits to be fetched."""
ALIGNMENT = 64
"""Bytes to whose multiples arrays begin."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What asks a run to stop: its ranks answer, and close their workers."""


class Workers:
    """A process for each reader."""

    def __init__(self, readers: Sequence[LaneReader]) -> None:
        if not hasattr(os, "memfd_create"):
            raise LoaderError(
                "data.workers lends memory between processes as Linux does; here set data.workers=0"
            )
        self.readers = readers
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._sockets: list[multiprocessing.connection.Connection] = []

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share the GPU's driver
        for reader in self.readers:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(reader, theirs), daemon=True)
            start_without_main(process, reader)
            theirs.close()  # so that the death of the process ends the socket
            self._processes.append(process)
            self._sockets.append(ours)
        for _ in range(AHEAD):
            self._ask()

    def read_step(self) -> list[LaneStep]:
        """What each reader gives to the next step. Raises what one of them met, and LoaderError
        for one that is gone."""
        self._ask()
        return [self._receive(number) for number in range(len(self._sockets))]

    def close(self) -> None:
        """End the processes and wait for them."""
        for process in self._processes:
            process.kill()  # there is nothing of theirs to lose
        for process in self._processes:
            process.join()

    def _ask(self) -> None:
        for socket in self._sockets:
            with contextlib.suppress(OSError):  # ended; what it told before is still to be read
                socket.send(None)

    def _receive(self, number: int) -> LaneStep:
        try:
            found = receive(self._sockets[number])
        except (EOFError, OSError):
            self._processes[number].join()
            raise _gone(self._processes[number].exitcode) from None
        if isinstance(found, BaseException):
            raise found
        columns, places, dropped = found
        return LaneStep(examples=from_columns(columns), places=places, dropped=dropped)


def send(socket: multiprocessing.connection.Connection, told: Any) -> None:
    """`told`, its arrays beside it in memory that the other side then has."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(told, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    rooms = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays]
    begins = list(itertools.accumulate(rooms, initial=0))
    socket.send((head, begins, [array.nbytes for array in arrays]))
    if not begins[-1]:
        return
    with os.fdopen(os.memfd_create("clips"), "wb") as memory:
        for array, room in zip(arrays, rooms, strict=True):
            memory.write(array)
            memory.write(bytes(room - array.nbytes))
        memory.flush()
        send_handle(socket, memory.fileno(), None)


def receive(socket: multiprocessing.connection.Connection) -> Any:
    """What `send` was told. Its arrays lie in the memory that came, which ends with the last."""
    head, begins, sizes = socket.recv()
    if not begins[-1]:
        return pickle.loads(head)
    memory = recv_handle(socket)
    try:
        area = memoryview(mmap.mmap(memory, begins[-1]))
    finally:
        os.close(memory)
    spans = zip(begins, sizes, strict=False)
    return pickle.loads(head, buffers=[area[begin : begin + size] for begin, size in spans])


def _serve(reader: LaneReader, socket: multiprocessing.connection.Connection) -> None:
    """A worker's life: a step for each time that it is asked, until nobody is there to ask."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            socket.recv()
            try:
                step = reader.read_step()
                told = to_columns(step.examples), step.places, step.dropped
            except Exception as error:
                send(socket, _told(error))
                return
            send(socket, told)


def _told(error: Exception) -> Exception:
    """As the parent can raise it, with the place where it came up."""
    where = f"in a process that reads clips:\n{traceback.format_exc()}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(where)
    return error


def _gone(exit_code: int | None) -> LoaderError:
    killed = " (killed, often for its memory)" if exit_code == -signal.SIGKILL else ""
    return LoaderError(
        f"a process that reads clips ended with exit code {exit_code}{killed}; the same command "
        "goes on from the last checkpoint. Fewer data.workers or data.num_lanes take less memory"
    )
