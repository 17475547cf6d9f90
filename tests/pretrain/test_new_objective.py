"""A fifth objective, of a third stream, registered here and nowhere in the package."""

import csv
from pathlib import Path

import numpy as np
import pytest
import toys

from data_pipeline.schema import FeatureSpec
from pretrain.checkpoint.folder import load_checkpoint
from pretrain.cli import main
from pretrain.model.heads import FrameHead
from pretrain.objectives import OBJECTIVES, Objective, squared_error

SPAN_MFBR = Objective(
    name="span_mfbr",
    title="SpanMFbR",
    stream="fbank",
    target="fbank",
    loss=squared_error,
    head=FrameHead,
    weight=0.0,  # on where a config asks for it
    ratio=0.3,
)
FBANK = FeatureSpec(name="toy_fbank", weights_sha256="", layer=0, pooling=1, rate_hz=20.0, width=10)


@pytest.fixture
def shards(tmp_path) -> Path:
    """Sixteen toy clips in two shards, with a stream of another kind added to them."""
    folder = toys.write_shards(tmp_path / "shards", [toys.numbered(n) for n in range(16)], 2)
    rng = np.random.default_rng(0)

    def values_of(_) -> np.ndarray:
        """Of a level that a few steps of the head's bias get nearer to."""
        return (2 + 0.1 * rng.standard_normal((12, 10))).astype(np.float16)

    toys.add_stream(folder, FBANK, values_of)
    return folder


@pytest.fixture
def train(root, small, shards, tmp_path):
    """(name, overrides) -> rows of metrics.csv of a short run."""

    def train(name: str, *overrides: str) -> list[dict[str, str]]:
        command = [
            *("--config", str(root / "configs/pretrain/tiny.yaml")),
            *(*small, f"data.shards=[{shards}]", f"run.output={tmp_path / name}"),
            *("run.device=cpu", "engine.kind=torch", "run.log_every=1", "run.checkpoint_every=6"),
            *("optim.steps=6", "optim.warmup_steps=1", "optim.peak_learning_rate=3e-3"),
            *("data.batch_clips=8", "data.micro_batch_clips=4", "data.num_lanes=2", *overrides),
        ]
        assert main(command) == 0
        with open(tmp_path / name / "metrics.csv", newline="") as file:
            return list(csv.DictReader(file))

    return train


def test_a_fifth_objective_trains_beside_the_four(monkeypatch, train, tmp_path):
    monkeypatch.setitem(OBJECTIVES, "span_mfbr", SPAN_MFBR)
    rows = train("five", "model.streams=[face, speech, fbank]", "objectives.weights.span_mfbr=1")
    seen = [float(row["span_mfbr"]) for row in rows if row["span_mfbr"]]
    assert seen and np.isfinite(seen).all()
    held = [row for row in rows if row["split"] == "validation"]
    assert 0 < float(held[-1]["span_mfbr"]) < float(held[0]["span_mfbr"])
    checkpoint = load_checkpoint(tmp_path / "five")
    assert checkpoint.passport["fbank"] == FBANK
    assert list(checkpoint.model.frame_embeddings) == ["face", "speech", "fbank"]
    assert "span_mfbr" in checkpoint.model.heads


def test_an_added_stream_that_nobody_reads_changes_no_loss(train, shards):
    """To the bit: with the tars of the stream beside the shards, and without."""
    losses = ("step", "split", "loss", *OBJECTIVES)
    beside = [{name: row[name] for name in losses} for row in train("beside")]
    for path in shards.glob("*.fbank.*"):
        path.unlink()
    assert [{name: row[name] for name in losses} for row in train("without")] == beside
