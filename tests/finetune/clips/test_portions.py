"""Few labels, train and dev, long texts: which clips are in, and what is said of it."""

import dataclasses
from collections import Counter

import pytest

from finetune.clips.labelled import DatasetError, LabelledClip
from finetune.clips.portions import few_labels, train_and_dev, without_long_texts
from finetune.protocols import Splits

from ..conftest import EMOTIONS, make_clips


@pytest.fixture
def splits() -> Splits:
    """60 train (anger 30, happy 20, neutral 9, sad 1), 16 dev and 16 test clips."""
    labels = ["anger"] * 30 + ["happy"] * 20 + ["neutral"] * 9 + ["sad"]
    train = make_clips(num_speakers=6, per_speaker=10, signal=0.0)
    train = [
        LabelledClip(sample=clip, label=EMOTIONS.index(label))
        for clip, label in zip(train, labels, strict=True)
    ]
    rest = make_clips(num_speakers=4, per_speaker=8, signal=0.0)
    rest = [
        LabelledClip(sample=dataclasses.replace(c, id=f"rest-{c.id}"), label=n % 4)
        for n, c in enumerate(rest)
    ]
    return Splits(train=train, dev=rest[:16], test=rest[16:], notes=["a note"])


def ids(clips) -> set[str]:
    return {clip.sample.id for clip in clips}


def test_each_class_keeps_its_share_and_at_least_one_clip(splits):
    few = few_labels(splits, 0.1, seed=1)
    assert Counter(clip.label for clip in few.train) == {0: 3, 1: 2, 2: 1, 3: 1}
    assert Counter(clip.label for clip in few.dev) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert few.test == splits.test and few.notes == splits.notes
    half = few_labels(splits, 0.5, seed=1)
    assert Counter(clip.label for clip in half.train) == {0: 15, 1: 10, 2: 5, 3: 1}
    assert few_labels(splits, 1.0, seed=1) == splits


def test_a_smaller_share_is_part_of_a_larger_one(splits):
    shares = [few_labels(splits, share, seed=3) for share in (0.1, 0.2, 0.4, 0.6, 1.0)]
    for small, large in zip(shares, shares[1:], strict=False):
        assert ids(small.train) < ids(large.train) and ids(small.dev) <= ids(large.dev)


def test_the_draw_is_of_the_seed_alone(splits):
    first = few_labels(splits, 0.4, seed=1)
    turned = dataclasses.replace(splits, train=splits.train[::-1])
    assert ids(few_labels(turned, 0.4, seed=1).train) == ids(first.train)
    assert ids(few_labels(splits, 0.4, seed=2).train) != ids(first.train)
    # A clip of another class that goes changes nothing in this one.
    fewer = dataclasses.replace(splits, train=[c for c in splits.train if c.label != 1])
    kept = ids(few_labels(fewer, 0.4, seed=1).train)
    assert kept == {c.sample.id for c in first.train if c.label != 1}


def test_dev_joins_train_and_recordings_shared_with_test_are_told(splits):
    both = train_and_dev(splits, fold=2)
    assert (
        both.train == [*splits.train, *splits.dev] and both.dev == [] and both.notes[0] == "a note"
    )
    dialogue = dataclasses.replace(
        splits.test[0],
        sample=dataclasses.replace(
            splits.test[0].sample, meta=splits.test[0].sample.meta | {"recording": "r0"}
        ),
    )
    both = train_and_dev(dataclasses.replace(splits, test=[dialogue]), fold=2)
    assert both.notes[-1] == ("fold 2: train+dev has 1 recordings of the test clips in it")


def test_long_texts_are_left_out_and_counted(splits):
    def pieces(clip: LabelledClip) -> int:
        return len(clip.sample.words)  # two or five

    cut = without_long_texts(splits, pieces, fold=1, max_trained=5, max_judged=4)
    assert cut.train == splits.train and len(cut.dev) == len(cut.test) == 8
    assert cut.notes == [
        "a note",
        "fold 1: left out for long texts (data.long_texts=drop): 8 of 16 dev, 8 of 16 test clips; "
        "what is judged is not the whole",
    ]
    linear = without_long_texts(splits, pieces, fold=1, max_trained=4, max_judged=None)
    assert len(linear.train) == 30 and linear.test == splits.test
    assert linear.notes[-1].endswith("30 of 60 train clips")
    assert without_long_texts(splits, pieces, fold=1, max_trained=5, max_judged=5) == splits
    with pytest.raises(DatasetError, match="every text of test has more than 1 pieces.*judged"):
        test_only = dataclasses.replace(splits, dev=[])
        without_long_texts(test_only, pieces, fold=1, max_trained=5, max_judged=1)
    of_one = [c for c in splits.train if pieces(c) == 5 or c.label == 0]
    with pytest.raises(DatasetError, match="the training clips are of one class"):
        lone = dataclasses.replace(splits, train=of_one)
        without_long_texts(lone, pieces, fold=1, max_trained=4, max_judged=None)
