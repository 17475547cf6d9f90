"""The clips of a fold, and the overlap guard."""

from dataclasses import replace

import pytest

from finetune.clips.labelled import DatasetError, LabelledClip
from finetune.protocols import Fold, Protocol, split_clips

from ..conftest import EMOTIONS, make_clips


def labelled(**settings):
    """Clips of words of their own: said twice they may be one recording, and are noted."""
    clips = make_clips(**{"num_speakers": 3, "per_speaker": 4, "signal": 1.0, **settings})
    return [
        LabelledClip(
            sample=replace(clip, text=clip.id, words=[clip.id]),
            label=EMOTIONS.index(clip.meta["label"]),
        )
        for clip in clips
    ]


def protocol(train, test, dev=(), group="speaker", **settings):
    fold = Fold(train=tuple(train), dev=tuple(dev), test=tuple(test))
    return Protocol(name="toy", group=group, folds=(fold,), **settings)


def test_folds_hold_the_clips_of_their_speakers():
    splits = split_clips(labelled(), protocol(["toy/0"], ["toy/2"], ["toy/1"]), 0)
    assert {clip.named("speaker") for clip in splits.train} == {"toy/0"}
    assert {clip.named("speaker") for clip in splits.test} == {"toy/2"}
    assert splits.notes == []


def test_a_speaker_in_train_and_test_is_named():
    clips = labelled()
    by_recording = protocol(
        [f"toy/r{n}" for n in range(6)], [f"toy/r{n}" for n in range(6, 12)], group="recording"
    )
    with pytest.raises(DatasetError, match=r"speakers in two splits: toy/1 \(train and test\)"):
        split_clips(clips, by_recording, 0)


def test_a_recording_in_train_and_test_is_named_and_one_in_dev_and_test_is_not():
    clips = labelled()
    for clip in clips:
        clip.sample.meta["recording"] = {"0": "a", "1": "b", "2": "b"}[clip.sample.meta["speaker"]]
    split_clips(clips, protocol(["toy/0"], ["toy/2"], ["toy/1"]), 0)
    with pytest.raises(DatasetError, match=r"recordings in two splits: toy/b \(train and test\)"):
        split_clips(clips, protocol(["toy/1"], ["toy/2"], ["toy/0"]), 0)


def test_shared_speakers_pass_when_the_protocol_says_so_and_are_noted():
    clips = labelled()
    ids = [clip.sample.id for clip in clips]
    by_clip = protocol(ids[:6], ids[6:], group="clip", allow_shared_speakers=True)
    (note,) = split_clips(clips, by_clip, 0).notes
    assert "toy/1" in note and "mechanics, not accuracy" in note


def test_an_empty_fold_says_what_it_wants_and_what_there_is():
    with pytest.raises(DatasetError, match="no labelled clip for test; its speakers are toy/9"):
        split_clips(labelled(), protocol(["toy/0"], ["toy/9"]), 0)


def test_training_clips_of_one_class_are_an_error():
    clips = labelled()
    only = [
        LabelledClip(sample=clip.sample, label=2 if clip.named("speaker") == "toy/0" else 1)
        for clip in clips
    ]
    with pytest.raises(DatasetError, match="all 4 training clips are of one class"):
        split_clips(only, protocol(["toy/0"], ["toy/1"]), 0)


def test_dev_clips_of_one_class_are_an_error_and_a_class_that_dev_lacks_is_noted():
    clips = labelled()
    only = [
        LabelledClip(sample=clip.sample, label=2) if clip.named("speaker") == "toy/1" else clip
        for clip in clips
    ]
    with pytest.raises(DatasetError, match="all 4 dev clips are of one class, so who always says"):
        split_clips(only, protocol(["toy/0"], ["toy/2"], ["toy/1"]), 0)
    only[4] = LabelledClip(sample=only[4].sample, label=1)
    (note,) = split_clips(only, protocol(["toy/0"], ["toy/2"], ["toy/1"]), 0, EMOTIONS).notes
    assert note.startswith("fold 0: dev has no clip of ") and EMOTIONS[1] not in note


def test_clips_that_no_split_takes_are_noted():
    (note,) = split_clips(labelled(), protocol(["toy/0"], ["toy/1"]), 0).notes
    assert note == "4 labelled clips are in no split of fold 0 (speakers toy/2)"


def dyads():
    """IEMOCAP's shape: two speakers a session, who meet in two dialogues."""
    clips = labelled(num_speakers=6, per_speaker=8)
    for number, clip in enumerate(clips):
        session = int(clip.sample.meta["speaker"]) // 2
        clip.sample.meta["recording"] = f"session{session}-dialogue{number % 2}"
    return clips


@pytest.mark.parametrize("group", ["speaker", "recording"])
def test_speakers_and_recordings_that_cross_are_to_be_grouped_by_session(group):
    units = sorted({clip.unit(group) for clip in dyads()})
    crossing = protocol(units[::2], units[1::2], group=group)
    with pytest.raises(DatasetError) as error:
        split_clips(dyads(), crossing, 0)
    message = str(error.value)
    assert "such as the session, as its column `recording`" in message
    assert "make --by recording" in message and "--by speaker" not in message
    assert "--allow-shared-speakers" in message
    clips = dyads()
    for clip in clips:  # as the message says
        clip.sample.meta["recording"] = clip.sample.meta["recording"].partition("-")[0]
    units = sorted({clip.unit("recording") for clip in clips})
    split_clips(clips, protocol(units[:2], units[2:], group="recording"), 0)


def test_speakers_of_several_recordings_are_to_be_grouped_by_speaker():
    clips = labelled()  # a recording each
    units = [clip.unit("recording") for clip in clips]
    with pytest.raises(DatasetError, match="Split by speaker .*make --by speaker"):
        split_clips(clips, protocol(units[:6], units[6:], group="recording"), 0)


def test_a_class_that_training_never_sees_is_noted():
    clips = [clip for clip in labelled() if clip.named("speaker") != "toy/0" or clip.label != 3]
    fold = protocol(["toy/0"], ["toy/2"], ["toy/1"])
    (note,) = split_clips(clips, fold, 0, EMOTIONS).notes
    assert note == "fold 0: train has no clip of sad, so 1 test clips cannot be right"


def test_units_that_have_no_clips_are_counted():
    fold = protocol(["toy/0"], ["toy/2", "toy/8", "toy/9"], ["toy/1"])
    (note,) = split_clips(labelled(), fold, 0).notes
    assert note == "fold 0, test: 1 of 3 speakers listed has clips here"
