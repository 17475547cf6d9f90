import numpy as np
import pytest

from data_pipeline.faces.finder import FaceFinder
from data_pipeline.media.clip_media import open_clip
from data_pipeline.recipes.lip_sync import face_movement, own_sound_wins
from data_pipeline.schema import SAMPLE_RATE, Clip
from data_pipeline.speaker.synchrony import (
    LipSync,
    load_lip_sync,
    mouth_features,
    mouth_pictures,
    sound_features,
    time_grid,
)


def toy(num_pairs: int = 1) -> LipSync:
    """Movement against the mean of all bands."""
    mouth = np.zeros((7, num_pairs))
    mouth[4] = 1.0  # two shapes, two changes, then the movement
    sound = np.zeros((40, num_pairs))
    sound[:20] = 1.0
    basis = np.eye(192)[:, :2]
    weight = np.full(num_pairs, 1 / num_pairs)
    return LipSync(basis_PB=basis, mouth_VC=mouth, sound_AC=sound, weight_C=weight)


def flapping(seed: int, seconds: float = 3.0) -> tuple[np.ndarray, ...]:
    """mouth, movement, times, and a sound that is loud when the movement is large."""
    rng = np.random.default_rng(seed)
    at = np.arange(int(seconds * 25)) / 25
    knots = np.arange(0, seconds + 0.3, 0.3)
    level = np.interp(at, knots, rng.random(len(knots)))
    mouth = rng.integers(90, 110, (len(at), 36, 48)).astype(np.uint8)
    sample = np.interp(np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE, at, level)
    sound = (0.2 * np.exp(3 * sample - 3) * rng.standard_normal(len(sample))).astype(np.float32)
    return mouth, level, at, sound


def test_score_by_hand():
    """Against numpy's corrcoef at each lag, less half of its distance from 0.04 s."""
    mouth, level, at, sound = flapping(0)
    features = mouth_features(mouth, level, at, time_grid(at), np.eye(192)[:, :2])
    best = -1.0
    for lag in range(-4, 7):
        known = (at + lag / 25 >= 0) & (at + lag / 25 <= 3.0)
        heard = sound_features(sound, at[known] + lag / 25)[:, :20].sum(axis=1)
        best = max(best, np.corrcoef(features[known, 4], heard)[0, 1] - abs(lag / 25 - 0.04) / 2)
    assert toy().score(mouth, level, at, sound) == pytest.approx(best, abs=1e-9)
    assert toy(3).score(mouth, level, at, sound) == pytest.approx(best, abs=1e-9)
    assert best > 0.8


def test_shifts_within_the_lags_are_forgiven_and_others_are_not():
    mouth, level, at, sound = flapping(1, seconds=4.0)
    own = toy().score(mouth, level, at, sound)
    for shift, forgiven in ((0.2, True), (-0.1, True), (1.5, False), (-1.5, False)):
        moved = np.roll(sound, int(shift * SAMPLE_RATE))
        score = toy().score(mouth, level, at, moved)
        assert (score > own - 0.2) == forgiven, shift


def test_uneven_times_are_put_on_the_grid():
    mouth, level, at, sound = flapping(2)
    keep = np.sort(np.random.default_rng(0).choice(len(at), 50, replace=False))
    keep[0], keep[-1] = 0, len(at) - 1
    pictures = mouth_pictures(mouth[keep], at[keep], time_grid(at[keep]))
    assert pictures.shape == (75, 192)
    assert toy().score(mouth[keep], level[keep], at[keep], sound) > 0.8


def test_too_short_and_flat_are_defined():
    mouth, level, at, sound = flapping(3)
    model = load_lip_sync()
    assert model.score(mouth[:8], level[:8], at[:8], sound) is None
    assert model.score(mouth[:1], level[:1], at[:1], sound) is None
    assert model.score(mouth, level, at, np.zeros(0, np.float32)) is None
    assert model.score(mouth, level, at + 10, sound) is None
    flat = np.full_like(mouth, 80)
    assert model.score(flat, np.zeros(75), at, np.zeros_like(sound)) == 0.0


def test_loud_or_quiet_is_the_same():
    mouth, level, at, sound = flapping(4)
    a, b = (load_lip_sync().score(mouth, level, at, k * sound) for k in (1.0, 0.1))
    assert a == pytest.approx(b, abs=0.02)


@pytest.mark.slow
def test_real_mouths_know_their_own_sounds(shared_data):
    """Four people whom the maps never saw, each against the sounds of all."""
    finder, talks = FaceFinder(), []
    for name in ("bbaf2n", "lbbc2a", "pwij3p", "lwbsza"):
        media = open_clip(Clip(id="x", video=str(shared_data / f"grid_multi/clips/{name}.mpg")))
        (face,) = finder.find(media)
        talks.append((face, media.sound_T))
    assert own_sound_wins(load_lip_sync(), talks) >= 10 / 12
    face, sound = talks[0]
    scores = {
        load_lip_sync().score(face.mouth_FHW, face_movement(face), face.track.seconds_F, sound)
        for _ in range(2)
    }
    assert len(scores) == 1
