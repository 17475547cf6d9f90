from dataclasses import fields

import numpy as np
import pytest
import torch

from data_pipeline.recipes.speech import lessons
from data_pipeline.recipes.speech.prosody import prosody
from data_pipeline.recipes.speech.teachers import num_states

SECOND = 16_000


def voiced(seconds: float, hz: float) -> np.ndarray:
    time_T = np.arange(int(seconds * SECOND)) / SECOND
    return np.sin(2 * np.pi * hz * time_T) + np.sin(4 * np.pi * hz * time_T)


def book_rows(seed: int):
    """Sounds of 1.2 to 4 s; the states of each hold its number and the place of the state."""
    rng = np.random.default_rng(seed)
    for i, seconds in enumerate((1.2, 2.0, 3.1, 4.0)):
        sound_T = (
            voiced(seconds, 100 + 20 * i + 30 * seed)
            + rng.standard_normal(int(seconds * SECOND)) / 9
        )
        states_SE = np.tile(rng.standard_normal(1920), (num_states(len(sound_T)), 1))
        states_SE[:, 0] = np.arange(len(states_SE))
        yield str(i), sound_T, states_SE, prosody(sound_T)


@pytest.fixture
def work(tmp_path):
    for seed, name in enumerate(lessons.SHARES):
        lessons.write_book(tmp_path / f"{name}_1.0", list(book_rows(seed)))
    return tmp_path


def test_a_book_gives_back_what_was_written(work):
    book = lessons.read_book(work / "ravdess_1.0")
    for lesson, (_, sound_T, states_SE, tone_SP) in zip(book, book_rows(0), strict=True):
        np.testing.assert_allclose(lesson.sound_T, sound_T, atol=0.01)
        np.testing.assert_allclose(lesson.states_SE, states_SE, atol=0.01)
        np.testing.assert_allclose(lesson.prosody_SP, tone_SP, atol=0.02)


def test_batches_are_the_same_for_the_same_step_and_fit_their_targets(work):
    drawn = lessons.Lessons(work, lessons.SHARES, targets=("tiny", "base3"))
    for step, states in ((0, 79), (1, 149)):
        batch, again = (drawn.batch(0, step, 6.0, 0.1) for _ in range(2))
        assert num_states(batch.sound_BT.shape[1]) == states
        assert batch.target_BSE.shape[1:] == (states, 384 + 512)
        assert batch.moment_BE2.shape == (len(batch.sound_BT), 2 * (384 + 512))
        for field in fields(batch):
            value = getattr(batch, field.name)
            assert torch.equal(value, getattr(again, field.name)), field.name
            assert len(value) == len(batch.sound_BT) and value.dtype in (torch.float32, torch.bool)
    assert not torch.equal(
        drawn.batch(0, 2, 6.0, 0.1).sound_BT, drawn.batch(0, 0, 6.0, 0.1).sound_BT
    )


def test_a_crop_and_its_targets_are_of_one_place(work):
    """The prosody of a clean crop is that of its lesson, except near its ends."""
    drawn = lessons.Lessons(work, lessons.SHARES)
    rng = np.random.default_rng(0)
    length = int(1.6 * SECOND)
    for lesson in drawn._sounds(length, 8, rng):
        crop = drawn._crop(lesson, length, rng)
        own_SP = prosody(crop.sound_T)
        own_SP[:, 2] -= np.median(own_SP[:, 2] - crop.prosody_SP[:, 2])  # its level is another
        np.testing.assert_allclose(own_SP[3:-3, 2:], crop.prosody_SP[3:-3, 2:], atol=0.05)
        assert (np.diff(crop.states_SE[:, 0]) == 1).all()


def test_a_batch_together_is_of_one_corpus(work):
    drawn = lessons.Lessons(work, lessons.SHARES, together=True)
    for seed in range(6):
        found = drawn._sounds(SECOND, 8, np.random.default_rng(seed))
        assert len(found) == 8
        assert any(all(any(x is y for y in book) for x in found) for book in drawn.books.values())


def test_targets_and_moments_are_on_one_scale(work):
    drawn = lessons.Lessons(work, lessons.SHARES, targets=("base4", "base"))
    batches = [drawn.batch(0, step, 24.0, 0.1) for step in range(1, 20, 2)]
    state = torch.cat([b.target_BSE.flatten(0, 1) for b in batches])
    mean = torch.cat([b.moment_BE2 for b in batches])[:, :1024]  # here no state leaves its mean
    assert 0.4 < state.std(0).mean() < 1.6 and 0.4 < mean.std(0).mean() < 1.6
    assert batches[0].voiced_BS.shape == batches[0].mask_BS.shape
    assert batches[0].voiced_BS.float().mean() > 0.9
    assert batches[0].prosody_BSP[..., 0].abs().max() < 5


def test_lessons_that_were_not_taught_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `teach` first"):
        lessons.Lessons(tmp_path, lessons.SHARES)


def test_a_book_that_was_broken_off_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons.np, "save", lambda *a: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        lessons.write_book(tmp_path / "grid_1.0", list(book_rows(0)))
    assert not (tmp_path / "grid_1.0").exists()


def test_speed_moves_length_and_pitch():
    tone_T = np.sin(2 * np.pi * 500 * np.arange(SECOND) / SECOND).astype(np.float32)
    fast_T = lessons.change_speed(tone_T, 1.1)
    assert len(fast_T) == pytest.approx(SECOND / 1.1, abs=1)
    peak = np.abs(np.fft.rfft(fast_T)).argmax() * SECOND / len(fast_T)
    assert peak == pytest.approx(550, abs=2)
