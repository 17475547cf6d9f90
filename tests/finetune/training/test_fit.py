"""Training on toy clips: it learns a signal, no signal leaves it at chance, a leak shows."""

import dataclasses
import functools
import logging

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from finetune.clips.prompt import Prompt, Verbalizer
from finetune.clips.reader import ClipReader, modality_cases
from finetune.config import OptimConfig, TrainSettings
from finetune.heads.linear import LinearHead
from finetune.heads.prompt import PromptHead
from finetune.metrics import score
from finetune.training.classifier import Classifier
from finetune.training.fit import Examples, FitError, fit
from finetune.training.sampling import balanced_batches, shuffled_batches
from pretrain.checkpoint.folder import load_checkpoint
from pretrain.data.example import Limits, collate

from ..conftest import EMOTIONS, make_clips

LOG = logging.getLogger("test")


def encode(tokenizer, clips, labels, *, prompt=False, cases="full"):
    frames = {"face": None, "speech": None}
    limits = Limits(text=20, frames=frames, max_text_positions=48, max_frame_positions=40)
    asked = Prompt("{text} I am [MASK] .", tokenizer) if prompt else None
    reader = ClipReader(tokenizer, limits, prompt=asked)
    modalities = modality_cases(("text", "face", "speech"), cases)
    return Examples(
        cases_KN=[[reader(clip, case) for clip in clips] for case in modalities],
        label_N=np.array(labels, dtype=np.int64),
    )


def classifier(checkpoint, *, prompt=False):
    loaded = load_checkpoint(checkpoint)
    torch.manual_seed(0)
    if prompt:
        verbalizer = Verbalizer.build(EMOTIONS, {}, loaded.tokenizer)
        return Classifier(loaded.model, PromptHead(loaded.model, verbalizer))
    return Classifier(loaded.model, LinearHead(16, len(EMOTIONS)))


def train(model, train, test, *, dev=None, steps=60, rate=1e-2, selection="last", **settings):
    return fit(
        model,
        train=train,
        dev=dev or test,
        test=test,
        collate=functools.partial(collate, pad_id=0),
        num_classes=len(EMOTIONS),
        plan=TrainSettings(
            num_steps=steps, learning_rate=rate, patience=settings.pop("patience", None)
        ),
        optim=OptimConfig(batch_size=16),
        selection=selection,
        eval_every_steps=settings.pop("every", steps),
        seed=1,
        accelerator=Accelerator(),
        log=LOG,
        **settings,
    )


def ua(fit, test):
    return score(test.label_N, fit.test.prediction_N, len(EMOTIONS)).ua


def parts(clips, labels=None):
    """Clips of the first four speakers and of the last two."""
    labels = [EMOTIONS.index(c.meta["label"]) for c in clips] if labels is None else labels
    first = [int(c.meta["speaker"]) < 4 for c in clips]
    return [
        ([c for c, f in zip(clips, first, strict=True) if f == side],
         [y for y, f in zip(labels, first, strict=True) if f == side])
        for side in (True, False)
    ]  # fmt: skip


@pytest.mark.parametrize("prompt", [False, True])
def test_a_signal_is_learned_across_speakers(tokenizer, checkpoint, prompt):
    clips = make_clips(num_speakers=6, per_speaker=16, signal=1.5)
    learn, judge = (encode(tokenizer, *part, prompt=prompt) for part in parts(clips))
    assert ua(train(classifier(checkpoint, prompt=prompt), learn, judge), judge) > 0.8


def test_random_labels_are_at_chance_until_the_test_clips_leak_into_training(tokenizer, checkpoint):
    clips = make_clips(num_speakers=6, per_speaker=10, signal=1.5)
    random = np.random.default_rng(7).permutation([i % 4 for i in range(len(clips))]).tolist()
    learn, judge = (encode(tokenizer, *part) for part in parts(clips, random))
    # 20 clips of four classes: a standard error of 0.1 around 0.25.
    assert ua(train(classifier(checkpoint), learn, judge, steps=100), judge) < 0.5
    everything = encode(tokenizer, clips, random)
    # Learning 60 labels by heart takes longer than learning a rule.
    assert ua(train(classifier(checkpoint), everything, judge, steps=400, rate=3e-3), judge) > 0.95


def test_all_seven_modality_cases_train_and_the_full_one_is_judged(tokenizer, checkpoint):
    clips = make_clips(num_speakers=6, per_speaker=16, signal=2.0)
    first, second = parts(clips)
    learn = encode(tokenizer, *first, prompt=True, cases="seven")
    assert len(learn.cases_KN) == 7
    judge = encode(tokenizer, *second, prompt=True)
    assert ua(train(classifier(checkpoint, prompt=True), learn, judge, steps=80), judge) > 0.6


def test_the_step_is_chosen_on_dev_and_the_test_follows_it(tokenizer, checkpoint):
    clips = make_clips(num_speakers=6, per_speaker=16, signal=1.5)
    learn, judge = (encode(tokenizer, *part) for part in parts(clips))
    # A dev split with turned labels likes the earliest, least trained step.
    turned = dataclasses.replace(judge, label_N=(judge.label_N + 1) % 4)
    by_dev = train(classifier(checkpoint), learn, judge, dev=turned, selection="dev", every=10)
    by_test = train(classifier(checkpoint), learn, judge, dev=turned, selection="oracle", every=10)
    assert [row["step"] for row in by_dev.curve] == [10, 20, 30, 40, 50, 60]
    for chosen in (by_dev, by_test):
        best = max(row["ua"] for row in chosen.curve)
        first = next(row["step"] for row in chosen.curve if row["ua"] == best)
        assert (chosen.step, chosen.selection_ua) == (first, best)
    assert ua(by_test, judge) == by_test.selection_ua > ua(by_dev, judge)


class DrawingHead(LinearHead):
    """Draws random numbers where it learns and where it is judged, as negatives are drawn."""

    def forward(self, *args):
        torch.rand(3)
        return super().forward(*args)


def test_judging_the_oracle_changes_nothing_else_to_the_bit(tokenizer, checkpoint):
    clips = make_clips(num_speakers=6, per_speaker=16, signal=1.5)
    learn, judge = (encode(tokenizer, *part) for part in parts(clips))
    turned = dataclasses.replace(judge, label_N=(judge.label_N + 1) % 4)

    def run(**switch):
        torch.manual_seed(0)
        model = Classifier(load_checkpoint(checkpoint).model, DrawingHead(16, len(EMOTIONS)))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
        return train(
            model, learn, judge, dev=turned, selection="dev", every=10, patience=3, **switch
        )

    alone, beside = run(judge_oracle=False), run()
    assert alone.oracle is None and "oracle_ua" not in alone.curve[0]
    own = [{k: v for k, v in row.items() if "oracle" not in k} for row in beside.curve]
    assert own == alone.curve
    assert (beside.step, beside.selection_ua) == (alone.step, alone.selection_ua)
    weights = alone.learned.state_dict()
    for name, tensor in beside.learned.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    np.testing.assert_array_equal(beside.test.scores_NC, alone.test.scores_NC)
    # Each line's figures of test are those that the chosen step is reported with.
    (chosen,) = (row for row in beside.curve if row["step"] == beside.step)
    assert chosen["oracle_ua"] == ua(beside, judge)
    best = max(row["oracle_ua"] for row in beside.curve)
    assert beside.oracle == next(row for row in beside.curve if row["oracle_ua"] == best)
    assert best > chosen["oracle_ua"] + 0.1  # dev has turned labels: the oracle flatters


def test_the_oracle_stands_beside_dev_alone(tokenizer, checkpoint):
    clips = make_clips(num_speakers=6, per_speaker=16, signal=1.5)
    learn, judge = (encode(tokenizer, *part) for part in parts(clips))
    for selection in ("last", "oracle"):
        found = train(classifier(checkpoint), learn, judge, selection=selection, every=20)
        assert found.oracle is None and not any("oracle_ua" in row for row in found.curve)
    # Of a plan broken off where dev chose, the oracle may choose up to there.
    cut = train(classifier(checkpoint), learn, judge, every=20, last_step=40)
    assert [row["step"] for row in cut.curve] == [20, 40] and cut.oracle in cut.curve
    assert cut.oracle["oracle_ua"] >= ua(cut, judge)


def test_patience_ends_training_early(tokenizer, checkpoint):
    clips = make_clips(num_speakers=6, per_speaker=16, signal=3.0)
    learn, judge = (encode(tokenizer, *part) for part in parts(clips))
    found = train(
        classifier(checkpoint), learn, judge, selection="dev", steps=400, every=5, patience=2
    )
    assert len(found.curve) < 80
    assert found.curve[-1]["step"] == found.step + 10


def test_a_diverging_run_says_so(tokenizer, checkpoint):
    clips = make_clips(num_speakers=6, per_speaker=16, signal=1.0)
    learn, judge = (encode(tokenizer, *part) for part in parts(clips))
    broken = classifier(checkpoint)
    with torch.no_grad():
        broken.head.classifier.bias[0] = float("nan")
    with pytest.raises(FitError, match="training loss is nan at step 5; lower the learning rate"):
        train(broken, learn, judge, steps=5)


def test_batches_are_never_short_and_visit_every_clip_equally_often():
    batches = shuffled_batches(10, 4, seed=3)
    drawn = np.concatenate([next(batches) for _ in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    again = shuffled_batches(10, 4, seed=3)
    assert np.array_equal(drawn[:4], next(again))
    assert not np.array_equal(drawn[:10], drawn[10:])


def test_balanced_batches_hold_as_many_of_each_class_and_visit_every_clip():
    label_N = np.array([0] * 9 + [1] * 3 + [3])
    batches = balanced_batches(label_N, 6, seed=3)
    drawn = [next(batches) for _ in range(9)]
    for batch in drawn:
        assert np.bincount(label_N[batch], minlength=4).tolist() == [2, 2, 0, 2]
    seen = np.bincount(np.concatenate(drawn), minlength=13)
    assert set(seen[:9]) == {2} and set(seen[9:12]) == {6} and seen[12] == 18
