"""Files cut into utterances: bounds, windows, silences, voices."""

import av
import numpy as np
import pytest
from toy_videos import make

from data_pipeline.files.weights import ASSETS
from data_pipeline.media.clip_media import MediaError, open_clip
from data_pipeline.schema import SAMPLE_RATE
from data_pipeline.speaker import utterances
from data_pipeline.speaker.utterances import (
    MAX_SECONDS,
    MIN_SECONDS,
    PAD_SECONDS,
    cut_into_utterances,
)
from data_pipeline.speaker.voice import VoiceActivity

SAMPLES = ASSETS / "samples"
LIVE = {"live": "1"}
"""Of Matroska: as a recorder leaves it that cannot go back to write how long it was."""


@pytest.fixture
def voices(monkeypatch):
    """Let the detector hear a voice where the sound is loud."""

    def loud(sound_T):
        hop = SAMPLE_RATE // 100
        level_K = np.abs(sound_T[: len(sound_T) // hop * hop]).reshape(-1, hop).max(1) > 0.1
        edges = np.flatnonzero(np.diff(np.r_[False, level_K, False].astype(int))).reshape(-1, 2)
        return VoiceActivity(spans=[(a / 100, b / 100) for a, b in edges.tolist()])

    monkeypatch.setattr(utterances, "voice_activity", loud)


def write_sound(path, seconds, spans, pitch_of=lambda number: 200.0):
    """A tone in each of `spans`, silence between."""
    time_T = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound_T = np.zeros(len(time_T), np.float32)
    for number, (start, end) in enumerate(spans):
        inside_T = (time_T >= start) & (time_T < end)
        sound_T[inside_T] = 0.5 * np.sin(2 * np.pi * pitch_of(number) * time_T[inside_T])
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            (sound_T[None] * 32767).astype(np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    return path


def spans_of(cut):
    return [(piece.start, piece.end) for piece in cut.pieces if piece.voiced]


def test_short_pauses_join_and_long_ones_part(voices, tmp_path):
    spans = [(1, 2), (2.3, 3), (4, 5), (5.9, 6.05)]
    cut = cut_into_utterances(write_sound(tmp_path / "a.wav", 8, spans))
    assert spans_of(cut) == [(0.5, 3.5), (3.5, 5.45), (5.45, 6.55)]
    assert (cut.seconds, cut.has_sound, cut.has_video) == (8, True, False)
    assert all(end - start >= MIN_SECONDS for start, end in spans_of(cut))


def test_what_is_too_long_is_cut_at_its_longest_pause_or_in_the_middle(voices, tmp_path):
    cut = cut_into_utterances(write_sound(tmp_path / "a.wav", 40, [(1, 7), (7.3, 13), (15, 39)]))
    assert spans_of(cut)[:2] == [(0.5, 7.15), (7.15, 13.5)]
    rest = spans_of(cut)[2:]
    assert (rest[0][0], rest[-1][1]) == (14.5, 39.5) and len(rest) == 4
    assert all(end - start <= MAX_SECONDS + 2 * PAD_SECONDS for start, end in rest)
    assert all(a[1] == b[0] for a, b in zip(rest[:-1], rest[1:], strict=True))


def test_windows_change_no_cut(voices, tmp_path, monkeypatch):
    spans = [(start, start + 1.5) for start in np.arange(0.3, 58, 2.3).tolist()]
    path = write_sound(tmp_path / "a.wav", 60, spans)
    whole = cut_into_utterances(path)
    assert len(spans_of(whole)) == len(spans)
    monkeypatch.setattr(utterances, "WINDOW_SECONDS", 7.0)
    seen = []
    windowed = cut_into_utterances(path, on_window=seen.append)
    assert np.allclose(spans_of(windowed), spans_of(whole), atol=0.02)
    assert seen == pytest.approx([*np.arange(7, 57, 7), 60][: len(seen)], abs=7) and len(seen) == 9


def test_voices_part_what_a_pause_would_join(voices, tmp_path):
    spans = [(1, 2), (2.2, 3.2), (3.4, 4.4)]
    path = write_sound(tmp_path / "a.wav", 6, spans)
    cut = cut_into_utterances(
        path,
        embed=lambda sound_T, pieces: [np.ones(1)] * len(pieces),
        tell_apart=lambda embeddings, seconds: [0, 1, 1],
    )
    assert spans_of(cut) == [(0.5, 2.1), (2.1, 4.9)]
    assert [piece.voice for piece in cut.pieces] == [0, 1]


def test_what_is_too_short_to_tell_is_marked_unless_it_joins_one_that_is_not(voices, tmp_path):
    spans = [(1, 1.5), (2.5, 4), (4.2, 4.5), (6, 6.4), (6.6, 7)]
    cut = cut_into_utterances(
        write_sound(tmp_path / "a.wav", 8, spans),
        embed=lambda sound_T, pieces: [np.ones(1) if b - a > 1 else None for a, b in pieces],
        tell_apart=lambda embeddings, seconds: [0] * len(seconds),
    )
    assert [(piece.voice, piece.guessed) for piece in cut.pieces] == [
        (0, True),
        (0, False),
        (0, True),
    ]
    cut = cut_into_utterances(tmp_path / "a.wav")
    assert {(piece.voice, piece.guessed) for piece in cut.pieces} == {(None, False)}


def test_nothing_but_silence_and_nothing_to_read(tmp_path):
    cut = cut_into_utterances(write_sound(tmp_path / "a.wav", 8, []))
    assert cut.pieces == [] and cut.has_sound
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError):
        cut_into_utterances(tmp_path / "b.mp4")


def spoiled(path, broken):
    """The file with noise in the packets that `broken(kind, seconds)` names."""
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pos and broken(packet.stream.type, float(packet.pts * packet.time_base)):
                content[packet.pos : packet.pos + packet.size] = rng.bytes(packet.size)
    path.write_bytes(content)
    return path


def test_a_broken_picture_in_the_middle_costs_its_shots(voices, tmp_path, monkeypatch):
    monkeypatch.setattr(utterances, "WINDOW_SECONDS", 5.0)
    video = make(tmp_path / "a.mp4", seconds=20, tone_at=99, video_options={"g": "10"})
    cut = cut_into_utterances(spoiled(video, lambda kind, t: kind == "video" and 4.9 < t < 10.1))
    assert cut.seconds == pytest.approx(20, abs=0.1) and cut.pieces[-1].end == cut.seconds
    (note,) = cut.notes
    assert note == "from 5 s on its picture cannot be read: a.mp4: no frame can be decoded"


def test_a_window_that_cannot_be_read_is_passed_over(voices, tmp_path, monkeypatch):
    monkeypatch.setattr(utterances, "WINDOW_SECONDS", 5.0)

    def broken(clip, **settings):
        if clip.start in (5, 10):
            raise MediaError("unreadable_video", "a.mp4: damaged")
        return open_clip(clip, **settings)

    monkeypatch.setattr(utterances, "open_clip", broken)
    cut = cut_into_utterances(make(tmp_path / "a.mp4", seconds=20, audio=None))
    assert [(piece.start, piece.end) for piece in cut.pieces] == [(0, 5), (15, 20)]
    assert cut.notes == [
        "from 5 s on it cannot be read: a.mp4: damaged",
        "it can be read again from 15 s on",
    ]
    monkeypatch.setattr(utterances, "MAX_GAP_SECONDS", 10.0)
    cut = cut_into_utterances(tmp_path / "a.mp4")
    assert cut.seconds == 5
    assert cut.notes[-1] == "it was looked at no further than 15 s"


def test_a_live_recording_does_not_break_off(voices, tmp_path):
    video = make(tmp_path / "a.mkv", seconds=3, container_options=LIVE)
    with av.open(str(video)) as container:
        assert container.duration is None
    cut = cut_into_utterances(video)
    assert cut.notes == [] and cut.seconds == pytest.approx(3, abs=0.1)


@pytest.mark.slow
def test_real_speech_is_one_utterance_and_its_silence_is_the_pictures(shared_data):
    for path in sorted(SAMPLES.glob("*.flv")):
        cut = cut_into_utterances(path)
        assert [piece.voiced for piece in cut.pieces].count(True) == 1, path
        assert cut.has_video and 1.5 < cut.seconds < 4
    cut = cut_into_utterances(shared_data / "odd_media/two_tracks_first_silent.mkv")
    assert spans_of(cut), "the second track has the voice"
    silent = [p for p in (shared_data / "expression_videos/clips").iterdir() if p.suffix == ".mp4"]
    pieces = [piece for path in silent[:3] for piece in cut_into_utterances(path).pieces]
    assert any(not piece.voiced for piece in pieces)
    assert all(MIN_SECONDS <= piece.end - piece.start <= MAX_SECONDS + 1 for piece in pieces)
