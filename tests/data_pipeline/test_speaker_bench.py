import json
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipeline.speaker_bench import (
    METHODS,
    Turn,
    main,
    panel_of,
    read_labels,
    summary,
    wilson,
    write_table,
)


def turn(kind: str, truth: int | None, *answers: int | None) -> Turn:
    return Turn(
        video="a.mp4",
        kind=kind,
        start=0.0,
        end=3.0,
        truth=truth,
        num_panels=2,
        num_faces=2,
        answers=dict(zip(METHODS, answers, strict=True)),
        choice=SimpleNamespace(reason="only_mover", score=0.5, counts=[]),
    )


def test_wilson_by_hand():
    assert wilson(16, 16) == pytest.approx((0.8064, 1.0), abs=1e-4)
    assert wilson(2, 4) == pytest.approx((0.15, 0.85), abs=1e-2)
    assert wilson(0, 0) == (0.0, 1.0)


def test_summary_counts_right_answers_by_kind():
    turns = [
        turn("turn_taking", 0, 0, 1, 0),
        turn("turn_taking", 1, 1, 1, 0),
        turn("offscreen_voice", None, None, 0, 0),
    ]
    rows = [line.split("|")[1:-1] for line in summary(turns).splitlines()[2:]]
    rights = {row[0].strip(): [cell.split()[0] for cell in row[2:5]] for row in rows}
    assert rights == {
        "turn_taking": ["2", "1", "1"],
        "offscreen_voice": ["1", "0", "0"],
        "all": ["3", "1", "1"],
    }
    assert [row[5].strip() for row in rows] == ["0.7", "0.3", "1.0"]


def test_table_has_a_row_per_turn(tmp_path):
    write_table([turn("offscreen_voice", None, None, 0, 1)], tmp_path / "new" / "t.csv")
    header, row = (tmp_path / "new" / "t.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert (cells["truth"], cells["synchrony"], cells["loudest_mover"]) == ("nobody", "nobody", "1")


def test_panels_hold_the_middle_of_a_face():
    panels = [{"panel": 0, "x0": 0, "x1": 360}, {"panel": 1, "x0": 360, "x1": 720}]
    face = SimpleNamespace(track=SimpleNamespace(boxes_F4=np.array([[350.0, 0, 400, 50]])))
    assert panel_of(face, panels) == 1
    face.track.boxes_F4 = face.track.boxes_F4 + 800
    assert panel_of(face, panels) is None


def test_a_wrong_folder_is_told(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "labels.json" in capsys.readouterr().err
    (tmp_path / "labels.json").write_text(json.dumps([{"file": "gone.mp4"}]))
    with pytest.raises(ValueError, match=r"gone\.mp4"):
        read_labels(tmp_path)
