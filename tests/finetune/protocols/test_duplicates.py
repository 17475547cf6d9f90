"""The same utterance under two ids, across the splits of a fold."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from finetune.clips.labelled import DatasetError, LabelledClip
from finetune.protocols import Fold, Protocol, duplicates, split_clips
from finetune.protocols.duplicates import named, same_features, same_words_and_lengths

from ..conftest import EMOTIONS, make_clips


def labelled(**settings) -> list[LabelledClip]:
    """Three speakers of four clips each, with a digest of their own, and words of their own."""
    clips = make_clips(**{"num_speakers": 3, "per_speaker": 4, "signal": 1.0, **settings})
    return [
        LabelledClip(
            sample=replace(clip, text=f"clip {n}", words=["clip", str(n)]),
            label=EMOTIONS.index(clip.meta["label"]),
            digest=f"{n:016x}",
        )
        for n, clip in enumerate(clips)
    ]


def protocol(**settings) -> Protocol:
    fold = Fold(train=("toy/0",), dev=("toy/1",), test=("toy/2",))
    return Protocol(name="toy", group="speaker", folds=(fold,), **settings)


def test_equal_features_in_two_splits_are_an_error_that_names_both():
    clips = labelled()
    split_clips(clips, protocol(), 0)
    clips[8] = replace(clips[8], digest=clips[1].digest)
    with pytest.raises(DatasetError, match="1 clips have the very features") as error:
        split_clips(clips, protocol(), 0)
    assert "toy-s0-001 (train) and toy-s2-008 (test)" in str(error.value)
    assert "leave one of each out of the clip table" in str(error.value)


def test_equal_features_are_a_note_where_speakers_may_be_shared():
    clips = labelled()
    clips[5] = replace(clips[5], digest=clips[8].digest)
    (note,) = split_clips(clips, protocol(allow_shared_speakers=True), 0).notes
    assert "toy-s1-005 (dev) and toy-s2-008 (test); these results show mechanics" in note


def test_equal_features_in_one_split_or_none_known_are_no_duplicates():
    clips = labelled()
    clips[1] = replace(clips[1], digest=clips[0].digest)
    assert split_clips(clips, protocol(), 0).notes == []
    unknown = [replace(clip, digest="") for clip in labelled()]
    assert split_clips(unknown, protocol(), 0).notes == []


def like(clip: LabelledClip, other: LabelledClip, **changes) -> LabelledClip:
    """`clip`, with the words and the streams' lengths of `other`."""
    taken = {"words": other.sample.words, "text": other.sample.text}
    sample = replace(clip.sample, **taken, streams=other.sample.streams)
    return replace(clip, sample=replace(sample, **changes))


def test_equal_words_and_lengths_are_a_note_with_the_count():
    """Of which the rarest words are named."""
    clips = labelled()
    clips[4] = like(clips[4], clips[1], words=["CLIP", "1"])
    clips[8] = like(clips[8], clips[1])
    clips[9] = like(clips[9], clips[2])
    (note,) = split_clips(clips, protocol(), 0).notes
    assert note == (
        "fold 0: 3 clips have the words of one in another split and as many frames, such as "
        "toy-s0-002 (train) and toy-s2-009 (test): one recording twice, or one sentence said twice"
    )


def test_equal_words_alone_or_equal_lengths_alone_are_nothing():
    clips = labelled()
    clips[4] = like(clips[4], clips[1], words=["other"])
    clips[5] = like(clips[5], clips[1], streams={})
    streams = dict(clips[1].sample.streams)
    streams["speech"] = streams["speech"][:-1]
    clips[8] = like(clips[8], clips[1], streams=streams)
    wordless = like(clips[9], clips[2], words=[], text=None)
    clips[9], clips[6] = wordless, like(clips[6], clips[2], words=[], text=None)
    assert split_clips(clips, protocol(), 0).notes == []


def test_pairs_of_equal_features_are_not_told_twice():
    clips = labelled()
    clips[8] = replace(like(clips[8], clips[1]), digest=clips[1].digest)
    splits = {"train": clips[:4], "dev": clips[4:8], "test": clips[8:]}
    (pair,) = same_features(splits)
    assert same_words_and_lengths(splits) == []
    assert named([pair] * 5).endswith("and 2 more")


def test_a_dev_split_that_is_the_test_split_is_an_error():
    """By name, by clip, and under other ids."""
    by_speaker = Fold(train=("toy/0",), dev=("toy/1",), test=("toy/1",))
    with pytest.raises(ValidationError, match="speaker toy/1 in dev and in test"):
        Protocol(name="toy", group="speaker", folds=(by_speaker,))
    by_clip = Fold(train=("a", "b"), dev=("c", "d"), test=("d", "c"))
    with pytest.raises(ValidationError, match="clip c, d in dev and in test"):
        Protocol(name="toy", group="clip", folds=(by_clip,), allow_shared_speakers=True)
    clips = labelled()
    for n in range(4):
        clips[8 + n] = replace(clips[8 + n], digest=clips[4 + n].digest)
    with pytest.raises(DatasetError, match="4 clips have the very features .*dev.* and .*test"):
        split_clips(clips, protocol(), 0)


def test_each_clip_is_looked_at_once(monkeypatch):
    """However many are alike: keys are hashed, not compared with one another."""
    looked, key = [], duplicates._words_and_lengths
    monkeypatch.setattr(duplicates, "_words_and_lengths", lambda c: looked.append(c) or key(c))
    clip = replace(labelled()[0], digest="")
    splits = {"train": [clip] * 3000, "dev": [clip] * 2000, "test": [clip] * 1000}
    assert len(same_words_and_lengths(splits)) == 2000 + 1000 + 1000
    assert len(looked) == 6000
