"""MSP-IMPROV, on trees of its release's layout."""

import pytest
from release_trees import (
    msp_improv_turn,
    read,
    through_the_table,
    touch,
)

from data_pipeline.corpora import msp_improv
from data_pipeline.table.clips import ClipTableError


def test_msp_improv_names_and_labels(tmp_path):
    msp_improv_turn(tmp_path, "MSP-IMPROV-S01A-F01-S-FM01", "N")
    msp_improv_turn(tmp_path, "MSP-IMPROV-S20H-M06-P-MF12", "X", ".wav")
    clips = through_the_table("msp_improv", tmp_path, tmp_path / "clips.csv")
    assert [(c.id, c.speaker, c.recording, c.label, c.text) for c in clips] == [
        ("MSP-IMPROV-S01A-F01-S-FM01", "F01", "session1", "neutral", "Words of FM01"),
        ("MSP-IMPROV-S20H-M06-P-MF12", "M06", "session6", "no_agreement", "Words of MF12"),
    ]
    row, _ = read(msp_improv, tmp_path)[0]
    assert (row["target"], row["scenario"], row["activation"]) == ("anger", "S", "2.500000")
    assert "naturalness" not in row


def test_transcripts_by_the_label_files_names_will_do_and_absent_ones_are_told(tmp_path, caplog):
    for number in (1, 2):
        msp_improv_turn(tmp_path, f"MSP-IMPROV-S01A-F01-S-FM0{number}", "N")
    folder = tmp_path / "All_human_transcriptions"
    for file in sorted(folder.iterdir()):
        file.rename(folder / file.name.replace("MSP-", "UTD-"))
    rows, _ = read(msp_improv, tmp_path)
    assert [row["text"] for row in rows] == ["Words of FM01", "Words of FM02"]
    assert "no transcript" not in caplog.text
    (folder / "UTD-IMPROV-S01A-F01-S-FM02.txt").unlink()
    assert [row["text"] for row in read(msp_improv, tmp_path)[0]] == ["Words of FM01", ""]
    assert "1 of 2 turns have no transcript" in caplog.text


def test_msp_improv_loses_nothing(tmp_path):
    names = [f"MSP-IMPROV-S01A-F01-S-FM0{n}" for n in range(1, 8)]
    msp_improv_turn(tmp_path, names[0], "A")
    touch(tmp_path, f"Audio/{names[0]}.wav", f"session1/._{names[0]}.avi")  # its sound; a leftover
    msp_improv_turn(tmp_path, names[1], None)
    msp_improv_turn(tmp_path, names[2], "H")
    (tmp_path / f"session1/S01A/S/{names[2]}.avi").unlink()
    msp_improv_turn(tmp_path, names[3], "Q")
    msp_improv_turn(tmp_path, names[4], "S")
    touch(tmp_path, f"copy/{names[4]}.avi", "session1/hello.avi")
    with open(tmp_path / "Evalution.txt", "a") as file:
        file.write("UTD-IMPROV-S01A-F01-S-FM")
    rows, rejects = read(msp_improv, tmp_path)
    assert [row["id"] for row in rows] == [names[0], names[4]]
    assert sorted(reason for _, reason in rejects) == [
        *("bad_line", "bad_line", "bad_name", "duplicate_id"),
        *("missing_file", "no_label", "no_label"),
    ]
    (tmp_path / "Evalution.txt").rename(tmp_path / "Evaluation.txt")
    assert read(msp_improv, tmp_path)[0] == rows
    (tmp_path / "Evaluation.txt").unlink()
    with pytest.raises(ClipTableError, match="no Evalution.txt"):
        read(msp_improv, tmp_path)


def test_msp_improv_counts_are_compared_where_all_sessions_are_there(tmp_path, caplog):
    for session in range(1, 7):
        assert not caplog.text
        msp_improv_turn(tmp_path, f"MSP-IMPROV-S01A-F0{session}-S-FM01", "N")
        read(msp_improv, tmp_path)
    assert "MSP-IMPROV, scenario S: other counts" in caplog.text
    assert "neutral 6 (published: 1,789)" in caplog.text


def test_msp_improv_sessions_that_are_not_there_are_one_line(tmp_path, caplog):
    """The one label file is of all six."""
    for session in range(1, 7):
        msp_improv_turn(tmp_path, f"MSP-IMPROV-S01A-F0{session}-S-FM01", "N")
    for session in (3, 5):
        (tmp_path / f"session{session}/S01A/S/MSP-IMPROV-S01A-F0{session}-S-FM01.avi").unlink()
    rows, rejects = read(msp_improv, tmp_path)
    assert len(rows) == 4 and rejects == []
    assert "no recording of session 3, 5; its 2 labels are left out" in caplog.text
    assert "published" not in caplog.text
