"""MELD, on trees of its layout, with the tables as published too."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest
from release_trees import (
    meld_split,
    read,
    through_the_table,
    touch,
    write,
)

from data_pipeline.corpora import meld
from data_pipeline.table.clips import ClipTableError


def test_meld_clips_of_the_three_splits(tmp_path):
    meld_split(tmp_path, "train", "train_splits", [(0, 0, "It\x92s, like, me"), (1, 0, "Hi")])
    meld_split(tmp_path, "dev", "dev_splits_complete", [(0, 0, "Hey!")])
    meld_split(tmp_path, "test", "output_repeated_splits_test", [(0, 0, "What?"), (1, 2, "So")])
    touch(tmp_path, "output_repeated_splits_test/final_videos_testdia0_utt0.mp4")
    touch(tmp_path, "train_splits/._dia0_utt0.mp4")
    clips = through_the_table("meld", tmp_path, tmp_path / "clips.csv")
    assert [(c.id, c.recording) for c in clips] == [
        ("train_dia0_utt0", "train_dia0"),
        ("train_dia1_utt0", "train_dia1"),
        ("dev_dia0_utt0", "dev_dia0"),
        ("test_dia0_utt0", "test_dia0"),
        ("test_dia1_utt2", "test_dia1"),
    ]
    assert (clips[0].text, clips[0].speaker, clips[0].label) == ("It’s, like, me", "Monica", "joy")
    assert Path(clips[3].video).name == "final_videos_testdia0_utt0.mp4"


def test_meld_loses_nothing_and_takes_a_part(tmp_path, caplog):
    meld_split(tmp_path, "dev", "dev_splits_complete", [(110, n, "Hi") for n in range(9)])
    write(tmp_path, "train_sent_emo.csv", (tmp_path / "dev_sent_emo.csv").read_bytes())
    (tmp_path / "dev_splits_complete/dia110_utt7.mp4").unlink()
    touch(tmp_path, "dev_splits_complete/dia999_utt0.mp4", "dev_splits_complete/hello.mp4")
    touch(tmp_path, "dev_splits_complete/dia110_utt00.mp4")
    table = tmp_path / "dev_sent_emo.csv"
    table.write_bytes(table.read_bytes().rsplit(b",positive", 1)[0])  # cut in its last row
    rows, rejects = read(meld, tmp_path)
    assert [row["id"] for row in rows] == [f"dev_dia110_utt{n}" for n in range(7)]
    folder = "dev_splits_complete"
    assert sorted(rejects) == [
        ("dev_sent_emo.csv:10", "bad_line"),
        (f"{folder}/dia110_utt00.mp4", "duplicate_id"),
        (f"{folder}/dia110_utt7", "missing_file"),
        (f"{folder}/dia110_utt8.mp4", "no_label"),
        (f"{folder}/dia999_utt0.mp4", "no_label"),
        (f"{folder}/hello.mp4", "bad_name"),
    ]
    assert "train_sent_emo.csv is there, but not train_splits" in caplog.text
    assert "published" not in caplog.text
    table.write_text(table.read_text() + '"' + "x" * 200_000)
    with pytest.raises(ClipTableError, match="is a quotation mark opened there and never closed"):
        read(meld, tmp_path)
    table.write_text("video,label\n")
    with pytest.raises(ClipTableError, match="dev_sent_emo.csv has no column Utterance, Speaker"):
        read(meld, tmp_path)


def test_meld_tables_as_published(shared_data, tmp_path, caplog):
    for split, folder in meld.FOLDERS.items():
        shutil.copy(shared_data / f"text/meld/{split}_sent_emo.csv", tmp_path)
        (tmp_path / folder).mkdir()
        with open(tmp_path / f"{split}_sent_emo.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}.mp4"
                (tmp_path / folder / name).touch()
    (tmp_path / "dev_splits_complete/dia110_utt7.mp4").unlink()
    rows, rejects = read(meld, tmp_path)
    assert rejects == [("dev_splits_complete/dia110_utt7", "missing_file")]
    found = Counter(row["id"].partition("_")[0] for row in rows)
    assert found == {"train": 9989, "dev": 1108, "test": 2610} and not caplog.text
    assert len({row["recording"] for row in rows}) == 1432
    (tmp_path / "test_sent_emo.csv").write_bytes(
        b"\n".join((tmp_path / "test_sent_emo.csv").read_bytes().split(b"\n")[:-2])
    )
    _, rejects = read(meld, tmp_path)
    assert "MELD, test: 2,609 rows (published: 2,610)" in caplog.text
    assert rejects[-1][1] == "no_label"
