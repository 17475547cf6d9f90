"""Channels into one: nothing lost, nothing clipped, whatever microphones were live."""

from fractions import Fraction

import av
import numpy as np
import pytest

from data_pipeline.media.clip_media import open_clip
from data_pipeline.media.sound import SoundTrack, mix_weights
from data_pipeline.schema import Clip

SECONDS = 2.0
TIME = np.arange(int(16_000 * SECONDS)) / 16_000
TONE = (0.5 * np.sin(2 * np.pi * 300 * TIME)).astype(np.float32)
OTHER = (0.5 * np.sin(2 * np.pi * 470 * TIME)).astype(np.float32)
HISS = (0.05 * np.random.default_rng(0).standard_normal(len(TIME))).astype(np.float32)
ZERO = np.zeros_like(TONE)


def mono(channels: list[np.ndarray], layout: str) -> tuple[np.ndarray, list[str]]:
    """What a track makes of 16 kHz float sound in frames of 1024 samples."""
    track = SoundTrack(0.0, SECONDS)
    x_TC = np.stack(channels, axis=1)
    for first in range(0, len(x_TC), 1024):
        piece = np.ascontiguousarray(x_TC[first : first + 1024].reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(piece, format="flt", layout=layout)
        frame.rate, frame.pts, frame.time_base = 16_000, first, Fraction(1, 16_000)
        track.add(frame)
    return track.samples(SECONDS), track.notes


@pytest.mark.parametrize(
    ("layout", "channels", "expected"),
    [
        ("mono", [TONE], TONE),
        ("stereo", [TONE, OTHER], (TONE + OTHER) / 2),
        ("stereo", [TONE, TONE], TONE),
        ("stereo", [2 * TONE, 2 * TONE], 2 * TONE),
        ("stereo", [ZERO, TONE], TONE),
        ("stereo", [TONE, 0.001 * HISS], TONE),
        ("stereo", [TONE + HISS, TONE], TONE + HISS / 2),
        ("2 channels", [ZERO, TONE], TONE),
        ("5.1", [ZERO, ZERO, TONE, ZERO, ZERO, ZERO], TONE),
        ("5.1", [OTHER, OTHER, TONE, ZERO, ZERO, ZERO], (OTHER * 2**0.5 + TONE) / (1 + 2**0.5)),
        ("7.1", [ZERO] * 7 + [TONE], TONE),
        ("16 channels", [ZERO] * 9 + [TONE] + [ZERO] * 6, TONE),
    ],
)
def test_channels_are_mixed_without_loss_of_level_or_clipping(layout, channels, expected):
    sound_T, notes = mono(channels, layout)
    assert sound_T == pytest.approx(expected, abs=2e-3) and notes == []


@pytest.mark.parametrize(
    ("layout", "channels", "taken"),
    [
        ("stereo", [TONE, -TONE], 0),
        ("stereo", [-0.7 * TONE, TONE], 1),
        ("stereo", [TONE + HISS, HISS - TONE], 0),
        ("5.1", [TONE, -TONE, ZERO, ZERO, ZERO, ZERO], 0),
        ("6 channels", [ZERO, ZERO, ZERO, TONE, ZERO, ZERO], 3),
        ("16 channels", [ZERO] * 15 + [TONE], 15),
    ],
)
def test_a_mix_that_loses_the_sound_gives_way_to_a_channel(layout, channels, taken):
    sound_T, [note] = mono(channels, layout)
    expected = channels[taken]
    assert np.corrcoef(sound_T, expected)[0, 1] > 0.99
    assert np.abs(sound_T).max() == pytest.approx(np.abs(expected).max(), abs=0.01)
    assert f"channel {taken}" in note and note.startswith(f"{layout} sound: ")


def test_silence_and_two_unlike_voices_are_no_cancellation():
    sound_T, notes = mono([ZERO, ZERO], "stereo")
    assert not sound_T.any() and notes == []
    _, notes = mono([TONE, OTHER - 0.4 * TONE], "stereo")
    assert notes == []


@pytest.mark.parametrize("layout", ["mono", "stereo", "2.1", "quad", "5.1", "7.1", "16 channels"])
def test_the_weights_are_those_of_ffmpeg_and_sum_to_one(layout):
    weights_C = mix_weights(layout)
    assert len(weights_C) == av.AudioLayout(layout).nb_channels
    assert weights_C.sum() == pytest.approx(1.0) and (weights_C >= 0).all()
    if layout == "5.1":  # FL FR FC LFE BL BR: -3 dB, 0, none, -6 dB
        assert weights_C / weights_C[2] == pytest.approx([0.7071, 0.7071, 1, 0, 0.5, 0.5], abs=1e-3)


def test_a_file_whose_channels_cancel(shared_data):
    media = open_clip(Clip(id="x", video=str(shared_data / "odd_media/antiphase.mkv")))
    assert np.abs(media.sound_T).max() > 0.1
    [note] = media.notes
    assert note == "stereo sound: its channels cancel, so channel 0 alone is taken"
