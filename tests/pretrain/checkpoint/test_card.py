"""What goes out with the weights: a model from its run's folder, and a card of what is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from huggingface_hub import ModelCard

from data_pipeline.shards import list_shards, read_shard
from pretrain.checkpoint.card import held_out_losses
from pretrain.checkpoint.folder import find_checkpoint, load_checkpoint
from pretrain.checkpoint.integrity import CheckpointError
from pretrain.cli import main
from pretrain.data.example import Limits, collate, make_example
from pretrain.data.masking import MaskingSettings
from pretrain.model.memobert import MEmoBert


@pytest.fixture(scope="module")
def run(root: Path, small: list[str], toy_folder: Path, tmp_path_factory) -> Path:
    """A run of four steps with a checkpoint at step 2 and at step 4."""
    output = tmp_path_factory.mktemp("run")
    words = ["--config", str(root / "configs/pretrain/tiny.yaml"), *small]
    words += [f"data.shards=[{toy_folder}]", f"run.output={output}", "run.device=cpu"]
    words += ["engine.kind=torch", "optim.steps=4", "optim.warmup_steps=1", "run.log_every=1"]
    assert main([*words, "run.checkpoint_every=2", "run.validate_every=2"]) == 0
    return output


def test_a_runs_folder_stands_for_its_newest_checkpoint(run: Path, tmp_path: Path) -> None:
    newest = run / "checkpoints/step-000004"
    expected = MEmoBert.from_pretrained(newest).state_dict()
    for folder in (run, str(run), run / "checkpoints"):
        found = MEmoBert.from_pretrained(folder)
        assert not found.training
        assert all(torch.equal(found.state_dict()[name], expected[name]) for name in expected)
    older = MEmoBert.from_pretrained(run / "checkpoints/step-000002").state_dict()
    assert any(not torch.equal(older[name], expected[name]) for name in expected)
    for missing in (tmp_path / "gone", "runs/no/such/run", "./gone"):
        with pytest.raises(CheckpointError, match="no folder .* of a pretraining run"):
            MEmoBert.from_pretrained(missing)
    with pytest.raises(CheckpointError, match="no config.json"):
        MEmoBert.from_pretrained(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/latest").write_text("step-000009\n")
    with pytest.raises(CheckpointError, match="which is not there"):
        MEmoBert.from_pretrained(tmp_path)


def test_a_clip_and_a_tokenizer_are_enough_for_hidden_states(run: Path, toy_folder: Path) -> None:
    """The defaults read what pretraining reads when its limits and no task are spelled out."""
    checkpoint = load_checkpoint(run)
    samples = list(read_shard(list_shards(toy_folder)[0]))
    batch = collate([make_example(sample, checkpoint.tokenizer) for sample in samples])
    spelled = [
        make_example(
            sample,
            checkpoint.tokenizer,
            Limits(),
            None,
            MaskingSettings(),
            np.random.default_rng(7),
        )
        for sample in samples
    ]
    other = collate(spelled, pad_id=checkpoint.tokenizer.pad_token_id)
    assert torch.equal(batch.text_ids_NT, other.text_ids_NT)
    speech, expected = batch.frames["speech"], other.frames["speech"]
    assert torch.equal(speech.values_NFC, expected.values_NFC)
    with torch.inference_mode():
        encoded = checkpoint.model.encode(batch)
    assert encoded.text_NTH.shape == (len(samples), batch.text_ids_NT.shape[1], 24)
    assert encoded.pooled_NH.isfinite().all()


def test_a_long_text_is_read_whole_by_default(run: Path) -> None:
    tokenizer = load_checkpoint(run).tokenizer
    sample = toys.numbered(1, text=" ".join(["bin"] * 40))
    assert len(make_example(sample, tokenizer).ids_T) == 42


def test_the_card_says_what_the_run_knows_and_travels_with_the_weights(
    run: Path, tmp_path: Path
) -> None:
    newest = find_checkpoint(run)
    text = (newest / "README.md").read_text()
    assert "More Information Needed" not in text
    losses = held_out_losses(run / "metrics.csv", 4)
    assert [name for name, *_ in losses] == ["wwmlm", "span_mvfr", "span_mvfc_kl", "span_mafr"]
    for name, start, end in losses:
        assert f"| {name} | {start:.4f} | {end:.4f} |" in text
    for known in ("toy_face", "toy_speech", "| steps | 4 of 4 |", "not known here; ask its owner"):
        assert known in text, known
    earlier = (newest.with_name("step-000002") / "README.md").read_text()
    assert "| steps | 2 of 4 |" in earlier and earlier != text
    assert ModelCard(text).data.library_name == "memobert"

    MEmoBert.from_pretrained(run).save_pretrained(tmp_path / "again")  # as push_to_hub does
    assert (tmp_path / "again/README.md").read_text() == text


def test_a_model_of_no_run_has_a_card_of_its_sizes(tmp_path: Path) -> None:
    sizes = {"vocab_size": 50, "width": 8, "num_layers": 1, "num_heads": 2, "ffn_width": 8}
    MEmoBert(**sizes, streams=[], objectives={}).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "More Information Needed" not in text and "| vocab_size | 50 |" in text
