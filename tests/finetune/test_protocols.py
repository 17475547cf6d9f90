"""Fold files: what they refuse, and the folds that are dealt where none are published."""

import json
from itertools import combinations

import pytest
from pydantic import ValidationError

from finetune.clips.labelled import DatasetError, LabelledClip, LabelMap, read_labelled
from finetune.protocols import (
    Fold,
    Protocol,
    ProtocolError,
    load_protocol,
    make_protocol,
    split_clips,
)
from finetune.protocols import save_protocol as save
from finetune.protocols.__main__ import main

from .conftest import EMOTIONS, make_clips

LABELS = {name: (name,) for name in EMOTIONS}


def labelled(**settings):
    clips = make_clips(**{"num_speakers": 6, "per_speaker": 8, "signal": 1.0, **settings})
    return [LabelledClip(sample=c, label=EMOTIONS.index(c.meta["label"])) for c in clips]


def protocol(**fold):
    return Protocol(name="toy", group="speaker", folds=(Fold(**fold),))


def test_a_protocol_survives_its_file_with_the_same_digest(tmp_path):
    made = protocol(train=("toy/0", "toy/1"), dev=("toy/2",), test=("toy/3",))
    save(made, tmp_path / "f.json")
    assert load_protocol(tmp_path / "f.json") == made
    assert load_protocol(tmp_path / "f.json").sha256 == made.sha256
    other = protocol(train=("toy/0",), dev=("toy/1", "toy/2"), test=("toy/3",))
    assert other.sha256 != made.sha256


def test_a_unit_in_two_splits_is_named():
    with pytest.raises(ValidationError, match="speaker toy/1 in train and in test"):
        protocol(train=("toy/0", "toy/1"), test=("toy/1",))


def test_folds_of_clips_need_a_word_about_shared_speakers():
    fold = Fold(train=("a",), test=("b",))
    with pytest.raises(ValidationError, match="allow_shared_speakers"):
        Protocol(name="toy", group="clip", folds=(fold,))
    Protocol(name="toy", group="clip", folds=(fold,), allow_shared_speakers=True)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"group": "speakr"}, "group"),
        ({"gruop": "speaker"}, "gruop"),
        ({"format_version": 9}, "format version 9"),
        ({"folds": []}, "no folds"),
        ({"folds": [{"train": ["toy/0"], "test": []}]}, "test is empty"),
        ({"folds": [{"train": ["a", "a"], "test": ["b"]}]}, "a twice"),
    ],
)
def test_a_bad_fold_file_says_what_is_wrong(tmp_path, change, match):
    good = {"name": "toy", "group": "speaker", "folds": [{"train": ["toy/0"], "test": ["toy/1"]}]}
    path = tmp_path / "f.json"
    path.write_text(json.dumps(good | change))
    with pytest.raises(ProtocolError, match=match):
        load_protocol(path)


def test_no_fold_file_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(ProtocolError, match="python -m finetune.protocols make"):
        load_protocol(tmp_path / "none.json")


def test_dealt_folds_test_each_speaker_once_and_share_none():
    made = make_protocol(labelled(), name="toy", by="speaker", num_folds=3)
    tested = [unit for fold in made.folds for unit in fold.test]
    assert sorted(tested) == [f"toy/{k}" for k in range(6)]
    for number, fold in enumerate(made.folds):
        for a, b in combinations((fold.train, fold.dev, fold.test), 2):
            assert not set(a) & set(b)
        splits = split_clips(labelled(), made, number)
        assert len(splits.train) == len(splits.dev) == len(splits.test) == 16
    again = make_protocol(labelled(), name="toy", by="speaker", num_folds=3)
    assert again.sha256 == made.sha256
    other = make_protocol(labelled(), name="toy", by="speaker", num_folds=3, seed=1)
    assert other.sha256 != made.sha256


def test_folds_dealt_by_clip_have_all_classes_on_both_sides():
    clips = labelled(num_speakers=1, per_speaker=12)
    made = make_protocol(clips, name="t", by="clip", num_folds=3, allow_shared_speakers=True)
    for number in range(3):
        splits = split_clips(clips, made, number)
        for part in (splits.train, splits.dev, splits.test):
            assert sorted({clip.label for clip in part}) == [0, 1, 2, 3]
        assert any("mechanics, not accuracy" in note for note in splits.notes)


def test_too_few_speakers_for_the_folds_is_an_error():
    with pytest.raises(ProtocolError, match="6 speakers in 48 labelled clips, too few for 7"):
        make_protocol(labelled(), name="toy", by="speaker", num_folds=7)
    with pytest.raises(ProtocolError, match="at least 3"):
        make_protocol(labelled(), name="toy", by="speaker", num_folds=2)
    two = make_protocol(labelled(), name="toy", by="speaker", num_folds=2, dev=False)
    assert [fold.dev for fold in two.folds] == [(), ()]


def test_the_command_writes_a_usable_file(tmp_path, write_shards, caplog):
    shards = write_shards(make_clips(num_speakers=4, per_speaker=4, signal=1.0))
    out = tmp_path / "folds.json"
    assert main(["make", "--shards", str(shards), "--folds", "4", "--output", str(out)]) == 0
    made = load_protocol(out)
    clips = read_labelled([str(shards)], LabelMap.build(LABELS), ()).clips
    assert len(split_clips(clips, made, 0).test) == 4
    assert main(["make", "--shards", str(shards), "--folds", "9", "--output", str(out)]) == 2
    assert "too few for 9 folds; 4 is the most" in caplog.text
    assert "What these clips allow: --folds 4" in caplog.text
    few = ["make", "--shards", str(shards), "--folds", "3", "--output", str(out)]
    assert main([*few, "data.labels={happy: [happy], sad: [sad]}", "data.ignore_labels=['*']"]) == 0
    assert main([*few, "data.labelz={}"]) == 2
    assert "there is no setting 'data.labelz'" in caplog.text


@pytest.mark.parametrize(
    ("speaker_of", "label_of", "advice"),
    [
        (lambda n: n % 3, lambda n: n // 3 % 2, "--folds 3"),
        (lambda n: n % 2, lambda n: n // 2 % 2, "--folds 2 --no-dev (and then selection=last)"),
        (lambda n: None, lambda n: n % 2, "--folds 5 --by recording"),
        # One emotion is one speaker's alone, and so never in training and test.
        (lambda n: n % 3, lambda n: n % 3 == 2, "No number of folds works"),
    ],
)
def test_the_number_of_folds_it_proposes_works(
    tmp_path, write_shards, caplog, speaker_of, label_of, advice
):
    clips = make_clips(num_speakers=6, per_speaker=4, signal=1.0)
    for n, clip in enumerate(clips):
        clip.meta.update(speaker=speaker_of(n), label=("happy", "sad")[label_of(n)])
        if advice.startswith("No"):
            clip.meta["recording"] = clip.meta["speaker"]
    command = ["make", "--shards", str(write_shards(clips)), "--output", str(tmp_path / "f.json")]
    assert main([*command, "--folds", "5"]) == 2
    assert advice in caplog.text
    if not advice.startswith("No"):
        words = advice.partition(" (")[0].split()
        assert main([*command, *words]) == 0


def test_the_command_refuses_what_finetuning_would(tmp_path, write_shards, caplog):
    clips = make_clips(num_speakers=6, per_speaker=8, signal=1.0)
    for number, clip in enumerate(clips):
        clip.meta["recording"] = f"session{int(clip.meta['speaker']) // 2}-{number % 3}"
    command = ["make", "--shards", str(write_shards(clips)), "--folds", "3", "--output"]
    out = tmp_path / "folds.json"
    for by in ("speaker", "recording"):
        assert main([*command, str(out), "--by", by]) == 2
        assert "such as the session, as its column `recording`" in caplog.text
        caplog.clear()
        assert not out.exists()
    assert main([*command, str(out), "--by", "clip"]) == 2
    assert "--allow-shared-speakers" in caplog.text
    assert main([*command, str(out), "--by", "clip", "--allow-shared-speakers"]) == 0
    assert "mechanics, not accuracy" in caplog.text
    assert main([*command, str(out / "below"), "--by", "clip", "--allow-shared-speakers"]) == 2
    assert f"cannot read or write {out}: File exists" in caplog.text


def test_a_folder_is_no_fold_file(tmp_path):
    with pytest.raises(ProtocolError, match="cannot read the fold file .*Is a directory"):
        load_protocol(tmp_path)


def test_clips_without_a_speaker_cannot_be_grouped_by_one():
    clips = labelled()
    clips[0].sample.meta["speaker"] = None
    with pytest.raises(DatasetError, match=f"{clips[0].sample.id} has no speaker"):
        make_protocol(clips, name="toy", by="speaker", num_folds=3)
