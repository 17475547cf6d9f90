import json

import numpy as np
import pytest

from data_pipeline.media.clip_media import open_clip
from data_pipeline.schema import SAMPLE_RATE, Clip
from data_pipeline.speaker.bench import read_labels
from data_pipeline.speaker.turns import (
    FPS,
    KINDS,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    Span,
    Talk,
    TurnsError,
    main,
    make_turn,
    panel_frames,
    plan,
)
from data_pipeline.speaker.voice import VoiceActivity


def talk(speaker: str, *, group: str = "a", seconds: float = 4.0, seen: bool = True) -> Talk:
    count = int(seconds * FPS)
    frames = np.zeros((count, 90, 120, 3), np.uint8)
    frames[:, 30:60, 45:75] = 200  # the face
    return Talk(
        speaker=speaker,
        group=group,
        video=f"{speaker}.mp4",
        frames_NHW3=frames if seen else None,
        seconds_N=np.arange(count) / FPS,
        box_4=np.array([45.0, 30, 75, 60]) if seen else None,
        sound_T=np.full(int(seconds * SAMPLE_RATE), 0.1, np.float32),
        voice=VoiceActivity(spans=[(0.5, seconds - 0.5)]),
    )


TALKS = [talk("ann"), talk("bob"), talk("cat", group="b"), talk("dan", group="b")]
TALKS += [talk("eve", seen=False), talk("fay", group="b", seen=False)]


def test_a_plan_has_every_kind_for_everybody_and_keeps_groups_apart():
    turns = plan(TALKS, 0)
    assert len(turns) == len(KINDS) * 4 * 3
    for turn in turns:
        people = [f.talk.speaker for f in turn["faces"]]
        groups = {f.talk.group for f in [*turn["faces"], turn["voice"]]}
        assert len(groups) == 1 and len(set(people)) == len(people)
        voice = turn["voice"].talk.speaker
        if turn["active"] is None:
            assert voice not in people
        else:
            assert people[turn["active"]] == voice
        if turn["kind"] == "muted_talker":
            assert turn["active"] is None
        if turn["kind"] == "both_lips":
            assert len(people) == 2
    assert {t["active"] for t in turns if t["kind"] == "both_lips"} == {0, 1}
    assert any(t["voice"].talk.speaker == "eve" for t in turns)


def test_one_seed_is_one_plan():
    def told(seed):
        return [
            (t["kind"], t["seconds"], t["voice"].talk.speaker, t["voice"].start, t["active"])
            for t in plan(TALKS, seed)
        ]

    assert told(1) == told(1) != told(2)


def test_short_talks_and_lone_people_are_told():
    with pytest.raises(TurnsError, match="ann talk for half"):
        plan([talk("ann", seconds=1.0), talk("bob")], 0)
    with pytest.raises(TurnsError, match="nobody beside ann"):
        plan([talk("ann")], 0)


def test_a_panel_has_the_face_in_its_middle_and_of_its_size():
    panel = panel_frames(Span(talk=TALKS[0], start=0.4), 2.0, 48)
    assert panel.shape == (50, PANEL_HEIGHT, PANEL_WIDTH, 3)
    bright_HW = panel[0, :, :, 0] > 100
    rows, columns = np.flatnonzero(bright_HW.any(1)), np.flatnonzero(bright_HW.any(0))
    assert len(columns) == pytest.approx(48, abs=2) and len(rows) == pytest.approx(48, abs=2)
    assert columns.mean() == pytest.approx(PANEL_WIDTH / 2, abs=2)
    assert rows.mean() == pytest.approx(PANEL_HEIGHT / 2, abs=2)


def test_a_turn_is_a_file_that_the_bench_can_read(tmp_path):
    turn = next(t for t in plan(TALKS, 0) if t["kind"] == "both_lips")
    (tmp_path / "clips").mkdir()
    entry = make_turn(turn, 7, tmp_path / "clips")
    (tmp_path / "labels.json").write_text(json.dumps([entry]))
    (video,) = read_labels(tmp_path)
    media = open_clip(Clip(id="x", video=str(video["path"])))
    assert (media.width, media.height) == (video["width"], video["height"])
    frames = np.concatenate([w.frames_NHW3 for w in media.windows()])
    assert len(frames) == video["n_frames"] == round(turn["seconds"] * FPS)
    assert len(media.sound_T) == pytest.approx(turn["seconds"] * SAMPLE_RATE, abs=1100)
    assert make_turn(turn, 7, tmp_path / "clips") == entry
    again = open_clip(Clip(id="x", video=str(video["path"])))
    assert (again.sound_T == media.sound_T).all()
    repeated = np.concatenate([w.frames_NHW3 for w in again.windows()])
    assert np.abs(repeated.astype(int) - frames).max() <= 4  # a grey level of YUV, in RGB


def test_a_bad_table_is_told(tmp_path, capsys):
    out = ["--output", str(tmp_path / "out")]
    assert main([str(tmp_path / "gone.csv"), *out]) == 2
    assert "no table" in capsys.readouterr().err
    table = tmp_path / "t.csv"
    table.write_text("video,speaker\na.mp4,ann\n")
    assert main([str(table), *out]) == 2
    assert "no start, end, group" in capsys.readouterr().err
    table.write_text("video,start,end,speaker,group\na.mp4,,,ann,x\n")
    assert main([str(table), *out]) == 2
    assert "a.mp4" in capsys.readouterr().err
    (tmp_path / "a.mp4").touch()
    table.write_text("video,start,end,speaker,group\na.mp4,soon,,ann,x\n")
    assert main([str(table), "--root", str(tmp_path), *out]) == 2
    assert "start 'soon'; expected seconds" in capsys.readouterr().err
