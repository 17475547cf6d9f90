import numpy as np
import pytest

from data_pipeline.recipes.speech import disturb

SECOND = 16_000


@pytest.mark.parametrize("kind", sorted(disturb.KINDS))
def test_disturbed_sound_is_finite_keeps_its_length_and_about_its_level(kind):
    sound_T = np.random.default_rng(0).standard_normal(SECOND)
    others = [np.zeros(SECOND), sound_T[::-1], -sound_T]
    levels = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        heard_T = disturb.disturb(kind, sound_T, others[: seed % 4], rng)
        assert heard_T.shape == sound_T.shape and np.isfinite(heard_T).all()
        levels.append(20 * np.log10(heard_T.std() / sound_T.std()))
    assert max(np.abs(levels)) < 3.1 and np.std(levels) > 0.5


def test_a_silent_crop_stays_finite():
    for seed in range(40):
        heard_T = disturb.disturb(
            "varied", np.zeros(SECOND), [np.zeros(SECOND)] * 3, np.random.default_rng(seed)
        )
        assert np.isfinite(heard_T).all()


def test_noise_lies_as_many_decibels_below_as_asked_for():
    rng = np.random.default_rng(0)
    sound_T, noise_T = rng.standard_normal(SECOND), 7 * rng.standard_normal(SECOND)
    added_T = disturb.mixed(sound_T, noise_T, 12.0) - sound_T
    assert 10 * np.log10(np.mean(sound_T**2) / np.mean(added_T**2)) == pytest.approx(12.0)


def test_a_room_keeps_the_direct_sound_in_its_place():
    click_T = np.zeros(SECOND)
    click_T[4000] = 1.0
    heard_T = disturb.in_a_room(click_T, np.random.default_rng(0))
    assert np.abs(heard_T).argmax() == 4000 and np.allclose(heard_T[:4000], 0, atol=1e-9)
    assert 0.04 < np.sum(heard_T[4001:] ** 2) <= 1.01


def test_a_narrow_band_has_nothing_above_it():
    noise_T = np.random.default_rng(0).standard_normal(SECOND)
    power = np.abs(np.fft.rfft(disturb.narrowed(noise_T, np.random.default_rng(1)))) ** 2
    assert power[7500:].mean() < 0.02 * power[1000:3000].mean()


def test_masks_cover_about_the_share_asked_for():
    rng = np.random.default_rng(0)
    shares = [disturb.span_mask(150, 0.2, rng).mean() for _ in range(100)]
    assert 0.1 < np.mean(shares) < 0.2  # spans overlap
    assert not disturb.span_mask(150, 0.0, rng).any()
