"""Clips read by processes of their own: the same steps, and no process that outlives its use."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types

import psutil
import pytest
import torch
import toys

from data_pipeline.shards import ShardError
from pretrain.config import DataSettings
from pretrain.data.loader import LoaderError
from pretrain.data.packing import Rows
from pretrain.run import num_workers

from .test_loader import same

slow = pytest.mark.slow  # a process imports torch for seconds


def steps(loader, count):
    return [loader.next_step() for _ in range(count)]


@slow
@pytest.mark.parametrize(("mixing", "rows"), [("step", None), ("clip", Rows(tokens=600, clips=5))])
def test_steps_are_those_without_workers_and_so_is_the_way_back(build, mixing, rows):
    alone = build(mixing=mixing, rows=rows)
    expected = steps(alone, 13)
    loader = build(mixing=mixing, rows=rows, workers=3, prefetch_steps=2)
    first = steps(loader, 7)
    again = build(mixing=mixing, rows=rows, workers=1, prefetch_steps=0)
    again.load_state_dict(loader.state_dict())
    for found, step in zip([*first, *steps(again, 6)], expected, strict=True):
        assert same(found.batches, step.batches)
        assert (found.num_tokens, found.dropped) == (step.num_tokens, step.dropped)
    places = [x.state_dict()["places_L2"].tolist() for x in (alone, again)]
    assert places[0] == places[1]


@slow
def test_more_workers_than_lanes_are_not_started(build):
    loader = build(workers=9, rank=1, world_size=2)
    before = set(multiprocessing.active_children())
    loader.next_step()
    assert len(set(multiprocessing.active_children()) - before) == len(loader.lanes) == 2
    loader.close()
    assert set(multiprocessing.active_children()) == before


@slow
def test_a_worker_that_is_killed_ends_the_run_with_a_message(build):
    before = set(multiprocessing.active_children())
    loader = build(workers=2, prefetch_steps=1)
    loader.next_step()
    worker = (set(multiprocessing.active_children()) - before).pop()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(
        LoaderError, match="exit code -9 .killed, often for its memory.*data.workers"
    ):
        steps(loader, 20)


@slow
def test_closed_with_steps_that_were_not_fetched_thread_and_workers_have_ended(build):
    """What a worker told before it was ended is still in its socket, and must not be waited on."""
    before = set(multiprocessing.active_children())
    loader = build(workers=1, prefetch_steps=1)
    loader.next_step()
    thread = next(t for t in threading.enumerate() if t.name == "loader")
    thread.join(1)  # it waits for room, and the worker to be asked
    loader.close()
    assert not thread.is_alive() and set(multiprocessing.active_children()) == before
    with pytest.raises(RuntimeError, match="closed"):
        loader.next_step()


@slow
def test_what_asks_a_run_to_stop_is_not_for_its_workers(build):
    before = set(multiprocessing.active_children())
    loader = build(workers=1)
    loader.next_step()
    (worker,) = set(multiprocessing.active_children()) - before
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        os.kill(worker.pid, number)
    steps(loader, 5)
    assert worker.is_alive()


@slow
def test_an_altered_shard_stops_the_run_with_the_same_message(build, tmp_path):
    folder = toys.write_shards(tmp_path / "s", [toys.numbered(n) for n in range(8)], 2)
    with open(folder / "000001.tar", "r+b") as tar:
        tar.seek(2000)
        tar.write(b"!")
    loader = build(folder, workers=2, prefetch_steps=2)
    with pytest.raises(ShardError, match=r"000001\.tar.*altered"):
        steps(loader, 2)


RUN = """
import os, signal, sys
from transformers import AutoTokenizer
from pretrain.data.clip_index import build_index
from pretrain.data.example import Limits
from pretrain.data.loader import Loader
from pretrain.data.manifests import read_manifests
from pretrain.data.masking import MaskingSettings

folder, tokenizer = sys.argv[1:]
loader = Loader(
    build_index(read_manifests([folder]).shards[folder]),
    tokenizer=AutoTokenizer.from_pretrained(tokenizer),
    limits=Limits(), masking=MaskingSettings(), batch_clips=8, micro_batch_clips=8, num_lanes=4,
    weights={"wwmlm": 1.0}, mixing="clip", seed=1, workers=2,
)
loader.next_step()
print(*[process.pid for process in loader._workers._processes], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@slow
def test_a_run_that_is_killed_leaves_no_worker(build, tmp_path):
    """Workers find out by themselves: nobody is there to end them."""
    run = tmp_path / "run.py"
    run.write_text(RUN)
    like = build()
    folder, tokenizer = like.clips.folders[0], tmp_path / "tokenizer"
    like.tokenizer.save_pretrained(tokenizer)
    command = [sys.executable, str(run), folder, str(tokenizer)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    workers = [int(word) for word in done.stdout.split()]
    assert done.returncode == -signal.SIGKILL and len(workers) == 2, done.stderr
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, workers))


def test_the_thread_that_pins_takes_its_own_gpu(build, monkeypatch):
    """One that never chose would make a context on GPU 0, for every rank of the machine."""
    seen = []
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    loader = build(prefetch_steps=1, pin_for=torch.device("cuda", 3))
    loader.next_step()
    assert seen == [torch.device("cuda", 3)]


@pytest.mark.parametrize(
    ("device", "said", "cores", "gpus", "ranks", "expected"),
    [
        ("cpu", None, 64, 0, 1, 0),
        ("cpu", 3, 1, 0, 1, 3),
        ("cuda", None, 64, 8, 8, 4),
        ("cuda", None, 16, 8, 16, 1),  # two machines: 8 ranks share the cores of one
        ("cuda", None, 8, 1, 8, 4),  # a task with a GPU and cores of its own
        ("cuda", None, 1, 1, 1, 0),
        ("cuda", 0, 64, 8, 8, 0),
    ],
)
def test_how_many_workers_a_rank_has(monkeypatch, device, said, cores, gpus, ranks, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    runtime = types.SimpleNamespace(device=torch.device(device), world_size=ranks)
    assert num_workers(DataSettings(workers=said), runtime) == expected
