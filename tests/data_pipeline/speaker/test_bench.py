import json
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from data_pipeline.faces.finder import FaceFinder
from data_pipeline.speaker.bench import (
    METHODS,
    OUTSIDE,
    Turn,
    main,
    panel_of,
    read_labels,
    run_turn,
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
        panels=[0, 1],
        people=["ann", "bob"],
        networks={},
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


def face_at(x0: float, x1: float) -> SimpleNamespace:
    return SimpleNamespace(track=SimpleNamespace(boxes_F4=np.array([[x0, 0, x1, 50]])))


def test_panels_hold_the_middle_of_a_face():
    panels = [{"panel": 0, "x0": 0, "x1": 360}, {"panel": 1, "x0": 360, "x1": 720}]
    video = {"width": 720, "panels": panels}
    assert panel_of(face_at(350, 400), 720, video) == 1
    assert panel_of(face_at(320, 380), 720, video) == 0
    video["panels"] = panels[:1]
    assert panel_of(face_at(350, 400), 720, video) == OUTSIDE


def test_panels_and_scaled_frames_are_compared_in_one_frame():
    """A file of 720 x 1280 is decoded as 404 x 720: its right half begins at 202, not at 360."""
    panels = [{"panel": 0, "x0": 0, "x1": 360}, {"panel": 1, "x0": 360, "x1": 720}]
    video = {"width": 720, "panels": panels}
    assert panel_of(face_at(270, 330), 404, video) == 1
    assert panel_of(face_at(70, 130), 404, video) == 0


def test_a_face_outside_all_panels_is_not_nobody():
    """Where nobody speaks, choosing such a face is wrong."""
    assert not turn("offscreen_voice", None, OUTSIDE, None, None).right("synchrony")


@pytest.mark.slow
def test_a_tall_file_is_judged_as_its_smaller_twin(shared_data, tmp_path):
    """both_move_a, two people side by side, blown up to 1,280 lines."""
    folder = shared_data / "asd_composites"
    (video,) = (v for v in read_labels(folder) if v["file"] == "both_move_a.mp4")
    tall = tmp_path / "tall.mp4"
    with av.open(str(video["path"])) as source, av.open(str(tall), "w") as target:
        frames = source.streams.video[0]
        out = target.add_stream("libx264", rate=25)
        out.width, out.height, out.pix_fmt = 720, 1280, "yuv420p"
        out.options = {"preset": "ultrafast"}
        sound = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.stream is not frames and packet.dts is not None:
                packet.stream = sound
                target.mux(packet)
                continue
            for frame in packet.decode() if packet.stream is frames else []:
                picture = frame.to_image().crop((0, 0, 720, 288))
                canvas = Image.new("RGB", (720, 1280))
                canvas.paste(picture, (0, 496))
                new = av.VideoFrame.from_image(canvas)
                new.pts, new.time_base = frame.pts, frame.time_base
                target.mux(out.encode(new))
        target.mux(out.encode(None))
    labels = [{**video, "file": "tall.mp4", "height": 1280}]
    del labels[0]["path"]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tall_video,) = read_labels(tmp_path)
    finder = FaceFinder()
    for segment in video["segments"]:
        found = run_turn(tall_video, segment, finder)
        assert found.num_faces == 2 and found.right("synchrony"), found


def test_a_wrong_folder_is_told(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "labels.json" in capsys.readouterr().err
    (tmp_path / "labels.json").write_text("[]")
    with pytest.raises(ValueError, match="has no turn"):
        read_labels(tmp_path)
    (tmp_path / "labels.json").write_text(json.dumps([{"file": "gone.mp4", "segments": [{}]}]))
    with pytest.raises(ValueError, match=r"gone\.mp4"):
        read_labels(tmp_path)
    (tmp_path / "gone.mp4").touch()
    with pytest.raises(ValueError, match="width None"):
        read_labels(tmp_path)
