"""What every test may ask for."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MEMOBERT_SHARED", ROOT.parent / "shared"))

# Two cores serve the tests; more threads than that only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

CACHE = tempfile.TemporaryDirectory(prefix="memobert-tests-")
os.environ["HF_DATASETS_CACHE"] = CACHE.name  # of data_pipeline.arrow

MARK = "MEMOBERT_TESTS"
"""In the environment of every process that a test starts, wherever it has gone from there."""
os.environ[MARK] = uuid.uuid4().hex

HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Python's own, which it starts once and ends with itself."""

ENDING_SECONDS = 30.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start launchers come first: each is a long one, and two cores should end at the
    same time."""
    launching = {item.path for item in items if item.get_closest_marker("distributed")}
    items.sort(key=lambda item: item.path not in launching)


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """A test fails that leaves a process behind; the process is ended all the same."""
    before = started_processes()
    yield
    _, left = psutil.wait_procs(started_processes() - before, timeout=ENDING_SECONDS)
    told = [f"{process.pid}: {' '.join(command_of(process))}" for process in left]
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=ENDING_SECONDS)
    assert not told, "left running by this test, and now killed:\n" + "\n".join(told)


def started_processes() -> set[psutil.Process]:
    """What this process, or what it started, has started, and what still runs of it."""
    found = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == os.environ[MARK]:
                found.add(process)
        except psutil.Error:  # another user's, or gone
            continue
    return {process for process in found if command_of(process) and not is_helper(process)}


def command_of(process: psutil.Process) -> list[str]:
    """Its words; none when it has ended, whether or not anybody has fetched its exit code."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def is_helper(process: psutil.Process) -> bool:
    return any(helper in word for helper in HELPERS for word in command_of(process))


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the project."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, speech and faces; skips where it is absent."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip(f"needs the shared data, absent at {data}; set MEMOBERT_SHARED to its parent")
    return data
