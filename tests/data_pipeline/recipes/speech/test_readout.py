import numpy as np

from data_pipeline.recipes.speech import readout
from data_pipeline.recipes.speech.prosody import prosody
from data_pipeline.recipes.speech.teachers import num_states

SECOND = 16_000


def glides(count: int) -> list[np.ndarray]:
    """Voices that rise or fall, with their own loudness over time."""
    rng, time_T = np.random.default_rng(0), np.arange(SECOND) / SECOND
    sounds = []
    for _ in range(count):
        low, high = rng.uniform(90, 300, 2)
        phase_T = 2 * np.pi * np.cumsum(low + (high - low) * time_T) / SECOND
        loud_T = 1.1 + np.sin(2 * np.pi * (rng.uniform(1, 3) * time_T + rng.random()))
        sounds.append((loud_T * (np.sin(phase_T) + 0.5 * np.sin(2 * phase_T))).astype(np.float32))
    return sounds


def test_prosody_is_read_where_it_is_and_not_where_it_is_not():
    sounds, tested = glides(90), [i >= 80 for i in range(90)]
    mixing = np.random.default_rng(1).standard_normal((4, 6))
    there = readout.prosody_r2(lambda x: prosody(x) @ mixing, 50.0, sounds, tested)
    assert there["log_f0"][0] > 0.9 and there["energy"][0] > 0.95
    assert there["energy"][1] == 10 * num_states(SECOND)
    rng = np.random.default_rng(2)
    absent = readout.prosody_r2(
        lambda x: rng.standard_normal((num_states(len(x)), 6)), 50.0, sounds, tested
    )
    assert absent["log_f0"][0] < 0.2 and absent["energy"][0] < 0.2


def test_states_of_another_rate_are_taken_at_the_same_time():
    ramp = np.arange(300.0)[:, None]  # three seconds at 100 a second
    state_SD = readout.at_50_hz(ramp, 100.0, 149)
    assert np.abs(state_SD[:, 0] / 100 - (np.arange(149) * 320 + 200) / SECOND).max() < 0.011
    np.testing.assert_array_equal(readout.at_50_hz(ramp[:149], 50.0, 149), ramp[:149])
    assert readout.at_50_hz(ramp[:49], 50 / 3, 149).shape == (149, 1)


def test_the_cosine_is_one_for_a_linear_image_of_the_teacher_and_none_for_noise():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((5, 8))

    def teacher(sound):
        return np.random.default_rng(int(sound[0])).standard_normal((100, 5))

    sounds = [np.full(10, i, np.float32) for i in range(8)]
    cosine, count = readout.teacher_cosine(
        lambda x: teacher(x) @ mixing, 50.0, teacher, sounds[:5], sounds[5:]
    )
    assert cosine > 0.99 and count == 300
    cosine, _ = readout.teacher_cosine(
        lambda x: rng.standard_normal((100, 8)), 50.0, teacher, sounds[:5], sounds[5:]
    )
    assert abs(cosine) < 0.2
