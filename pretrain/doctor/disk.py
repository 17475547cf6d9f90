"""What the disk of run.output does between nodes: writes seen, renames whole, flushes, locks.

The leader writes into a folder of its own, beside where the run will write, and the others look.
The folder is removed again, whatever happens.
"""

import contextlib
import fcntl
import functools
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from data_pipeline.doctor import Finding
from data_pipeline.files.atomic import atomic_file
from pretrain.doctor.facts import nearest
from pretrain.doctor.meeting import POLL_SECONDS, Meeting

SEEN_SECONDS = 30.0
"""How long a rank looks for what another one wrote: caches of network disks keep names as long."""
SLOW_SECONDS, SLOW_FLUSH_MS = 5.0, 1000.0
"""Of a write to be seen, and of a small file to be flushed; longer is a warning."""
FLUSHES = 5
FIRST, SECOND = b"first " * 700, b"second " * 900
"""Of more than a block, and of two lengths."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """By one rank."""

    host: str
    written_after: float | None
    """Seconds until a new file was seen; None where it never was."""
    replaced_after: float | None
    """The same of a file that was renamed over it."""
    torn: str
    """What else was read meanwhile than either file whole; empty for nothing."""
    lock: str
    """What came of locking a file that the leader had locked: `refused`, as it should be, `given`,
    or the system's words."""
    flush_ms: float
    """Of a small file with its name, by the leader; 0 of other ranks."""


def probe(meeting: Meeting, host: str, output: Path) -> list[Seen]:
    """What each rank saw. Raises MeetingError when the leader cannot write, or a rank is silent."""
    with contextlib.ExitStack() as closing:
        place = meeting.from_leader("folder", lambda: closing.enter_context(_folder(output)))
        file, lock = Path(place) / "file", Path(place) / "lock"
        flush_ms = meeting.from_leader("flush", lambda: _flush_ms(Path(place) / "flushed"))
        times, torn = [], ""
        for name, old, new in (("write", None, FIRST), ("replace", FIRST, SECOND)):
            meeting.gather(f"before {name}", _read(file) is not None)  # as a cache would keep it
            write = functools.partial(_write, file, new)
            if meeting.leads:
                meeting.from_leader(name, write)
            after, other = _watch(meeting, name, file, (old, new))
            if not meeting.leads:
                meeting.from_leader(name, write)  # raises where it could not
            times.append(after)
            torn = torn or other
            meeting.gather(f"after {name}", True)
        meeting.from_leader("lock", lambda: closing.enter_context(_locked(lock)))
        seen = Seen(
            host=host,
            written_after=times[0],
            replaced_after=times[1],
            torn=torn,
            lock=_try_lock(lock),
            flush_ms=flush_ms if meeting.leads else 0.0,
        )
        return [Seen(**found) for found in meeting.gather("disk", asdict(seen))]


def check_disk(seen: list[Seen], output: str) -> Iterator[Finding]:
    """Of what each rank saw, the leader first."""
    leader, hosts = seen[0].host, list(dict.fromkeys(s.host for s in seen))
    blind = _hosts(s for s in seen if s.written_after is None or s.replaced_after is None)
    late = max((s.written_after or 0.0, s.replaced_after or 0.0) for s in seen)
    if blind:
        yield _finding(
            "error",
            f"{blind} did not see within {SEEN_SECONDS:g} s what {leader} wrote beside {output}",
            "run.output must lie on a disk that all nodes share",
        )
    elif len(hosts) > 1:
        yield _finding(
            "warning" if max(late) > SLOW_SECONDS else "ok",
            f"disk of {output}: what {leader} writes is seen by all {len(hosts)} nodes, a new file "
            f"after {max(s.written_after for s in seen):.2f} s, a file renamed over another after "
            f"{max(s.replaced_after for s in seen):.2f} s",
            "a disk with shorter caches" if max(late) > SLOW_SECONDS else "",
        )
    else:
        what = f"disk of {output}: written, renamed and read on {leader}, the only node"
        yield _finding("ok", what)
    for torn in [s for s in seen if s.torn and s.host not in blind.split(", ")]:
        yield _finding(
            "error",
            f"{torn.host} read {torn.torn} while {leader} renamed a file over another; expected "
            "one or the other, whole",
            "another disk for run.output, or another way to mount it",
        )
    yield from _check_locks(seen, leader)
    slow = seen[0].flush_ms > SLOW_FLUSH_MS
    yield _finding(
        "warning" if slow else "ok",
        f"a small file is on the disk after {seen[0].flush_ms:.1f} ms (fsync), median of {FLUSHES}",
        "a checkpoint flushes some 20 files; raise run.checkpoint_every" if slow else "",
    )


def check_room(free: int, checkpoint: int, keep: int, there: int, output: str) -> Finding:
    """Whether the checkpoints fit: one is written before the oldest of `keep` goes.

    free, checkpoint: bytes. there: how many of them the output holds already.
    """
    more = max(1, keep + 1 - there)
    what = (
        f"{more} more checkpoint{'s' * (more > 1)} of about {checkpoint / 1e6:,.0f} MB, "
        f"{free / 1e6:,.0f} MB free at {output}"
    )
    if more * checkpoint > free:
        return _finding("error", what, f"make room, or lower run.keep_checkpoints={keep}")
    return _finding("ok", what)


def _check_locks(seen: list[Seen], leader: str) -> Iterator[Finding]:
    seen = [s for s in seen if s.written_after is not None]  # the others were told above
    given = _hosts(s for s in seen if s.lock == "given")
    without = {s.lock: s.host for s in seen if s.lock not in ("given", "refused")}
    means = "two runs in one folder will not be noticed: let no other run write to this run.output"
    if given:
        yield _finding("warning", f"{given} could lock a file that {leader} holds locked", means)
    for words, host in without.items():
        yield _finding("warning", f"no locks on this disk, says {host}: {words}", means)
    if not given and not without:
        yield _finding("ok", f"a lock of {leader} holds on {_hosts(seen)}")


@contextlib.contextmanager
def _folder(output: Path) -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix=".doctor-", dir=nearest(output))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flush_ms(path: Path) -> float:
    times = []
    for _ in range(FLUSHES):
        begin = time.perf_counter()
        _write(path, FIRST)
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def _write(path: Path, data: bytes) -> None:
    with atomic_file(path) as file:
        file.write(data)


def _watch(
    meeting: Meeting, name: str, path: Path, expected: tuple[bytes | None, bytes]
) -> tuple[float | None, str]:
    """(seconds from when the leader is done until the new bytes are seen, or None; what else)."""
    told, torn = None, ""
    while True:
        found = _read(path)
        if told is None and meeting.is_told(name):
            told = time.monotonic()
        if isinstance(found, str) or found not in expected:
            torn = found if isinstance(found, str) else f"{len(found or b'')} bytes of another file"
        elif told is not None and found == expected[1]:
            return time.monotonic() - told, torn
        if told is not None and time.monotonic() - told > SEEN_SECONDS:
            return None, torn
        time.sleep(POLL_SECONDS)


def _read(path: Path) -> bytes | str | None:
    """Its bytes, None where there is no such name, or the system's words."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:  # such as a stale handle
        return str(error.strerror or error)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[str]:
    """`held` while it is; the system's words where there are no locks."""
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield str(error)
        else:
            yield "held"


def _try_lock(path: Path) -> str:
    try:
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "refused"
    except OSError as error:
        return str(error.strerror or error)
    return "given"


def _hosts(seen: Iterable[Seen]) -> str:
    return ", ".join(dict.fromkeys(s.host for s in seen))


def _finding(level: Literal["ok", "warning", "error"], what: str, fix: str = "") -> Finding:
    return Finding(level=level, what=what, fix=fix)
