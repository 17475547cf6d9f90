"""What every test may ask for."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MEMOBERT_SHARED", ROOT.parent / "shared"))

# Two cores serve the tests; more threads than that only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


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
