"""What is foreseen from headers is what an extraction then rejects."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipeline import doctor
from data_pipeline.config import load_config
from data_pipeline.doctor import check_columns, check_media
from data_pipeline.extraction import survey
from data_pipeline.extraction.config import DataConfig
from data_pipeline.extraction.survey import read_header
from data_pipeline.schema import Clip


def config(*overrides) -> DataConfig:
    return load_config(DataConfig, None, ["clips=x", "output=y", "device=cpu", *overrides])


def write(path: Path, *, video: bool = True, sound: bool = True, seconds: float = 2.0) -> Clip:
    with av.open(str(path), "w") as out:
        streams = []
        if video:
            stream = out.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            grey = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8))
            streams.append((stream, [grey] * round(25 * seconds)))
        if sound:
            stream = out.add_stream("pcm_s16le", rate=16000, layout="mono")
            wave = av.AudioFrame.from_ndarray(
                np.zeros((1, round(16000 * seconds)), np.int16), format="s16", layout="mono"
            )
            wave.rate, wave.time_base = 16000, Fraction(1, 16000)
            streams.append((stream, [wave]))
        for stream, frames in streams:
            for n, frame in enumerate(frames):
                frame.pts = n
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    return Clip(id=path.stem, video=str(path), text="hello")


@pytest.fixture
def clips(tmp_path) -> list[Clip]:
    """One clip a fault, and one without."""
    good = write(tmp_path / "good.mkv")
    (tmp_path / "pointer.mp4").write_text("version https://git-lfs.github.com/spec/v1\n")
    spans = {"late": (5, None), "past": (0, 3), "brief": (1, 1.3), "rounded": (0, 2.2)}
    return [
        good,
        write(tmp_path / "mute.mkv", sound=False),
        write(tmp_path / "heard.wav", video=False),
        write(tmp_path / "long.mkv", seconds=8),
        *(
            dataclasses.replace(good, id=name, start=float(a), end=b)
            for name, (a, b) in spans.items()
        ),
        dataclasses.replace(good, id="gone", video=str(tmp_path / "gone.mkv")),
        dataclasses.replace(good, id="folder", video=str(tmp_path)),
        dataclasses.replace(good, id="pointer", video=str(tmp_path / "pointer.mp4")),
        dataclasses.replace(good, id="wordless", text=None),
    ]


EXPECTED = {
    "mute": "no_sound",
    "heard": "no_video",
    "long": "too_long",
    "late": "empty_range",
    "past": "end_past_file",
    "brief": "too_short",
    "gone": "missing_file",
    "folder": "unreadable_video",
    "pointer": "unreadable_video",
    "wordless": "no_text",
}
REQUIRED = ("require=[face,speech,text]", "max_seconds=5")


def test_each_fault_is_foreseen_by_its_reason(clips):
    found = survey.survey(clips, config(*REQUIRED))
    assert (found.num_clips, found.num_files, found.num_opened) == (len(clips), 7, 7)
    counts = {reason: list(EXPECTED.values()).count(reason) for reason in EXPECTED.values()}
    assert found.reasons == counts and found.num_rejects == len(EXPECTED)
    for clip in clips:
        alone = survey.survey([clip], config(*REQUIRED))
        expected = [EXPECTED[clip.id]] if clip.id in EXPECTED else []
        assert list(alone.reasons) == expected, clip.id


def test_what_is_foreseen_is_what_the_extraction_says(clips):
    from data_pipeline.extraction.clip_extractor import ClipExtractor

    extractor = ClipExtractor(config(*REQUIRED))
    for clip in clips:
        # The good ones go on to where the header says nothing: no voice is in them.
        expected = EXPECTED.get(clip.id, "no_voice")
        if expected != "no_text":
            assert extractor(clip).reject.reason == expected, clip.id


def test_other_settings_keep_them(clips):
    of = {clip.id: clip for clip in clips}
    for name, *overrides in (
        ("mute", "require=[face]", "speaker=any_face"),
        ("heard", "require=[speech]"),
        ("long", "require=[face]"),
        ("past", "media.take_truncated=true"),
        ("brief", "min_seconds=0.2"),
        ("wordless", "require=[text]", "transcriber=somewhere"),
    ):
        assert survey.survey([of[name]], config(*overrides)).reasons == {}, name
    assert list(survey.survey([of["mute"]], config("require=[face]")).reasons) == ["no_sound"]


def test_the_doctor_counts_by_reason_with_an_example_and_the_setting(clips):
    sounds = [dataclasses.replace(clips[2], id=f"s{n}") for n in range(40)]
    finding, *_ = check_media(config(), [clips[0], *sounds])
    assert str(finding) == (
        "warning 40 of 41 clips have no picture and will be rejected (no_video), e.g. s0: only "
        "sound; require=[speech] keeps them"
    )
    levels = [finding.level for finding in check_media(config(), sounds)]
    assert levels == ["warning", "error"]
    [fine] = check_media(config("require=[speech]"), sounds)
    assert fine.level == "ok" and "none of 40 clips" in fine.what


def test_of_many_files_a_sample_is_opened_and_said_so(tmp_path, monkeypatch):
    source = write(tmp_path / "a.wav", video=False)
    table = []
    for n in range(12):
        (tmp_path / f"{n}.wav").hardlink_to(source.video)
        table += [
            dataclasses.replace(source, id=f"{n}-{k}", video=f"{tmp_path}/{n}.wav") for k in (0, 1)
        ]
    opened = []
    real = survey.read_header
    monkeypatch.setattr(survey, "MAX_FILES", 5)
    monkeypatch.setattr(survey, "read_header", lambda *a: opened.append(a) or real(*a))
    finding, *_ = check_media(config(), table)
    assert len(opened) == len(set(opened)) == 5
    assert "10 of 10 clips in a sample of 5 of the 12 files have no picture" in finding.what


def test_a_length_that_ffmpeg_guesses_foresees_nothing(tmp_path):
    clip = write(tmp_path / "a.mpg", sound=False)
    header = read_header(Path(clip.video))
    assert header.has_video and header.seconds is None and header.reason == ""


def test_the_doctor_counts_what_the_table_lacks(clips):
    table = [
        dataclasses.replace(clip, label=label, speaker=speaker)
        for clip, label, speaker in zip(
            clips, ["sad", "sad", "calm"], ["a", "b", None], strict=False
        )
    ]
    table.append(Clip(id="x", video="x", recording="r"))
    finding = check_columns(config(), table)
    assert finding.level == "ok"
    assert finding.what == (
        "of 4 clips, 1 without text, 1 without label, 2 without speaker; 2 speakers, 2 recordings; "
        "labels: 2 sad, 1 calm"
    )
    assert "transcriber=package:" in finding.fix
    assert check_columns(config("transcriber=x"), table).fix == ""


def test_a_table_of_bad_rows_alone_ends_with_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "check_encoders", lambda config: [])
    (tmp_path / "t.csv").write_text("video,start\na.mp4,x\nb.mp4,-1\n")
    words = [f"clips={tmp_path}/t.csv", f"output={tmp_path}/o"]
    assert doctor.main(words) == 2
    out = capsys.readouterr().out
    assert "error   no row is a clip: 2 rows of the table are no clips, first t.csv:2" in out
    write(tmp_path / "c.mkv")
    (tmp_path / "t.csv").write_text("video,start\na.mkv,x\nc.mkv,\n")
    assert doctor.main(words) == 0
    assert "warning 1 rows of the table are no clips" in capsys.readouterr().out
