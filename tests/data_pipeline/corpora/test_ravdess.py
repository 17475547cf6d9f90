"""RAVDESS, on trees of its layout."""

from pathlib import Path

import pytest
from release_trees import (
    read,
    touch,
)

from data_pipeline.corpora import ravdess


def test_ravdess_names_tell_everything():
    row = ravdess.describe("01-01-06-02-01-02-12")
    assert (row["label"], row["intensity"], row["repetition"]) == ("fearful", "strong", "2")
    assert row["text"] == "Kids are talking by the door."
    assert row["speaker"] == row["recording"] == "12"
    for name in ("01-01-09-01-01-01-01", "01-01-01-01-01-01-25", "hello"):
        with pytest.raises(ValueError, match="no RAVDESS name"):
            ravdess.describe(name)


def test_ravdess_takes_the_fullest_file_of_a_take(tmp_path, caplog):
    touch(tmp_path, "Actor_01/01-01-01-01-01-01-01.mp4", "Actor_01/02-01-01-01-01-01-01.mp4")
    touch(tmp_path, "Actor_01/03-01-01-01-01-01-01.wav", "Actor_02/03-01-01-01-01-01-02.wav")
    touch(tmp_path, "Actor_02/03-02-01-01-01-01-02.wav", "Actor_02/._03-01-01-01-01-01-02.wav")
    touch(tmp_path, "copy/Actor_02/03-01-01-01-01-01-02.wav", "Actor_02/notes.wav")
    rows, rejects = read(ravdess, tmp_path)
    assert [Path(row["video"]).name for row in rows] == [
        "01-01-01-01-01-01-01.mp4",
        "03-01-01-01-01-01-02.wav",
    ]
    assert sorted(rejects) == [
        ("Actor_02/notes.wav", "bad_name"),
        ("copy/Actor_02/03-01-01-01-01-01-02.wav", "duplicate_id"),
    ]
    assert "2 files of takes that are clips already are left out" in caplog.text
    assert "1 songs are left out: 03-02-01-01-01-01-02.wav" in caplog.text


def test_ravdess_counts_are_compared_where_all_actors_are_there(tmp_path, caplog):
    takes = [
        f"01-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}"
        for emotion in range(1, 9)
        for intensity in ((1,) if emotion == 1 else (1, 2))
        for statement in (1, 2)
        for repetition in (1, 2)
    ]
    for actor in range(1, 25):
        touch(tmp_path, *(f"Actor_{actor:02d}/{take}-{actor:02d}.mp4" for take in takes))
        if actor in (3, 23):
            (tmp_path / f"Actor_{actor:02d}/{takes[0]}-{actor:02d}.mp4").unlink()
            rows, _ = read(ravdess, tmp_path)
            assert len(rows) == actor * 60 - (1 if actor == 3 else 2) and not caplog.text
    read(ravdess, tmp_path)
    assert "03 59 (published: 60), 23 59 (published: 60)" in caplog.text
