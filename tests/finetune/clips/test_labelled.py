"""Labels: every clip accounted for."""

import pytest

from finetune.clips.labelled import DatasetError, LabelMap, read_labelled

from ..conftest import make_clips

LABELS = {"anger": ("ang",), "happy": ("hap", "exc"), "neutral": ("neu",), "sad": ("sad",)}


def relabelled(labels):
    clips = make_clips(num_speakers=2, per_speaker=len(labels) // 2, signal=1.0)
    for clip, label in zip(clips, labels, strict=True):
        clip.meta["label"] = label
    return clips


def test_excited_is_happy_and_case_does_not_matter(write_shards):
    folder = write_shards(relabelled(["ANG", "hap", "Exc", "neu", "sad", "sad"]))
    found = read_labelled([str(folder)], LabelMap.build(LABELS), ())
    assert [clip.label for clip in found.clips] == [0, 1, 1, 2, 3, 3]
    assert found.summary() == ["6 of 6 clips in use: anger 1, happy 2, neutral 1, sad 2"]


def test_unknown_labels_stop_the_run_with_their_counts(write_shards):
    folder = write_shards(relabelled(["ang", "fru", "fru", "xxx", "sad", "sad"]))
    with pytest.raises(DatasetError, match="no class lists: fru 2, xxx 1.*ignore_labels"):
        read_labelled([str(folder)], LabelMap.build(LABELS), ())


def test_ignored_and_absent_labels_are_counted(write_shards):
    folder = write_shards(relabelled(["ang", "fru", "fru", "xxx", None, "sad"]))
    for ignored in (["fru", "xxx"], ["*"]):
        found = read_labelled([str(folder)], LabelMap.build(LABELS, ignored), ())
        assert len(found.clips) == 2
        assert found.summary() == [
            "2 of 6 clips in use: anger 1, happy 0, neutral 0, sad 1",
            "left out by label: fru 2, xxx 1",
            "without a label: 1",
        ]


def test_clips_without_any_label_are_an_error_that_says_what_to_fill(write_shards):
    folder = write_shards(relabelled([None, None]))
    with pytest.raises(DatasetError, match="among 2 .*2 without a label.*column `label`"):
        read_labelled([str(folder)], LabelMap.build(LABELS), ())


def test_one_clip_in_two_folders_is_an_error(write_shards):
    clips = relabelled(["ang", "sad"])
    folders = [str(write_shards(clips, name)) for name in ("one", "two")]
    with pytest.raises(DatasetError, match="twice"):
        read_labelled(folders, LabelMap.build(LABELS), ())


@pytest.mark.parametrize(
    ("labels", "ignored", "match"),
    [
        ({"a": ("x",), "b": ("X ",)}, (), "'x' belongs to a and to b"),
        ({"a": ("x",)}, (), "at least two"),
        ({"a": ("x",), "b": ("y",)}, ("y",), "ignore_labels"),
    ],
)
def test_a_label_map_that_contradicts_itself_is_refused(labels, ignored, match):
    with pytest.raises(DatasetError, match=match):
        LabelMap.build(labels, ignored)


def test_a_class_without_clips_is_noted(write_shards):
    folder = write_shards(relabelled(["ang", "sad", "ang", "sad"]))
    found = read_labelled([str(folder)], LabelMap.build(LABELS), ())
    assert found.notes == ["no clip of happy, neutral: scored without"]
    folder = write_shards(relabelled(["sad", "sad"]), "one")
    with pytest.raises(DatasetError, match="all 2 labelled clips are sad"):
        read_labelled([str(folder)], LabelMap.build(LABELS), ())
