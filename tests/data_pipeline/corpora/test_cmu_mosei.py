"""CMU-MOSEI, on trees of what is known of its raw release."""

import json
from pathlib import Path

import pytest
from release_trees import (
    read,
    touch,
    write,
)

from data_pipeline.corpora import cmu_mosei
from data_pipeline.table.clips import ClipTableError


def mosei(root: Path) -> Path:
    said = "a-1___0___0.0___3.5___Hello ___ there.\na-1___1___3.5___7.25___No.\n\nbroken line\n"
    write(root, "Raw/Transcript/Segmented/Combined/a-1.txt", said)
    write(root, "Raw/Transcript/Segmented/Combined/._a-1.txt", b"\0")
    write(root, "Raw/Transcript/Segmented/Combined/b.txt", "b___0___0.5___2.0___Caf\xe9.\n")
    touch(root, "Raw/Videos/Full/Combined/a-1.mp4", "Raw/Videos/Full/Combined/c.mp4")
    touch(root, "Raw/Videos/Segmented/Combined/a-1_0.mp4")
    return root


RATERS = (
    "HITId,Input.VIDEO_ID,Input.CLIP,Answer.anger,Answer.disgust,Answer.fear,Answer.happiness,"
    "Answer.sadness,Answer.sentiment,Answer.surprise\n"
    "1,a-1,0,0,0,0,2,0,3,0\n2,a-1,0,0,0,0,1,3,1,0\n3,a-1,1,0,0,0,0,0,-1,0\n4,z,0,0,0,0,0,0,0,0\n"
)
SEGMENTS = (
    "video,segment,sentiment,happy,sad,anger,surprise,disgust,fear\n"
    "a-1,0,2,1.5,1.5,0,0,0,0\na-1,1,-1,0,0,0,0,0,0\nz,0,0,0,0,0,0,0,0\na-1,2,x,0,0,0,0,0,0\n"
)
SEQUENCE = {
    "a-1": {
        "features": [[2, 1.5, 1.5, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0, 0]],
        "intervals": [[0.0, 3.5], [3.5, 7.2500001]],
    },
    "z": {"features": [], "intervals": []},
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Labels/mturk_extra_v2.csv", RATERS),
        ("Labels/labels.csv", SEGMENTS),
        ("Labels/sequence.json", json.dumps(SEQUENCE)),
    ],
)
def test_mosei_segments_and_labels(tmp_path, caplog, name, text):
    write(mosei(tmp_path), f"Raw/{name}", text)
    rows, rejects = read(cmu_mosei, tmp_path)
    assert [(r["id"], r["start"], r["end"], r["text"], r["recording"]) for r in rows] == [
        ("a-1_0", "0.0", "3.5", "Hello ___ there.", "a-1"),
        ("a-1_1", "3.5", "7.25", "No.", "a-1"),
    ]
    assert [(r.get("label"), r["sentiment"]) for r in rows] == [("happiness", "2"), (None, "-1")]
    assert Path(rows[0]["video"]) == tmp_path / "Raw/Videos/Full/Combined/a-1.mp4"
    folder = "Raw/Transcript/Segmented/Combined"
    bad_label = [(f"Raw/{name}:5", "bad_line")] if text is SEGMENTS else []
    assert rejects == [
        *bad_label,
        (f"{folder}/a-1.txt:4", "bad_line"),
        (f"{folder}/b.txt:1", "missing_file"),
        ("Raw/Videos/Full/Combined/c.mp4", "no_lines"),
    ]
    if text is not json.dumps(SEQUENCE) and name.endswith("csv"):
        assert "1 labels are of segments that no transcript has: z_0" in caplog.text


def test_mosei_without_labels_is_for_pretraining(tmp_path, caplog):
    rows, _ = read(cmu_mosei, mosei(tmp_path))
    assert len(rows) == 2 and not any("label" in row for row in rows)
    assert "all rows are unlabelled" in caplog.text
    write(tmp_path, "Raw/Labels/x.json", '{"a-1": 3}')
    with pytest.raises(ClipTableError, match="no label sequence of CMU-MOSEI"):
        read(cmu_mosei, tmp_path)


def test_mosei_labels_of_both_kinds_go_together(tmp_path):
    write(mosei(tmp_path), "Raw/Labels/labels.csv", SEGMENTS.replace("a-1,1,-1", "a-1,9,-1"))
    sequence = {"a-1": SEQUENCE["a-1"], "y": {"features": [[0] * 7], "intervals": [[1, 2]]}}
    write(tmp_path, "Raw/Labels/sequence.json", json.dumps(sequence))
    write(tmp_path, "Raw/Transcript/Segmented/Combined/d.txt", b"d___0___0\0")
    rows, rejects = read(cmu_mosei, tmp_path)
    assert [row["sentiment"] for row in rows] == ["2", "-1"]
    assert ("Raw/Transcript/Segmented/Combined/d.txt", "unreadable_text") in rejects
