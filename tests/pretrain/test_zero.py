"""Every ZeRO stage on two ranks against plain torch on one, and training states between them all.

The ranks have clips of other objectives, other streams and other numbers of passes (zero_ranks.py).
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import zero_ranks
from zero_ranks import STAGES, batches, examples, go_on, toy_engine, train

from pretrain.model.batch import AnyBatch
from pretrain.runtime import RuntimeSettings, start

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

FP32 = {"rtol": 1e-6, "atol": 3e-7}
"""Gradients are summed in another order: a few times 2**-24 of the weights, which are below 1."""
BF16 = {"rtol": 1e-5, "atol": 1e-5}
"""A weight that differs by so little may be rounded the other way, by 2**-9 of it, in the next
pass. Three steps move a weight by 3e-3."""


def every() -> list[AnyBatch]:
    return batches(examples(0) + examples(1))


@pytest.fixture(scope="module")
def plain() -> dict[str, dict]:
    """Both ranks' passes on one, by plain torch, by precision."""
    runtimes = {p: start(RuntimeSettings(device="cpu", precision=p)) for p in ("fp32", "bf16")}
    return {p: train(toy_engine(runtime, "torch"), every()) for p, runtime in runtimes.items()}


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory) -> Path:
    """What two ranks have written, plain torch's state on one rank given to them as `one`."""
    folder = tmp_path_factory.mktemp("zero")
    (folder / "one").mkdir()
    engine = toy_engine(start(RuntimeSettings(device="cpu")), "torch")
    torch.save(train(engine, every())["weights"], folder / "one/weights.pt")
    engine.save_state(folder / "one")
    torch.save(train(engine, every()), folder / "one-straight.pt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    about |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    command = [sys.executable, zero_ranks.__file__, str(folder)]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | about | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (1, 0)
    ]
    try:
        for rank in ranks:
            told, _ = rank.communicate(timeout=500)
            assert rank.returncode == 0, told
    finally:
        for rank in ranks:
            rank.kill()
    return folder


def of_both(folder: Path, case: str) -> dict:
    """Losses of the two ranks together; the rest they must have alike."""
    mine, theirs = (torch.load(folder / f"{case}-{rank}.pt") for rank in (0, 1))
    assert mine["norms"] == theirs["norms"]
    assert all(torch.equal(w, theirs["weights"][n]) for n, w in mine["weights"].items())
    losses = [sum(pair) for pair in zip(mine["losses"], theirs["losses"], strict=True)]
    return mine | {"losses": losses}


def assert_alike(found: dict, expected: dict, rtol: float, atol: float) -> None:
    assert found["losses"] == pytest.approx(expected["losses"], rel=rtol)
    # ZeRO adds up squares in float64; torch's own sum is off by 1e-5 in the largest weight.
    assert found["norms"] == pytest.approx(expected["norms"], rel=max(rtol, 3e-5))
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=rtol, atol=atol)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_have_the_losses_and_weights_of_plain_torch(folder, plain, stage, precision):
    assert plain[precision]["losses"][-1] < plain[precision]["losses"][0]
    tolerance = FP32 if precision == "fp32" else BF16
    assert_alike(of_both(folder, f"{stage}-{precision}"), plain[precision], **tolerance)


@pytest.mark.parametrize(
    "case",
    ["2-padded", "3-padded", "3-small-whole", "1-overlap", "2-overlap", "3-overlap"],
)
def test_so_they_have_in_other_layouts_and_orders(folder, plain, case):
    assert_alike(of_both(folder, case), plain["fp32"], **FP32)


def test_recomputed_layers_of_split_weights_drop_the_same(folder):
    kept, again = (of_both(folder, f"3-dropout-{recompute}") for recompute in (False, True))
    assert_alike(again, kept, rtol=0, atol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_state_goes_on_to_the_bit_at_its_stage(folder, stage):
    straight = of_both(folder, f"{stage}-fp32-straight")
    assert_alike(of_both(folder, f"{stage}-to-{stage}"), straight, rtol=0, atol=0)


@pytest.mark.parametrize("target", STAGES)
@pytest.mark.parametrize("source", [*STAGES, "one"])
def test_a_state_goes_on_at_another_stage_and_number_of_ranks(folder, source, target):
    straight = torch.load(folder / "one-straight.pt")
    assert_alike(of_both(folder, f"{source}-to-{target}"), straight, **FP32)


@pytest.mark.parametrize("source", STAGES)
def test_a_state_of_two_ranks_goes_on_in_plain_torch_on_one(folder, source):
    engine = toy_engine(start(RuntimeSettings(device="cpu")), "torch")
    found = go_on(engine, folder / str(source), every())
    assert_alike(found, torch.load(folder / "one-straight.pt"), **FP32)
