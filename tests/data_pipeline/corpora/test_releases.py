"""What all adapters of releases share, and the real files that are at hand."""

import csv
from pathlib import Path

import pytest
from release_trees import (
    through_the_table,
    touch,
)

from data_pipeline.corpora import cmu_mosei, emodb, iemocap, meld, msp_improv, ravdess
from data_pipeline.table.clips import ClipTableError


@pytest.mark.parametrize("adapter", [cmu_mosei, emodb, iemocap, meld, msp_improv, ravdess])
def test_a_folder_without_the_corpus_says_what_was_expected(tmp_path, adapter):
    touch(tmp_path, "readme.pdf")
    with pytest.raises(ClipTableError, match="expected"):
        adapter.clips(tmp_path, lambda reject: None)


@pytest.mark.parametrize(
    ("name", "folder", "number", "actor"),
    [("emodb", "emodb", 464, "speaker"), ("ravdess", "ravdess_audio", 1020, "actor")],
)
def test_real_files(shared_data, tmp_path, capsys, name, folder, number, actor):
    clips = through_the_table(name, shared_data / folder, tmp_path / "clips.csv")
    assert len(clips) == number and "published" not in capsys.readouterr().err
    with open(shared_data / folder / "metadata.csv", newline="", encoding="utf-8") as file:
        known = {row["utt_id"]: row for row in csv.DictReader(file)}
    for clip in clips:
        row = known[Path(clip.video).stem]
        assert clip.text == (row.get("transcript") or row["transcript_de"])
        assert (clip.label, int(clip.speaker)) == (row["emotion"], int(row[actor]))


def test_the_real_video_of_ravdess(shared_data, tmp_path):
    [clip] = through_the_table("ravdess", shared_data / "ravdess_video", tmp_path / "clips.csv")
    assert (clip.speaker, clip.label, Path(clip.video).suffix) == ("01", "neutral", ".mp4")
