"""Extraction with the encoders and the sample clips that ship, and with clips that are no good."""

import csv
import dataclasses
import errno
import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from data_pipeline import extract
from data_pipeline.config import ConfigError, dump_config, load_config
from data_pipeline.extraction import clip_extractor
from data_pipeline.extraction.clip_extractor import ClipExtractor
from data_pipeline.extraction.config import DataConfig
from data_pipeline.files.weights import ASSETS
from data_pipeline.media.clip_media import open_clip
from data_pipeline.report import data_report
from data_pipeline.runs import executor
from data_pipeline.runs.claim import check_claim, write_claim
from data_pipeline.runs.ledger import Summary
from data_pipeline.runs.worker_pool import ExtractionError
from data_pipeline.schema import Clip, ClipSample
from data_pipeline.shards import list_shards, load_passport, read_shard
from data_pipeline.table.clips import load_clips

SAMPLES = ASSETS / "samples"


def config(*overrides) -> DataConfig:
    return load_config(DataConfig, None, ["clips=x", "output=y", "device=cpu", *overrides])


@pytest.fixture(scope="module")
def extractor() -> ClipExtractor:
    return ClipExtractor(config())


@pytest.fixture
def with_settings(extractor, monkeypatch):
    """The same loaded encoders under other settings."""

    def change(*overrides) -> ClipExtractor:
        monkeypatch.setattr(extractor, "config", config(*overrides))
        return extractor

    return change


def sample_clip(kind: str = ".flv") -> Clip:
    return next(c for c in load_clips(SAMPLES / "clips.csv", []) if c.video.endswith(kind))


def write_video(path: Path, *, sound: str | np.ndarray | None, seconds: float = 1.5) -> Path:
    """A grey video without a face; its sound is a tone, silence, [T] at 16 kHz, or none."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        audio = out.add_stream("aac", rate=16000, layout="mono") if sound is not None else None
        for _ in range(round(25 * seconds)):
            frame = av.VideoFrame.from_ndarray(np.full((120, 160, 3), 90, np.uint8))
            out.mux(video.encode(frame))
        out.mux(video.encode())
        if audio is not None:
            wave = 0.3 * np.sin(2 * np.pi * 300 * np.arange(int(16000 * seconds)) / 16000)
            wave = wave * (sound == "tone") if isinstance(sound, str) else sound
            wave = wave.astype(np.float32)
            for start in range(0, len(wave) // 1024 * 1024, 1024):
                piece = np.ascontiguousarray(wave[None, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                frame.rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
                out.mux(audio.encode(frame))
            out.mux(audio.encode())
    return path


SHIPPED = {
    "default": (100, ("face", "speech"), 8),
    "demo": (3, ("speech",), 8),
    "grid": (50, ("face", "speech", "text"), 4),
}


@pytest.mark.parametrize(("name", "expected"), SHIPPED.items())
def test_every_config_that_ships_builds(root, name, expected):
    path = root / "configs" / "data" / f"{name}.yaml"
    built = load_config(DataConfig, path, ["clips=x", "output=y"])
    assert (built.clips, built.output) == ("x", "y")  # the command line's, not the file's
    assert (built.clips_per_shard, built.require, built.previews) == expected
    assert "-m data_pipeline.extract --config configs/data/" in path.read_text()


def test_streams_of_yaml_and_command_line_are_laid_on_one_another(tmp_path):
    (tmp_path / "a.yaml").write_text("streams: {speech: {encoder: mine, layer: 3}, fbank: }\n")
    words = ["clips=x", "output=y", "streams.speech.pooling=2", "streams.face.encoder=2024"]
    found = load_config(DataConfig, tmp_path / "a.yaml", words)
    assert found.extractors == {
        "face": {"encoder": "2024"},
        "speech": {"encoder": "mine", "layer": 3, "pooling": 2},
        "fbank": {"mel_bins": 80, "shift_ms": 10.0},
    }
    (tmp_path / "b.yaml").write_text(dump_config(found))
    assert load_config(DataConfig, tmp_path / "b.yaml", []) == found
    alone = load_config(DataConfig, tmp_path / "a.yaml", [*words[:2], *NO_FACE])
    assert alone.extractors.keys() == {"speech", "fbank"}
    (tmp_path / "b.yaml").write_text(dump_config(alone))
    assert load_config(DataConfig, tmp_path / "b.yaml", []) == alone
    assert config("speaker=none", "require=[speech]").extractors.keys() == {"speech"}


NO_FACE = ("streams.face=false", "require=[speech]")


def test_settings_are_what_decides_the_bytes():
    same = config("workers=7", "previews=9", "attempts=2", "array.count=4", "array.index=1")
    assert same.settings() == config().settings()
    assert config("min_seconds=1").settings() != config().settings()
    assert config("streams.speech.layer=2").settings() != config().settings()


def test_the_same_config_finds_its_folder_again(tmp_path):
    out = tmp_path / "out"
    words = ["clips=x", f"output={out}", "streams.speech.layer=2"]
    for _ in range(2):
        asked = load_config(DataConfig, None, words)
        check_claim(out, [], asked.settings(), dump_config(asked), Path("x"))
        write_claim(out, [], dump_config(asked), {})
    other = load_config(DataConfig, None, [*words[:2], "streams.speech.layer=3"])
    with pytest.raises(
        ExtractionError, match="streams: found .*'layer': 2.* expected .*'layer': 3"
    ):
        check_claim(out, [], other.settings(), dump_config(other), Path("x"))


def test_a_folder_is_not_continued_on_another_kind_of_device(tmp_path):
    def claim(device: str, out: Path) -> None:
        asked = load_config(DataConfig, None, ["clips=x", f"output={out}", f"device={device}"])
        check_claim(out, [], asked.settings(), dump_config(asked), Path("x"))
        write_claim(out, [], dump_config(asked), {})

    claim("cuda", tmp_path / "out")
    claim("cuda:1", tmp_path / "out")
    with pytest.raises(ExtractionError, match="(?s)device=cuda, and this run has device=cpu.*Give"):
        claim("cpu", tmp_path / "out")
    claim("auto", tmp_path / "before")  # by a version that wrote no more
    claim("cpu", tmp_path / "before")
    with pytest.raises(ExtractionError, match="device=cpu, and this run has device=cuda"):
        claim("cuda", tmp_path / "before")


def test_a_shard_of_a_gpu_names_it_among_what_made_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA of {device}")
    made = clip_extractor.library_versions("cuda:1")
    assert made == clip_extractor.library_versions() | {"device": "NVIDIA of cuda:1"}


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoints", "results.csv", "model.safetensors"])
def test_the_output_of_another_stage_is_no_place_for_shards(tmp_path, name):
    asked = load_config(DataConfig, None, ["clips=x", f"output={tmp_path}"])
    (tmp_path / name).touch()
    with pytest.raises(ExtractionError, match=rf"{tmp_path} is .*\(it holds {name}\)"):
        check_claim(tmp_path, [], asked.settings(), dump_config(asked), Path("x"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "require=[face,sound]",
            "require names sound; expected text, or .*face, face_probs, speech",
        ),
        ("streams.face=false", "require names face; expected text, or one of the streams speech"),
        ("speaker=nobody", "speaker"),
        ("speaker=none", "require cannot name face"),
        ("clips_per_shard=0", "clips_per_shard: Input should be greater than 0"),
        ("array.index=4", "the index runs from 0"),
        ("min_seconds=.nan", "min_seconds is nan; expected a number"),
        ("min_seconds=.inf", "min_seconds: Input should be a finite number"),
        ("clip_timeout_seconds=.inf", "clip_timeout_seconds: Input should be a finite number"),
        ("media.frames_per_second=0", "media.frames_per_second: Input should be greater"),
        ("media.max_height=0", "media.max_height: Input should be greater than 0"),
        ("media.audio_track=-1", "media.audio_track: Input should be greater than or equal"),
        ("media.window_seconds=-1", "media.window_seconds: Input should be greater than 0"),
        ("faces.detections_per_second=0", "faces.detections_per_second: Input should be"),
        ("faces.batch_frames=0", "faces.batch_frames: Input should be greater than 0"),
        ("faces.crop_size=32", "there is no setting 'faces.crop_size'"),
        ("active_speaker.min_synchrony=.nan", "min_synchrony is nan; expected a number"),
        ("streams.speech.enkoder=x", "the nearest is 'streams.speech.encoder'"),
        ("streams.speech.pooling=0", "streams.speech.pooling: Input should be greater than 0"),
        ("streams.speech.layer=top", r"streams.speech.layer: .* integer .*\(found 'top'\)"),
        ("streams.fbnk={}", "streams.fbnk: cannot import data_pipeline.features.fbnk"),
        ("streams={wave: {}}", "streams.wave: cannot import data_pipeline.features.wave"),
        ("streams.densenet={}", "data_pipeline.features.densenet makes no stream, it has no NEEDS"),
        ("speech.encoder=x", "is now called 'streams'; write streams.speech.encoder= for"),
        ("expression=x", "is now called 'streams'; write streams.face.encoder= for expression="),
        ("min_second=1", "the nearest is 'min_seconds'"),
    ],
)
def test_a_wrong_setting_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        config(override)


def test_a_talking_face_gives_a_whole_sample(extractor):
    clip = sample_clip()
    extraction = extractor(clip, preview=True)
    sample = extraction.sample
    assert extraction.reject is None
    sample.check(extractor.passport)
    assert sample.id == clip.id and sample.text == clip.text
    assert sample.words == clip.text.split()
    seconds = extraction.media_seconds
    face = sample.streams["face"]
    assert len(face) == pytest.approx(10 * seconds, abs=3)
    assert len(sample.streams["speech"]) == pytest.approx(50 / 3 * seconds, abs=3)
    assert 0 <= face.seconds_N[0] and face.seconds_N[-1] <= seconds
    assert sample.streams["face_probs"].values_ND.sum(axis=1) == pytest.approx(
        np.ones(len(face)), abs=0.01
    )
    assert sample.meta["label"] == clip.label and sample.meta["end"] == pytest.approx(seconds)
    assert sample.meta["speaker_score"] > 0
    assert set(extraction.seconds) >= {"media", "voice", "faces", "face", "speech"}
    preview = extraction.preview
    assert len(preview.about["frames"]) == 6
    assert len(preview.frames) == 6 + 1 and preview.about["crops"]  # the last one is of the crops
    assert preview.about["speaker"] is not None and preview.about["voice"]
    x0, y0, x1, y1 = preview.about["tracks"][preview.about["speaker"]]["boxes"]["2"]
    assert 0 <= x0 < x1 and 0 <= y0 < y1 <= 240


def test_the_same_clip_gives_the_same_features_again(extractor):
    first, again = (extractor(sample_clip()).sample for _ in range(2))
    assert first.streams.keys() == {"face", "face_probs", "speech"}
    for name, stream in first.streams.items():
        assert np.array_equal(stream.values_ND, again.streams[name].values_ND)
        assert np.array_equal(stream.seconds_N, again.streams[name].seconds_N)


def test_sound_alone_is_a_sample_only_where_no_face_is_required(with_settings):
    clip = sample_clip(".mp3")
    reject = with_settings()(clip).reject
    assert (reject.stage, reject.reason) == ("media", "no_video")
    extraction = with_settings("require=[speech]")(clip, preview=True)
    assert extraction.preview.frames == [] and extraction.preview.about["waveform"]
    sample = extraction.sample
    assert sample.streams.keys() == {"speech"}
    assert len(sample.streams["speech"]) > 10 and sample.meta["speaker_score"] is None


def test_text_that_is_absent_stays_absent_unless_it_is_required(with_settings):
    clip = dataclasses.replace(sample_clip(), text=None)
    sample = with_settings("require=[face]")(clip).sample
    assert sample.text is None and sample.words == []
    reject = with_settings("require=[text]")(clip).reject
    assert (reject.stage, reject.reason) == ("text", "no_text") and "transcriber" in reject.detail


def test_the_speaker_can_be_any_face_or_none(with_settings):
    clip = sample_clip()
    sample = with_settings("speaker=any_face")(clip).sample
    assert sample.has("face") and sample.meta["speaker_score"] is None
    sample = with_settings("speaker=none", "require=[speech]")(clip).sample
    assert sample.streams.keys() == {"speech"}


def test_a_stream_more_is_a_line_of_config_and_changes_no_other(extractor):
    clip = sample_clip()
    more = ClipExtractor(config("streams={fbank: {mel_bins: 40}, crops: {}}"))
    sample, plain = more(clip).sample, extractor(clip).sample
    assert sample.streams.keys() == {"face", "face_probs", "speech", "fbank", "crops"}
    sample.check(more.passport)
    for name, stream in plain.streams.items():
        assert np.array_equal(sample.streams[name].values_ND, stream.values_ND)
        assert np.array_equal(sample.streams[name].seconds_N, stream.seconds_N)
    assert sample.streams["fbank"].values_ND.shape[1] == 40
    crops = sample.streams["crops"]
    assert crops.values_ND.dtype == np.uint8 and crops.values_ND.shape[1] == 48 * 48
    assert np.array_equal(crops.seconds_N, sample.streams["face"].seconds_N)


def test_faces_of_two_sizes_are_one_error():
    with pytest.raises(ConfigError, match="streams.face 48, streams.crops 64; choose encoders of"):
        ClipExtractor(config("streams.crops.size=64"))


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (16, 160), (160, 16)])
def test_pictures_too_small_for_a_face_hold_none(tmp_path, with_settings, size):
    with av.open(str(tmp_path / "x.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for n in range(25):
            frame = np.full((*size[::-1], 3), 9 * n, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        out.mux(stream.encode())
    clip = Clip(id="x", video=str(tmp_path / "x.mkv"))
    reject = with_settings("require=[face]", "speaker=any_face")(clip, preview=True).reject
    assert (reject.stage, reject.reason) == ("faces", "no_face")


def test_no_mouth_in_step_with_the_voice_is_a_reject(with_settings):
    reject = with_settings("active_speaker.min_synchrony=1.1")(sample_clip()).reject
    assert (reject.stage, reject.reason) == ("active_speaker", "off_screen_voice")
    assert "1 face, " in reject.detail
    assert "expected active_speaker.min_synchrony=1.1" in reject.detail


def test_a_speaker_missed_is_told_with_what_was_measured_and_the_setting(with_settings):
    reject = with_settings("active_speaker.min_match_share=1")(sample_clip()).reject
    assert reject.reason == "no_mouth_movement" and "in a share of 0." in reject.detail
    assert "expected active_speaker.min_match_share=1" in reject.detail
    reject = with_settings("active_speaker.min_voice_seconds=60")(sample_clip()).reject
    assert reject.reason == "no_voice" and "s of voice; expected" in reject.detail


def test_a_clip_within_which_the_file_breaks_off_is_a_reject(tmp_path, with_settings):
    whole = Path(sample_clip().video)
    cut = tmp_path / "cut.flv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    clip = dataclasses.replace(sample_clip(), video=str(cut))
    reject = with_settings()(clip).reject
    assert (reject.stage, reject.reason) == ("media", "truncated")
    assert re.match(
        r"the file breaks off at 1\.\d\d s of [23]\.\d\d s; copy it again, or set "
        r"media.take_truncated=true",
        reject.detail,
    )
    assert with_settings()(dataclasses.replace(clip, end=0.9)).sample is not None
    assert with_settings("media.take_truncated=true")(clip).sample.text == clip.text
    other = with_settings("media.take_truncated=true", "min_seconds=60")(clip).reject
    assert other.reason == "too_short" and "; the file breaks off at 1." in other.detail


def write_tracks(path: Path, *sounds: np.ndarray) -> Path:
    """Sound tracks of [T] at 16 kHz side by side, without picture."""
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in sounds]
        streams[-1].metadata["title"] = "last"
        for stream, wave_T in zip(streams, sounds, strict=True):
            frame = av.AudioFrame.from_ndarray(
                (wave_T[None] * 32767).astype(np.int16), format="s16", layout="mono"
            )
            frame.rate = 16000
            out.mux([*stream.encode(frame), *stream.encode()])
    return path


def speech_of(sample: ClipSample) -> np.ndarray:
    return sample.streams["speech"].values_ND


def test_a_track_with_a_voice_is_taken_for_a_silent_one(tmp_path, with_settings):
    voice_T = open_clip(sample_clip(".mp3")).sound_T
    hum_T = (0.1 * np.sin(2 * np.pi * 50 * np.arange(len(voice_T)) / 16_000)).astype(np.float32)
    path = write_tracks(tmp_path / "x.mkv", 0 * voice_T, hum_T, voice_T)
    clip = Clip(id="x", video=str(path))
    extract = with_settings("require=[speech]")
    extraction = extract(clip)
    [note] = extraction.notes
    tracks = "0 (pcm_s16le, mono); 1 (pcm_s16le, mono); 2 (pcm_s16le, mono, last)"
    assert f"{tracks}, number 2 is taken, as track 0 is silent" in note
    assert extraction.sample.meta["notes"] == [note]
    plain = extract(Clip(id="x", video=str(write_tracks(tmp_path / "y.mkv", voice_T)))).sample
    assert (
        np.array_equal(speech_of(extraction.sample), speech_of(plain)) and "notes" not in plain.meta
    )
    chosen = with_settings("require=[speech]", "media.audio_track=2")(clip)
    assert np.array_equal(speech_of(chosen.sample), speech_of(plain))


def test_a_voice_on_another_track_is_named_where_the_one_taken_has_none(tmp_path, with_settings):
    voice_T = open_clip(sample_clip(".mp3")).sound_T
    hum_T = (0.1 * np.sin(2 * np.pi * 50 * np.arange(len(voice_T)) / 16_000)).astype(np.float32)
    clip = Clip(id="x", video=str(write_tracks(tmp_path / "x.mkv", hum_T, voice_T)))
    for setting in ("media.audio_track=null", "media.audio_track=0"):
        reject = with_settings("require=[speech]", setting)(clip).reject
        assert reject.reason == "no_voice"
        assert re.search(r"track 1 has \d\.\d\d s of voice: media.audio_track=1 ta", reject.detail)
    gone = with_settings("require=[speech]", "media.audio_track=2")(clip).reject
    assert gone.reason == "no_audio_track" and "it has 2, counted from 0" in gone.detail


def test_real_files_of_two_tracks_and_of_channels_that_cancel(shared_data, with_settings):
    odd = shared_data / "odd_media"
    for name in ("two_tracks_first_silent.mkv", "antiphase.mkv"):
        extraction = with_settings()(Clip(id="x", video=str(odd / name)))
        assert extraction.sample.has("speech") and extraction.sample.has("face")
        assert len(extraction.notes) == 1


def test_a_clip_that_ends_behind_its_file_is_a_reject(with_settings):
    clip = sample_clip()
    seconds = open_clip(clip).duration
    late = dataclasses.replace(clip, end=seconds + 0.6)
    reject = with_settings()(late).reject
    assert (reject.stage, reject.reason) == ("media", "end_past_file")
    assert re.search(rf"ends at {late.end:.2f} s, but .*flv at {seconds:.2f} s, so", reject.detail)
    sound = dataclasses.replace(sample_clip(".mp3"), end=60.0)
    assert with_settings("require=[speech]")(sound).reject.reason == "end_past_file"
    # Tables round their times.
    rounded = dataclasses.replace(clip, end=seconds + 0.2)
    assert with_settings()(rounded).sample.meta["end"] == pytest.approx(seconds)
    extraction = with_settings("media.take_truncated=true")(late)
    assert extraction.sample.text == clip.text
    assert extraction.sample.meta["end"] == pytest.approx(seconds)
    assert extraction.notes == [
        f"the clip should end at {late.end:.2f} s, but the file ends at {seconds:.2f} s"
    ]


def test_a_bound_on_length_is_kept(with_settings):
    reject = with_settings("min_seconds=60")(sample_clip()).reject
    assert reject.reason == "too_short" and "min_seconds=60" in reject.detail
    assert with_settings("max_seconds=1")(sample_clip()).reject.reason == "too_long"


def test_an_error_of_the_gpu_is_for_the_worker_to_answer(extractor, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(clip_extractor, "voice_activity", full)
    with pytest.raises(torch.OutOfMemoryError):
        extractor(sample_clip())


def test_an_unexpected_error_is_a_reject_that_says_where(extractor, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("no such voice")

    monkeypatch.setattr(clip_extractor, "voice_activity", broken)
    reject = extractor(sample_clip()).reject
    assert (reject.stage, reject.reason) == ("voice", "error")
    assert "ZeroDivisionError: no such voice (test_extract.py:" in reject.detail


def test_a_preview_that_cannot_be_made_costs_no_sample(extractor, monkeypatch, caplog):
    def broken(*_, **__):
        raise ZeroDivisionError("no picture")

    monkeypatch.setattr(clip_extractor, "make_preview", broken)
    extraction = extractor(sample_clip(), preview=True)
    assert extraction.sample is not None and extraction.preview is None
    assert "its preview cannot be made" in caplog.text and "no picture" in caplog.text


BAD_ROWS = [
    ("gone.mp4", "", "", "missing_file"),
    ("noise.mp4", "", "", "unreadable_video"),
    ("cut.flv", "", "", "unreadable_video"),
    ("folder", "", "", "unreadable_video"),
    ("mute.mp4", "", "", "no_sound"),
    ("silence.mp4", "", "", "no_voice"),
    ("tone.mp4", "", "", "no_voice"),
    ("faceless.mp4", "", "", "no_face"),
    ("sound.mp3", "", "", "no_video"),
    ("good.flv", "0.4", "0.5", "too_short"),
    ("good.flv", "900", "", "empty_range"),
    ("good.flv", "0.5", "9", "end_past_file"),
    ("good.flv", "x", "", "bad_number"),
    ("good.flv", "2", "1", "empty_span"),
    ("/etc/passwd", "", "", "unreadable_video"),
]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_table_of_bad_clips_ends_as_rows_and_the_counts_add_up(tmp_path, capsys):
    folder = tmp_path / "clips"
    (folder / "folder").mkdir(parents=True)
    good = Path(sample_clip().video)
    shutil.copy(good, folder / "good.flv")
    shutil.copy(sample_clip(".mp3").video, folder / "sound.mp3")
    (folder / "cut.flv").write_bytes(good.read_bytes()[:200])
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    write_video(folder / "mute.mp4", sound=None)
    write_video(folder / "silence.mp4", sound="silence")
    write_video(folder / "tone.mp4", sound="tone")
    speech_T = open_clip(sample_clip(".mp3")).sound_T
    write_video(folder / "faceless.mp4", sound=speech_T, seconds=len(speech_T) / 16_000)
    rows = [("good.flv", "", "", "", "hello there"), ("good.flv", "0.2", "", "", "")]
    rows += [("good.flv", "", "", "", "the same id again")]
    rows += [("good.flv", "0.1", "", "../../x", "an unsafe name")]
    rows += [(*row[:3], "", "") for row in BAD_ROWS]
    table = "\n".join(",".join(row) for row in [("video", "start", "end", "id", "text"), *rows])
    (folder / "t.csv").write_bytes(table.encode() + b"\ngood.flv,0.3,,,not \xff UTF-8\n")

    out = tmp_path / "out"
    words = [f"clips={folder}/t.csv", f"output={out}", "device=cpu", "workers=2", "previews=2"]
    assert extract.main(words) == 0
    num_rows = len(rows) + 1
    end = capsys.readouterr().out.splitlines()[-1]
    assert end == f"input clips {num_rows} = samples 2 + rejects {num_rows - 2}"
    with open(out / "rejects.csv", newline="") as file:
        rejects = list(csv.DictReader(file))
    found = sorted(reject["reason"] for reject in rejects)
    expected = [row[3] for row in BAD_ROWS] + ["duplicate_id", "unsafe_id", "not_utf8"]
    assert found == sorted(expected)
    assert all(reject["clip"] and reject["stage"] and reject["detail"] for reject in rejects)
    samples = [sample for tar in list_shards(out) for sample in read_shard(tar, verify=True)]
    assert [sample.text for sample in samples] == ["hello there", None]
    assert samples[1].meta["start"] == 0.2
    assert load_passport(out).keys() == {"face", "face_probs", "speech"}
    report = data_report(out)
    assert report.num_rejects == num_rows - 2 and len(report.previews) == 2
    # Nothing was written beside the output folder.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "out"]


def test_a_full_disk_is_told_with_the_way_on(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(executor, "execute", full)
    assert extract.main([f"clips={SAMPLES}", f"output={tmp_path}/out"]) == 2
    said = capsys.readouterr().err
    assert f"the disk of {tmp_path}/out is full" in said and "goes on from here" in said


def test_a_slip_in_the_config_is_told_before_torch_is_loaded(root):
    script = (
        "import sys; from data_pipeline import extract\n"
        "assert extract.main(['clips=x', 'output=y', 'wrkers=2']) == 2\n"
        "assert not {'torch', 'transformers', 'scipy'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)


def test_a_run_without_samples_says_so():
    summary = Summary(
        num_clips=2,
        num_samples=0,
        num_rejects=2,
        num_shards=1,
        num_shards_done=1,
        reasons={"no_voice": 2},
        error_shards=[],
        stage_seconds={},
        media_seconds=2.0,
        last_run={"clips": 2, "workers": 1, "wall_seconds": 4.0, "clips_per_second": 0.5},
    )
    *_, speed, rejects, count, end = extract.describe(summary, "out").splitlines()
    assert speed.startswith("the last run that had clips to do: 2 in 4.0 s")
    assert end == "No clip became a sample, so there is nothing to train on."


def test_a_table_that_is_none_ends_with_one_line(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("file,text\na.mp4,hello\n")
    assert extract.main([f"clips={tmp_path}/t.csv", f"output={tmp_path}/out"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("extract: ") and "no column `video`" in error
    assert extract.main(["clips=x", f"output={tmp_path}/out", "wrkers=2"]) == 2
    assert "the nearest is 'workers'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
