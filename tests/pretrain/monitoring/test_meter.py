import dataclasses

import pytest
import torch

from pretrain.monitoring.meter import AMOUNTS, Meter
from pretrain.objectives import OBJECTIVES
from pretrain.runtime import RuntimeSettings, start

RUNTIME = RuntimeSettings(device="cpu")


def new(runtime=None) -> Meter:
    """A step's arithmetic is its tokens and a tenth of its squares."""
    return Meter(runtime or start(RUNTIME), 1.0, lambda tokens, squares: tokens + squares / 10)


@pytest.fixture
def meter() -> Meter:
    return new()


def amounts(*numbers: int) -> dict[str, int]:
    return dict(zip(AMOUNTS, numbers, strict=True))


def norm(value: float) -> torch.Tensor:
    return torch.tensor(value)


def test_objectives_are_sums_over_counts_and_the_loss_a_mean_over_steps(meter):
    """Two steps, the first of two micro-batches."""
    meter.add_loss(torch.tensor(0.5), {"wwmlm": torch.tensor(6.0)})
    meter.add_loss(torch.tensor(1.5), {"wwmlm": torch.tensor(10.0)})
    meter.add_step({"wwmlm": 4, "span_mafr": 0}, amounts(8, 100, 100, 900), norm(0.5))
    meter.add_loss(torch.tensor(4.0), {"span_mafr": torch.tensor(12.0)})
    meter.add_step({"wwmlm": 0, "span_mafr": 6}, amounts(8, 50, 100, 100), norm(2.5))
    row = meter.read()
    assert (row["loss"], row["wwmlm"], row["span_mafr"]) == (3.0, 4.0, 2.0)
    assert "span_mvfr" not in row
    assert row["tokens_per_second"] == pytest.approx(row["clips_per_second"] * 150 / 16)
    assert row["gflops_per_second"] * 1e9 == pytest.approx(row["clips_per_second"] * 250 / 16)
    assert (row["grad_norm"], row["grad_norm_max"], row["clipped_share"]) == (1.5, 2.5, 0.5)
    assert row["packing"] == 0.75
    meter.add_step({}, amounts(1, 1, 1, 1), norm(0.0))
    again = meter.read()
    assert (again["loss"], again["grad_norm_max"], again["clipped_share"]) == (0, 0, 0)  # anew


def test_a_gradient_that_is_no_number_shows(meter):
    for value in (1.0, float("nan"), 2.0):
        meter.add_step({}, amounts(1, 1, 1, 1), norm(value))
    row = meter.read()
    assert row["grad_norm"] != row["grad_norm"] and row["grad_norm_max"] != row["grad_norm_max"]


def test_the_share_of_the_peak_needs_a_card_of_the_table(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H100 PCIe")
    two_cards = dataclasses.replace(start(RUNTIME), world_size=2, dtype=torch.bfloat16)
    on_gpu = dataclasses.replace(two_cards, device=torch.device("cuda", 0))
    monkeypatch.setattr(Meter, "reset", lambda self: None)
    assert new(on_gpu)._peak == 2 * 756e12
    assert new(two_cards)._peak is None
    assert new(dataclasses.replace(on_gpu, dtype=torch.float32))._peak is None


def test_the_share_is_of_the_peak(meter):
    meter.add_step({}, amounts(1, 10, 10, 100), norm(0.0))
    meter._peak = 4e9
    row = meter.read()
    assert row["mfu"] == pytest.approx(row["gflops_per_second"] / 4)


def test_a_line_that_a_checkpoint_cuts_is_the_same(meter):
    """To the bit, by way of JSON's numbers."""

    def step(meter: Meter, number: int) -> None:
        sums = {name: torch.tensor(0.1 * number) for name in OBJECTIVES}
        meter.add_loss(torch.tensor(0.3 * number), sums)
        meter.add_step(dict.fromkeys(OBJECTIVES, 3), amounts(2, 7, 9, 25), norm(0.7 * number))

    cut = new()
    for number in (1, 2, 3):
        step(meter, number)
        step(cut, number)
        state = cut.state()
        cut = new()
        cut.go_on_from(state)
    timed = {"clips_per_second", "tokens_per_second", "gflops_per_second", "memory_gb"}
    expected, found = ({n: v for n, v in m.read().items() if n not in timed} for m in (meter, cut))
    assert found == expected


def test_the_state_of_an_older_meter_is_left(meter):
    meter.go_on_from({"sums": [1.0] * 5, "counts": {}, "amounts": [3, 4, 5], "seconds": 9.0})
    meter.add_step({}, amounts(1, 1, 1, 1), norm(0.0))
    assert meter.read()["loss"] == 0
