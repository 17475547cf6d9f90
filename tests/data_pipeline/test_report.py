"""The report: rows that agree with the ledger, pictures that show what was found."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import toy_extractor as toy
from PIL import Image

from data_pipeline import report
from data_pipeline.extraction.preview import PreviewTap, make_preview
from data_pipeline.faces.finder import TrackedFace
from data_pipeline.report import data_report, draw_preview
from data_pipeline.runs.worker_pool import ExtractionError
from data_pipeline.schema import Clip, FaceTrack


def write_preview(folder: Path, name: str = "toy-000", **changes) -> Path:
    """A preview of two grey frames; face 1, on the right, speaks."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(2):
        file = io.BytesIO()
        Image.fromarray(np.full((120, 160, 3), 128, np.uint8)).save(file, "JPEG")
        (folder / f"{name}-{n}.jpg").write_bytes(file.getvalue())
    track = {"seconds": [0.0, 0.5, 1.0], "mouth_movement": [0.0, 0.1, 0.0]}
    about = {
        "clip": name,
        "text": "see <you>",
        "label": "anger",
        "duration": 2.0,
        "decoder": "decord: asked for",
        "outcome": "sample",
        "frames": [{"seconds": 0.5, "index": 12}, {"seconds": 1.5, "index": 37}],
        "tracks": [
            {**track, "boxes": {"0": [10, 30, 50, 80]}, "mouth_movement": [0.05] * 3},
            {**track, "boxes": {"0": [100, 30, 140, 80], "1": [100, 30, 140, 80]}},
        ],
        "speaker": 1,
        "voice": [[0.4, 1.1]],
        "waveform": {"seconds": [0.0, 1.0], "peak": [0.1, 0.5]},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(about | changes))
    return path


def has_color(picture: Path, color: str) -> bool:
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    pixels = (plt.imread(picture)[..., :3] * 255).round().astype(int)
    return bool((np.abs(pixels - wanted).max(axis=-1) <= 60).any())


def test_rows_agree_with_the_ledger(tmp_path):
    clips = toy.make_clips(["one two", "reject", "three"])
    toy.run_toy(tmp_path, clips, num_workers=1)
    write_preview(tmp_path / "previews")
    found = data_report(tmp_path)
    assert (found.num_clips, found.num_samples, found.num_rejects) == (3, 2, 1)
    assert [(r.clip, r.reason) for r in found.rejects] == [("toy-001", "reject")]
    assert {s.stage: s.seconds for s in found.stages} == {
        "media": pytest.approx(0.3),
        "speech": pytest.approx(0.4),
    }
    assert [(y.modality, y.samples, y.rows) for y in found.yields] == [
        ("text", 2, 3),
        ("speech", 2, 40),
    ]
    assert found.clips_per_second > 0 and found.workers == 1 and found.media_seconds == 2.0
    assert found.passport["speech"]["name"] == "toy"
    (preview,) = found.previews
    assert preview.caption == "label anger · 2.0 s · 2 face tracks · “see <you>” · sample"
    assert "clips 3 = samples 2 + rejects 1" in report.describe(found)


def test_the_speaker_is_green_and_the_others_are_not(tmp_path):
    preview = draw_preview(write_preview(tmp_path))
    strip, sound = preview.pictures
    for picture in (strip, sound):
        assert has_color(picture, report.SPEAKER_COLOR)
        assert has_color(picture, report.OTHER_COLOR)
    nobody = draw_preview(write_preview(tmp_path, "nobody", speaker=None, voice=[]))
    for picture in nobody.pictures:
        assert not has_color(picture, report.SPEAKER_COLOR)
        assert has_color(picture, report.OTHER_COLOR)


def test_the_crops_that_the_encoder_read_are_shown_at_the_times_of_the_frames(tmp_path):
    track = FaceTrack(
        seconds_F=np.arange(3, dtype="f4"),
        boxes_F4=np.full((3, 4), 10, "f4"),
        points_F52=np.zeros((3, 5, 2), "f4"),
        confidence_F=np.ones(3, "f4"),
        frame_F=np.arange(3),
    )
    patches = np.zeros((3, 36, 48), np.uint8)
    crops_KHW = np.stack([np.full((48, 48), v, np.uint8) for v in (40, 120, 240)])
    seconds_K = np.array([0.0, 0.5, 1.5], "f4")
    mine = TrackedFace(
        track=track,
        crops_KHW=crops_KHW,
        crop_seconds_K=seconds_K,
        mouth_FHW=patches,
        upper_FHW=patches,
    )
    tap = PreviewTap(SimpleNamespace(height=120, duration=2.0, sound_T=None, decoder="toy"))
    for index, seconds in enumerate((0.4, 1.6)):
        tap._keep(np.zeros((120, 160, 3), np.uint8), seconds, index)
    clip = Clip(id="toy-000", video="toy.mp4")
    kinds = {"faces": [mine], "voice_spans": [], "outcome": "sample"}
    preview = make_preview(clip, tap, speaker=0, **kinds)
    assert preview.about["crops"] == {"size": 48, "seconds": [0.5, 1.5]}
    assert len(preview.frames) == 3
    strip_HW = np.asarray(Image.open(io.BytesIO(preview.frames[2])))
    assert strip_HW.shape == (48, 96)
    assert np.abs(strip_HW[:, :48].astype(int) - 120).max() <= 2
    assert np.abs(strip_HW[:, 48:].astype(int) - 240).max() <= 2

    for n, frame in enumerate(preview.frames):
        (tmp_path / f"toy-000-{n}.jpg").write_bytes(frame)
    (tmp_path / "toy-000.json").write_text(json.dumps(preview.about))
    drawn = draw_preview(tmp_path / "toy-000.json").pictures
    assert [path.name for path in drawn] == [
        f"toy-000-{x}.png" for x in ("strip", "crops", "sound")
    ]
    assert all(Image.open(path).width <= 600 for path in drawn)
    assert has_color(drawn[1], "#787878") and has_color(drawn[1], "#f0f0f0")

    nobody = make_preview(clip, tap, speaker=None, **kinds)
    assert nobody.about["crops"] is None and len(nobody.frames) == 2


def test_a_reject_without_frames_or_sound_is_drawn_too(tmp_path):
    path = write_preview(
        tmp_path,
        frames=[],
        tracks=[],
        speaker=None,
        waveform=None,
        label=None,
        text=None,
        outcome="no_sound: the file has no sound",
    )
    preview = draw_preview(path)
    assert len(preview.pictures) == 1
    assert preview.caption == "2.0 s · 0 face tracks · reject, no_sound: the file has no sound"


def test_a_folder_that_is_no_extraction_says_what_to_run(tmp_path, capsys):
    with pytest.raises(ExtractionError, match="run python -m data_pipeline.extract"):
        data_report(tmp_path)
    assert report.main([str(tmp_path)]) == 2
    assert "no summary of an extraction" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        report.main([])
    assert "required: folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["summary.json", "rejects.csv", "passport.json"])
def test_a_file_that_is_gone_or_damaged_is_named(tmp_path, capsys, name):
    toy.run_toy(tmp_path, toy.make_clips(["one"]), num_workers=1)
    path = tmp_path / name
    for content in (b"\xff", None):
        path.write_bytes(content) if content else path.unlink()
        assert report.main([str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert str(path) in said and "extract" in said


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"frames": [1]}'])
def test_a_damaged_preview_costs_itself_only(tmp_path, caplog, content):
    toy.run_toy(tmp_path, toy.make_clips(["one"]), num_workers=1)
    write_preview(tmp_path / "previews")
    (tmp_path / "previews/bad.json").write_text(content)
    assert [p.title for p in data_report(tmp_path).previews] == ["toy-000"]
    assert "bad.json cannot be drawn" in caplog.text
