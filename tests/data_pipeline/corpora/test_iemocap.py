"""IEMOCAP, on trees of its release's layout."""

from pathlib import Path

import pytest
from release_trees import (
    iemocap_dialogue,
    read,
    through_the_table,
    write,
)

from data_pipeline.corpora import iemocap
from data_pipeline.table.clips import ClipTableError


def test_iemocap_tells_the_speaker_his_half_words_and_times(tmp_path):
    iemocap_dialogue(tmp_path, "Ses01F_impro01", [("F000", "neu"), ("M000", "exc")])
    iemocap_dialogue(tmp_path, "Ses01M_impro01", [("F000", "ang"), ("M000", "xxx")])
    clips = through_the_table("iemocap", tmp_path, tmp_path / "out" / "clips.csv")
    assert [(c.id, c.speaker, c.region, c.label) for c in clips] == [
        ("Ses01F_impro01_F000", "Ses01F", "left", "neu"),
        ("Ses01F_impro01_M000", "Ses01M", "right", "exc"),
        ("Ses01M_impro01_F000", "Ses01F", "right", "ang"),
        ("Ses01M_impro01_M000", "Ses01M", "left", "xxx"),
    ]
    assert clips[1].video == str(tmp_path / "Session1/dialog/avi/DivX/Ses01F_impro01.avi")
    assert (clips[1].start, clips[1].end, clips[1].text) == (2.0, 4.0, "Words of M000.")
    assert {(c.recording, c.corpus) for c in clips} == {("Ses01", "iemocap")}


@pytest.mark.parametrize(
    "name",
    [
        *("Ses03M_impro05a", "Ses03M_impro05b", "Ses03M_impro08a", "Ses03M_impro08b"),
        *("Ses05M_script01_1b", "Ses02F_script03_2"),
    ],
)
def test_iemocap_dialogues_of_odd_names(tmp_path, name):
    iemocap_dialogue(tmp_path, name, [("M000", "sad"), ("F012", "hap")])
    rows, rejects = read(iemocap, tmp_path / f"Session{name[4]}")
    assert rejects == []
    letter = name[5]
    assert [(r["id"], r["speaker"], r["region"]) for r in rows] == [
        (f"{name}_M000", f"{name[:5]}M", "left" if letter == "M" else "right"),
        (f"{name}_F012", f"{name[:5]}F", "left" if letter == "F" else "right"),
    ]


def test_iemocap_loses_nothing_that_is_missing_or_damaged(tmp_path):
    iemocap_dialogue(tmp_path, "Ses01F_impro01", [("F000", "neu")], video=False)
    iemocap_dialogue(tmp_path, "Ses01F_impro02", [("F000", "neu")], words=False)
    iemocap_dialogue(tmp_path, "Ses01F_impro03", [("F000", "neu"), ("M000", "joy")])
    iemocap_dialogue(
        tmp_path, "Ses01F_impro04", [("F000", "neu"), ("M000", "sad"), ("F001", "ang")]
    )
    cut = tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro04.txt"
    cut.write_bytes(cut.read_bytes().split(b"sad")[0])
    iemocap_dialogue(tmp_path, "Ses01F_impro05", [("F000", "neu")])
    (tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro05.txt").unlink()
    iemocap_dialogue(tmp_path, "Ses01F_impro06", [("F000", "neu"), ("F000", "sad")])
    iemocap_dialogue(tmp_path, "Ses01F_impro07", [("F000", "neu")], words=False)
    write(tmp_path, "Session1/dialog/EmoEvaluation/Ses01F_impro07.txt", "")
    rows, rejects = read(iemocap, tmp_path)
    assert [(row["id"], row["text"]) for row in rows] == [
        ("Ses01F_impro02_F000", ""),
        ("Ses01F_impro03_F000", "Words of F000."),
        ("Ses01F_impro04_F000", "Words of F000."),
        ("Ses01F_impro06_F000", "Words of F000."),
    ]
    folder = "Session1/dialog/EmoEvaluation"
    assert rejects == [
        ("Ses01F_impro01_F000", "missing_file"),
        (f"{folder}/Ses01F_impro03.txt:7", "bad_line"),
        (f"{folder}/Ses01F_impro04.txt:7", "bad_line"),
        ("Ses01F_impro04_F001", "no_label"),
        ("Ses01F_impro05_F000", "no_label"),
        (f"{folder}/Ses01F_impro06.txt:7", "duplicate_id"),
        (f"{folder}/Ses01F_impro07.txt", "no_label"),
    ]


def test_iemocap_words_of_another_encoding(tmp_path):
    iemocap_dialogue(tmp_path, "Ses01F_impro01", [("F000", "neu"), ("M000", "neu")])
    said = tmp_path / "Session1/dialog/transcriptions/Ses01F_impro01.txt"
    text = said.read_text().replace("Words of F000", "Caf\xe9 of F000")
    said.write_bytes(text.encode("windows-1252"))
    rows, rejects = read(iemocap, tmp_path)
    assert rejects == [] and rows[0]["text"] == "Caf\xe9 of F000."
    said.write_bytes(text.encode() + b"Ses01F_impro01_M000 [1-2]: \xff\n")
    rows, [(_, reason)] = read(iemocap, tmp_path)
    assert len(rows) == 1 and reason == "not_utf8"
    write(tmp_path, "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", b"[\0\0\0\1\0\0\0\2")
    rows, rejects = read(iemocap, tmp_path)
    assert rows == [] and [reason for _, reason in rejects] == [
        *("unreadable_text", "no_label", "no_label")
    ]


def test_iemocap_counts_are_compared_where_all_sessions_are_there(tmp_path, caplog):
    for session, published in iemocap.PUBLISHED.items():
        turns = [
            label if label != "hap+exc" else ("hap", "exc")[n % 2]
            for label, number in published.items()
            for n in range(number)
        ]
        assert read_or_none(iemocap, tmp_path) is None or not caplog.text
        for part in range(0, len(turns), 500):
            numbered = [(f"F{n:03d}", label) for n, label in enumerate(turns[part : part + 500])]
            iemocap_dialogue(tmp_path, f"{session}F_impro{part // 500:02d}", numbered)
    rows, _ = read(iemocap, tmp_path)
    assert len(rows) == 5531 and not caplog.text
    (tmp_path / "Session4/dialog/avi/DivX/Ses04F_impro01.avi").unlink()
    read(iemocap, tmp_path)
    assert "IEMOCAP, session Ses04: other counts than in the release" in caplog.text
    assert "(published: 327)" in caplog.text and "Ses03" not in caplog.text


def read_or_none(adapter, root: Path):
    try:
        return read(adapter, root)
    except ClipTableError:
        return None
