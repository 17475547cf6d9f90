"""Worker processes that turn clips into extractions, and outlive clips that kill them.

One bad file can end a process from inside a native decoder, or make the kernel end it for its
memory. So clips go one by one, over a pipe, to spawned processes; a process that dies, or says
nothing for too long, is replaced, and its clip is tried again while no other runs. A clip that
goes down with its process every time comes back as a Reject. After an error of the GPU a process
ends itself: the memory it had may be another's, and after some errors each further call fails too.
"""

import collections
import faulthandler
import itertools
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from data_pipeline.errors import UserError
from data_pipeline.runs.spawned import end_with_parent, start_without_main
from data_pipeline.schema import Clip, ClipSample, Passport, Reject

log = logging.getLogger(__name__)

HOPELESS = 10
"""So many clips lost in the same way before one went well: the run stops, it is not the clips."""


LOADING_TIMEOUT_SECONDS = 1800.0
"""A worker that has not loaded its encoders by then is ended."""


LONGEST_WAIT_SECONDS = 3600.0
"""At once; the system takes no wait of years, which a generous clip_timeout_seconds asks for."""


class ExtractionError(UserError):
    """What ends a run, as against one clip."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What the report page shows of a clip."""

    about: dict[str, Any]
    """JSON: tracks, voice, waveform; see data_pipeline.extraction.preview."""
    frames: list[bytes]
    """JPEG files."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """All that came of one clip: exactly one of `sample` and `reject`."""

    sample: ClipSample | None = None
    reject: Reject | None = None
    preview: Preview | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage to the wall-clock seconds spent in it."""
    media_seconds: float = 0.0
    """Length of the clip; 0 if it could not be opened."""
    notes: list[str] = field(default_factory=list)
    """What was odd about its file, in sentences."""


_OF_THE_GPU = re.compile(r"CUDA (driver )?error|CUDA out of memory|CU[A-Z]+_STATUS_|cuDNN error")


def is_gpu_error(error: Exception) -> bool:
    """Whether it says more of the GPU, or of who else is on it, than of the clip at hand.

    By name, as torch takes seconds to import: AcceleratorError is any error of CUDA's from torch
    2.8 on, and libraries under it raise a RuntimeError.
    """
    if type(error).__name__ in ("AcceleratorError", "OutOfMemoryError"):
        return True
    return isinstance(error, RuntimeError) and bool(_OF_THE_GPU.search(str(error)))


class Extractor(Protocol):
    """What a worker loads once and calls for every clip. It keeps its own exceptions but for those
    of the GPU, see `is_gpu_error`."""

    passport: Passport
    versions: dict[str, str]

    def __call__(self, clip: Clip, *, preview: bool = False) -> Extraction: ...


@dataclass(eq=False)
class _Worker:
    number: int
    process: multiprocessing.process.BaseProcess
    connection: multiprocessing.connection.Connection
    job: tuple[int, Clip, bool] | None = None
    ready: bool = False
    since: float = field(default_factory=time.monotonic)
    overdue: bool = False
    fault: str = ""
    """Why it is about to end itself."""


class WorkerPool:
    """A few processes, each with its own extractor.

    with WorkerPool(make_extractor, num_workers=2) as pool:
        pool.start()                      # pool.passport, pool.versions are known now
        for number, extraction in pool.run([(0, clip, False), ...]):
            ...                           # in the order in which they are done

    make_extractor(worker number) is called inside each process; it has to be picklable: a function
    of a module, or functools.partial of one.
    """

    def __init__(
        self,
        make_extractor: Callable[[int], Extractor],
        *,
        num_workers: int,
        attempts: int = 3,
        clip_timeout_seconds: float = 600.0,
    ) -> None:
        self.make_extractor = make_extractor
        self.num_workers = num_workers
        self.attempts = attempts
        self.clip_timeout_seconds = clip_timeout_seconds
        self.passport: Passport | None = None
        self.versions: dict[str, str] = {}
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._unready_deaths = 0

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes. Nothing is lost by force: they write no files."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._workers = []

    def start(self, num_jobs: int = 1) -> None:
        """Start as many workers as so many jobs can use; wait until one has loaded its encoders."""
        for _ in range(max(1, min(self.num_workers, num_jobs))):
            self._spawn()
        while self.passport is None:
            self._listen()

    def run(self, jobs: Iterable[tuple[int, Clip, bool]]) -> Iterator[tuple[int, Extraction]]:
        """(number, clip, preview) in, (number, extraction) out, each exactly once."""
        queue = collections.deque(jobs)
        suspects: collections.deque[tuple[int, Clip, bool]] = collections.deque()
        deaths: collections.Counter[int] = collections.Counter()
        any_done = False
        for _ in range(min(self.num_workers, len(queue)) - len(self._workers)):
            self._spawn()
        while queue or suspects or self._busy():
            self._hand_out(queue, suspects)
            for worker, extraction, cause in self._listen():
                number, clip, preview = worker.job
                worker.job = None
                if extraction is not None:
                    any_done = True
                    yield number, extraction
                    continue
                deaths[number] += 1
                log.warning("%s: %s (%d of %d)", clip.id, cause, deaths[number], self.attempts)
                if not any_done and len(deaths) >= HOPELESS:
                    raise ExtractionError(
                        f"the first {len(deaths)} clips each ended their worker process, the last "
                        f"one so: {cause}. Try workers=1, and python -m data_pipeline.doctor"
                    )
                if deaths[number] < self.attempts:
                    suspects.append((number, clip, preview))
                else:
                    detail = f"{cause}, in each of {self.attempts} attempts; look at {clip.video}"
                    reject = Reject(clip=clip.id, stage="worker", reason="crashed", detail=detail)
                    yield number, Extraction(reject=reject)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.job is not None]

    def _hand_out(self, queue: collections.deque, suspects: collections.deque) -> None:
        for worker in [w for w in self._workers if w.ready and w.job is None]:
            if queue:
                job = queue.popleft()
            elif suspects and not self._busy():
                job = suspects.popleft()  # alone, so that it cannot fall for a neighbour's memory
            else:
                return
            try:
                worker.connection.send(job[1:])
            except BrokenPipeError:  # it died idle; _listen sees that
                queue.appendleft(job)
                continue
            worker.job, worker.since = job, time.monotonic()

    def _listen(self) -> list[tuple[_Worker, Extraction | None, str]]:
        """Wait for news; return what became of jobs: an extraction, or the cause of a death."""
        now = time.monotonic()
        due = [w.since + self._patience(w) - now for w in self._workers]
        by_connection = {worker.connection: worker for worker in self._workers}
        news = []
        timeout = max(0.0, min([*due, LONGEST_WAIT_SECONDS]))
        for connection in multiprocessing.connection.wait(list(by_connection), timeout):
            worker = by_connection[connection]
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):
                news += self._bury(worker)
                continue
            if kind == "failed":
                raise ExtractionError(content)
            if kind == "fault":
                worker.fault = content  # the end of its pipe follows
            elif kind == "ready":
                worker.ready = True
                self._unready_deaths = 0
                self.passport, self.versions = content
            else:
                news.append((worker, content, ""))
        for worker in self._workers:
            if time.monotonic() - worker.since > self._patience(worker):
                worker.overdue = True
                worker.process.kill()  # heard as the end of its pipe at the next _listen
                worker.since = time.monotonic()
        return news

    def _patience(self, worker: _Worker) -> float:
        """Seconds that this worker may keep silent."""
        if not worker.ready:
            return LOADING_TIMEOUT_SECONDS
        return math.inf if worker.job is None else self.clip_timeout_seconds

    def _bury(self, worker: _Worker) -> list[tuple[_Worker, None, str]]:
        """Replace a dead worker; say why it died if it had a job."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        code = worker.process.exitcode
        cause = f"its worker process ended with exit code {code}"
        if worker.overdue:
            limit = self.clip_timeout_seconds if worker.ready else LOADING_TIMEOUT_SECONDS
            cause = f"no result within {limit:g} s (clip_timeout_seconds)"
        elif worker.fault:
            cause = f"its worker process ended itself after an error of the GPU, {worker.fault}"
        elif code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = " (often: out of memory)" if name == "SIGKILL" else ""
            cause = f"its worker process was ended by {name}{hint}"
        if not worker.ready:
            self._unready_deaths += 1
            if self._unready_deaths >= self.attempts:
                raise ExtractionError(
                    f"workers do not get as far as loading the encoders; the last one: {cause}. "
                    "Try workers=1, and python -m data_pipeline.doctor"
                )
        self._spawn()
        return [(worker, None, cause)] if worker.job is not None else []

    def _spawn(self) -> None:
        ours, theirs = self._context.Pipe()
        taken = {worker.number for worker in self._workers}
        number = next(n for n in itertools.count() if n not in taken)
        process = self._context.Process(
            target=_serve, args=(self.make_extractor, theirs, number), daemon=True
        )
        start_without_main(process, self.make_extractor)
        theirs.close()  # so that the death of the process ends the pipe
        self._workers.append(_Worker(number=number, process=process, connection=ours))


def _serve(
    make_extractor: Callable[[int], Extractor],
    connection: multiprocessing.connection.Connection,
    number: int,
) -> None:
    """A worker's life: load, then clips until the pipe ends, or the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # Libraries make locks, as tqdm does for a bar that is never shown. Under "spawn" such a lock
    # keeps its name until its process ends in order, which a worker does not; under "fork" it has
    # none. A worker starts no processes, so nothing else depends on this.
    multiprocessing.set_start_method("fork", force=True)
    faulthandler.enable()
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        extractor = None
        try:
            extractor = make_extractor(number)
            connection.send(("ready", (extractor.passport, extractor.versions)))
            while True:
                clip, preview = connection.recv()
                connection.send(("done", extractor(clip, preview=preview)))
        except Exception as error:
            if is_gpu_error(error):
                connection.send(("fault", f"{type(error).__name__}: {error}"))
                os._exit(1)  # in order it could hang, in the driver
            if extractor is not None:
                raise
            log.debug("loading failed", exc_info=True)
            connection.send(("failed", f"cannot load: {type(error).__name__}: {error}"))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # no parent to report to, and nothing of ours on disk
