from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config

from data_pipeline.features.wav2vec2 import load_speech_encoder
from data_pipeline.files.weights import sha256_of
from data_pipeline.recipes import distil_wav2vec2 as distil
from data_pipeline.recipes.speech import lessons
from data_pipeline.recipes.speech.prosody import prosody
from data_pipeline.recipes.speech.teachers import num_states

SECOND = 16_000
RECIPE = distil.Recipe(
    steps=6,
    warmup_steps=2,
    batch_seconds=6.0,
    start="",
    targets=("base3", "tiny"),
    moment_weight=1.0,
    prosody_weight=1.0,
    own_weight=1.0,
    disturb="varied",
)


def toy_config(width: int) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
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
    """A folder of books: four sounds of each corpus, with states of no meaning."""
    rng = np.random.default_rng(0)
    for name in [*lessons.SHARES, "read0"]:
        times = [np.arange(int(s * SECOND)) / SECOND for s in (1.2, 2.0, 3.1, 4.0)]
        sounds = [np.sin(900 * t) + 0.1 * rng.standard_normal(len(t)) for t in times]
        rows = [
            (str(i), x, rng.standard_normal((num_states(len(x)), 1920)), prosody(x))
            for i, x in enumerate(sounds)
        ]
        lessons.write_book(tmp_path / f"{name}_1.0", rows)
    monkeypatch.setattr(distil, "student_config", toy_config)
    return tmp_path


def test_a_run_that_was_stopped_ends_where_an_unbroken_one_does(work):
    whole, broken = work / "whole", work / "broken"
    distil.train(whole, RECIPE, work, save_every=2, stop_at=None)
    distil.train(broken, RECIPE, work, save_every=2, stop_at=4)
    assert torch.load(broken / "state.pt", weights_only=True)["step"] == 4
    distil.train(broken, RECIPE, work, save_every=2, stop_at=None)
    states = [torch.load(run / "state.pt", weights_only=True) for run in (whole, broken)]
    assert states[0]["step"] == states[1]["step"] == 6
    assert distil.recipe_of(states[1]) == RECIPE
    for kind in ("student", "ema"):
        for name, value in states[0][kind].items():
            assert not value.requires_grad
            torch.testing.assert_close(states[1][kind][name], value, rtol=0, atol=0, msg=name)


def test_a_run_in_a_folder_of_another_recipe_is_refused(work):
    distil.train(work / "run", RECIPE, work, save_every=2, stop_at=2)
    with pytest.raises(ValueError, match="was started with"):
        distil.train(work / "run", replace(RECIPE, disturb="plain"), work, 2, stop_at=None)


def test_export_gives_an_encoder_with_its_hash_on_the_card(work, tmp_path, monkeypatch):
    sounds = {str(i): np.random.default_rng(i).standard_normal(SECOND, np.float32) for i in (1, 2)}
    heard = [SimpleNamespace(path=path, held_out=False) for path in sounds]
    unheard = SimpleNamespace(path="never read", held_out=True)
    monkeypatch.setattr(distil, "DISTILLED", ("toy",))
    monkeypatch.setattr(distil, "read_corpus", lambda name: [*heard, unheard])
    monkeypatch.setattr(distil, "read_sound", sounds.get)
    distil.train(work / "run", replace(RECIPE, steps=1), work, save_every=1, stop_at=None)
    out = tmp_path / "toy_encoder"
    out.mkdir()
    (out / "README.md").write_text(f"---\nweights_sha256: {'0' * 64}\n---\nA card.\n")
    digest = distil.export(work / "run", out)
    assert digest == sha256_of(out / "model.safetensors")
    assert f"weights_sha256: {digest}\n" in (out / "README.md").read_text()
    encoder = load_speech_encoder(str(out), pooling=1)
    state_SD = np.concatenate([encoder(x) for x in sounds.values()]).astype(np.float32)
    np.testing.assert_allclose(state_SD.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(state_SD.std(0), 1, atol=0.02)


def test_a_run_goes_on_only_with_its_own_recipe():
    recipe = distil.Recipe(steps=100, decay_share=0.3)
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
    loss, cosine = distil.state_loss(target_BSE, target_BSE)
    assert loss.item() == pytest.approx(0, abs=1e-5) and cosine.item() == pytest.approx(1)
    loss, cosine = distil.state_loss(-target_BSE, target_BSE)
    assert loss.item() > 3 and cosine.item() == pytest.approx(-1)


def test_the_loss_on_own_targets_is_of_masked_states_alone():
    target_BSD = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    mask_BS = torch.zeros(2, 5, dtype=torch.bool)
    answer_BSD = target_BSD + 1
    assert distil.own_loss(answer_BSD, target_BSD, mask_BS) == 0
    mask_BS[1, 2:4] = True
    torch.testing.assert_close(distil.own_loss(answer_BSD, target_BSD, mask_BS), torch.tensor(1.0))
    answer_BSD[1, 2:4] = target_BSD[1, 2:4]
    assert distil.own_loss(answer_BSD, target_BSD, mask_BS) == 0


def test_the_kernel_loss_sees_products_and_not_their_axes_or_scale():
    rng = torch.Generator().manual_seed(0)
    moment_BE2 = torch.randn(12, 30, generator=rng)
    turned = 3 * moment_BE2 @ torch.linalg.qr(torch.randn(30, 30, generator=rng))[0] + 7
    assert distil.kernel_loss(turned, moment_BE2).item() == pytest.approx(0, abs=1e-4)
    assert distil.kernel_loss(torch.randn(12, 30, generator=rng), moment_BE2).item() > 0.5


def test_an_unvoiced_pitch_costs_nothing():
    target_BSP = torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(0))
    answer_BSP = target_BSP.clone()
    voiced_BS = torch.arange(20).expand(2, 20) < 10
    answer_BSP[:, 10:, 0] += 5
    assert distil.prosody_loss(answer_BSP, target_BSP, voiced_BS) == 0
    answer_BSP[:, :10, 0] += 1
    assert distil.prosody_loss(answer_BSP, target_BSP, voiced_BS).item() == pytest.approx(0.25)
    answer_BSP[..., 2] += 1
    assert distil.prosody_loss(answer_BSP, target_BSP, voiced_BS).item() == pytest.approx(0.5)
    none = torch.zeros(2, 20, dtype=torch.bool)
    assert distil.prosody_loss(answer_BSP, target_BSP, none).isfinite()


def test_what_machines_read_has_its_share_of_a_batch():
    shares = replace(RECIPE, read_parts=2, read_share=0.3).shares
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["read0"] == shares["read1"] == pytest.approx(0.15)
    assert RECIPE.shares == lessons.SHARES
