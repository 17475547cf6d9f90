import csv

import pytest
import torch

from pretrain.metrics import Meter, MetricsFile, columns, describe
from pretrain.runtime import RuntimeSettings, start


@pytest.fixture
def meter():
    return Meter(start(RuntimeSettings(device="cpu")))


def test_objectives_are_sums_over_counts_and_the_loss_a_mean_over_steps(meter):
    """Two steps, the first of two micro-batches."""
    meter.add_loss(torch.tensor(0.5), {"wwmlm": torch.tensor(6.0)})
    meter.add_loss(torch.tensor(1.5), {"wwmlm": torch.tensor(10.0)})
    meter.add_step({"wwmlm": 4, "span_mafr": 0}, clips=8, tokens=100)
    meter.add_loss(torch.tensor(4.0), {"span_mafr": torch.tensor(12.0)})
    meter.add_step({"wwmlm": 0, "span_mafr": 6}, clips=8, tokens=50)
    row = meter.read()
    assert (row["loss"], row["wwmlm"], row["span_mafr"]) == (3.0, 4.0, 2.0)
    assert "span_mvfr" not in row
    assert row["tokens_per_second"] == pytest.approx(row["clips_per_second"] * 150 / 16)
    meter.add_step({}, clips=1, tokens=1)
    assert meter.read()["loss"] == 0  # reading starts anew


def read(folder) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_run_drops_the_rows_it_will_write_again(tmp_path):
    metrics = MetricsFile(tmp_path, 0, tensorboard=False)
    for step in (1, 2, 3):
        metrics.write(step, "train", {"loss": 0.1 + 0.2, "memory_gb": 1.0})
    metrics.write(3, "validation", {"wwmlm": 2.5})
    with open(metrics.path, "a") as file:
        file.write("4,train,0.")  # killed here
    MetricsFile(tmp_path, 3, tensorboard=False).write(4, "train", {"loss": 1.0})
    rows = read(tmp_path)
    assert list(rows[0]) == columns()
    assert [(row["step"], row["split"]) for row in rows] == [
        ("1", "train"),
        ("2", "train"),
        ("3", "train"),
        ("3", "validation"),
        ("4", "train"),
    ]
    assert float(rows[0]["loss"]) == 0.1 + 0.2  # every digit
    MetricsFile(tmp_path, 0, tensorboard=False)
    assert read(tmp_path) == []  # a run from the start owns the file


def test_a_line_of_the_log_reads_as_one():
    row = {
        "loss": 3.4123,
        "wwmlm": 2.71,
        "span_mafr": 0.38,
        "clips_per_second": 640.4,
        "tokens_per_second": 52_000,
        "learning_rate": 5e-5,
        "memory_gb": 31.2,
    }
    assert describe(1200, row) == (
        "step 1200 | loss 3.412 | wwmlm 2.7100 mafr 0.3800 | 640 clips/s | 52k tok/s | "
        "lr 5.00e-05 | 31.2 GB"
    )


@pytest.mark.parametrize(("last_step", "expected"), [(0, [0, 1, 2]), (1, [0, 1, 2])])
def test_tensorboard_has_each_step_once_after_a_restart(tmp_path, last_step, expected):
    """From the start anew, and from step 1, which itself is kept."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsFile(tmp_path, 0, tensorboard=True) as metrics:
        for step in (0, 1, 2):
            metrics.write(step, "validation", {"loss": 1.0})
    with MetricsFile(tmp_path, last_step, tensorboard=True) as metrics:
        for step in expected[last_step + 1 if last_step else 0 :]:
            metrics.write(step, "validation", {"loss": 2.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    drawn = events.Scalars("validation/loss")
    assert [point.step for point in drawn] == expected
    assert [point.value for point in drawn] == [
        1.0 if step <= last_step and last_step else 2.0 for step in expected
    ]
