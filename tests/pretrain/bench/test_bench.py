"""The benchmark's parts on a toy; what it measures is not asserted, what it compares is."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch

from data_pipeline.config import load_config
from data_pipeline.shards import list_shards, load_passport, read_shard
from pretrain.bench import __main__ as bench
from pretrain.bench import host, shards, start
from pretrain.bench.clips import make_clips, real_share
from pretrain.bench.ladder import ladder
from pretrain.bench.lengths import CAPPED, WHOLE, draw_lengths
from pretrain.bench.models import SIZES, Size, build
from pretrain.bench.ways import GPU_CLIPS, GPU_ROW_TOKENS, ROW_TOKENS, padded, ways, windows
from pretrain.config import DataSettings, PretrainConfig
from pretrain.data.packing import length_of
from pretrain.data.words import word_pieces
from pretrain.objectives import OBJECTIVES

TOY = Size(name="toy", width=24, layers=2, heads=2)


@pytest.fixture(scope="module")
def clips():
    return make_clips(draw_lengths(CAPPED, 24, seed=0), seed=0)


def test_lengths_are_melds():
    """Means that were counted on MELD's own tables."""
    capped, whole = draw_lengths(CAPPED, 20_000, 0), draw_lengths(WHOLE, 20_000, 0)
    assert capped.mean(0) == pytest.approx([13.1, 23.5, 40.4], rel=0.03)
    assert whole.mean(0)[0] == pytest.approx(13.9, rel=0.03)
    assert capped.max(0).tolist() == [32, 36, 64] and capped.min() >= 1
    assert whole[:, 2].max() <= 512


def test_clips_are_as_long_as_said_and_every_objective_is_asked(clips):
    lengths = draw_lengths(CAPPED, 24, seed=0)
    assert [length_of(clip) for clip in clips] == lengths.sum(1).tolist()
    assert {clip.objective for clip in clips} == set(OBJECTIVES)
    for clip in clips:
        assert len(clip.target_at_M) == len(clip.target_values) > 0


def test_every_way_has_the_same_losses_and_gradients(clips):
    """Of one batch, since each way's losses are means over its own batches."""
    found = {}
    for way in ways(batch_clips=24, row_tokens=10_000):
        model = build(TOY, dropout=0.0)
        (batch,) = way.batches(clips)
        way.step(model, [batch])
        found[way.name] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for name, grads in found.items():
        torch.testing.assert_close(grads, found["a"], rtol=1e-3, atol=1e-5, msg=f"{name} is not a")


def test_a_row_is_as_long_as_a_run_has_it_by_default():
    assert DataSettings().micro_batch_tokens == ROW_TOKENS


def test_a_step_on_a_gpu_is_the_references(root):
    data = load_config(PretrainConfig, root / "configs/pretrain/reference.yaml", []).data
    assert (data.batch_clips, data.micro_batch_tokens) == (GPU_CLIPS, GPU_ROW_TOKENS)


def test_windows_of_a_sorted_bucket_are_of_one_length():
    lengths = draw_lengths(CAPPED, 2000, seed=0)
    chosen = lengths[windows(lengths, size=20, number=5)].sum(1).reshape(5, 20)
    assert np.ptp(chosen, axis=1).max() <= 6
    assert chosen[0].max() < chosen[-1].min()


def test_the_share_of_real_positions_by_hand(clips):
    (batch,) = padded(24)(clips)
    lengths = draw_lengths(CAPPED, 24, seed=0)
    assert real_share([batch]) == pytest.approx(lengths.sum() / (24 * lengths.max(0).sum()))


def test_arithmetic_by_hand():
    """Two clips of 3 and 5 positions: products of a layer, counted one by one."""
    weights = 2 * 8 * (4 * 24 * 24 + 2 * 24 * 96)
    attention = 2 * 2 * (3 * 3 + 5 * 5) * 24
    assert TOY.flops(np.array([3, 5]), layers=2) == 3 * 2 * (weights + attention)
    assert SIZES["base"].flops(np.array([1])) == pytest.approx(6 * 85e6, rel=0.01)


def test_the_ladder_runs_and_says_what_failed(monkeypatch):
    def rows():
        return list(ladder(TOY, CAPPED, 8, 400, 1, torch.device("cpu")))

    monkeypatch.setattr("pretrain.model.encoder.Encoder.compile_layers", lambda self: None)
    assert [row.measure for row in rows() if "tokens/s" in row.measure] == [
        "padded: tokens/s",
        "padded, compiled: tokens/s",
        "packed: tokens/s",
        "packed, compiled: tokens/s",
    ]

    def full(self):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("pretrain.model.encoder.Encoder.compile_layers", full)
    assert rows()[-1].measure == "packed, compiled: failed, OutOfMemoryError"


@pytest.fixture
def toy_sizes(monkeypatch):
    """Of all that the command measures."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("small", "base"):
        monkeypatch.setitem(SIZES, name, TOY)
    monkeypatch.setattr(host, "MADE_CLIPS", 64)
    monkeypatch.setattr(start, "CLIPS", 2000)
    monkeypatch.setattr(start, "SHARDS", 20)


@pytest.mark.parametrize(
    ("part", "measures"),
    [
        ("clips", ["packed: clips/s", "packed / c, wall time"]),
        ("products", ["share, cpu time"]),
        ("growth", ["ms a step", "GFLOP/s"]),
        ("waiting", ["fetched / there, wall time"]),
        pytest.param(
            "host",
            ["clips/s of CPU time", "rate of the plain tar's, wall time"],
            marks=pytest.mark.slow,  # workers import torch for seconds
        ),
        pytest.param(
            "start", ["s, rank 0 to its index", "MB, rank 0 at its peak"], marks=pytest.mark.slow
        ),
    ],
)
def test_the_command_leaves_a_table_and_a_page(tmp_path, toy_sizes, capsys, part, measures):
    small = ["--clips", "8", "--batch-clips", "4", "--row-tokens", "700", "--repeats", "2"]
    assert bench.main([*small, "--part", part, "--csv", str(tmp_path / "deep/found.csv")]) == 0
    with open(tmp_path / "deep/found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(measures) <= {row["measure"] for row in rows}
    assert all(float(row["least"]) <= float(row["median"]) <= float(row["most"]) for row in rows)
    assert all("torch" in row["hardware"] for row in rows)
    page = capsys.readouterr().out
    assert all(f"| {measure} |" in page for measure in measures)


def test_made_shards_are_shards_of_melds_lengths(tmp_path):
    shards.make_shards(tmp_path, 24)
    tars = list_shards(tmp_path)
    samples = [sample for tar in tars for sample in read_shard(tar)]
    assert len(tars) == shards.SHARDS and load_passport(tmp_path) == shards.passport()
    lengths = draw_lengths(WHOLE, 24, seed=2)
    for sample, (pieces, faces, states) in zip(samples, lengths.tolist(), strict=True):
        ids_T, _ = word_pieces(shards.word_tokenizer(), sample.words)
        assert len(ids_T) == max(pieces, 3)
        found = [len(sample.streams[name]) for name in ("face", "face_probs", "speech")]
        assert found == [faces, faces, states]


def test_options_that_leave_nothing_are_told(capsys):
    assert bench.main(["--clips", "10", "--batch-clips", "4"]) == 2
    assert "expected whole batches" in capsys.readouterr().err


def test_it_imports_little_more_than_torch(root):
    """So that it runs on a bare machine."""
    heavy = "pydantic pandas scipy pyarrow webdataset sklearn deepspeed av matplotlib".split()
    found = f"print([m for m in {heavy} if m in sys.modules])"
    code = f"import sys, pretrain.bench.__main__; {found}"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
