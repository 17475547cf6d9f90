import copy

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from data_pipeline.recipes.speech import student

SECOND = 16_000


def toy_config(width: int = 32, layers: int = 2, inner: int = 24) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 16,
        intermediate_size=inner,
        conv_dim=(8,) * 7,
        conv_bias=True,
        feat_extract_norm="layer",
        feat_extract_activation="relu",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=width // 16,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
    )


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000, 20_001])
def test_channels_last_convolutions_are_the_plain_ones(samples):
    torch.manual_seed(0)
    plain = Wav2Vec2FeatureEncoder(toy_config())
    fast = student.ChannelsLastFeatureEncoder(toy_config())
    fast.load_state_dict(plain.state_dict())
    x_BT = torch.randn(2, samples)
    worst = (fast(x_BT) - plain(x_BT)).abs().max().item()
    assert plain(x_BT).shape == fast(x_BT).shape and worst < 1e-4, f"largest difference {worst}"


def random_encoder(config: Wav2Vec2Config, seed: int) -> Wav2Vec2Model:
    """Random weights of a size that every part of the network shows in the answer."""
    torch.manual_seed(seed)
    encoder = Wav2Vec2Model(config).eval()
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if weight.ndim > 1 and "conv" not in name:
                weight.normal_(std=0.2)
    return encoder


@torch.inference_mode()
def states(encoder: Wav2Vec2Model) -> torch.Tensor:
    sound_BT = torch.randn(2, 8000, generator=torch.Generator().manual_seed(3))
    return encoder(sound_BT).last_hidden_state


def test_a_start_of_the_same_shape_is_the_same_function():
    old, new = random_encoder(toy_config(), 0), random_encoder(toy_config(), 1)
    student.start_from(new, old.state_dict())
    torch.testing.assert_close(states(new), states(old))


def test_a_wider_start_answers_nearly_as_the_narrow_one():
    old, new = random_encoder(toy_config(), 0), random_encoder(toy_config(64), 1)
    before = torch.corrcoef(torch.stack([states(new)[..., :32].ravel(), states(old).ravel()]))[0, 1]
    student.start_from(new, old.state_dict())
    after = torch.corrcoef(torch.stack([states(new)[..., :32].ravel(), states(old).ravel()]))[0, 1]
    assert before < 0.6 and after > 0.98, (before, after)
    sound_BT = torch.randn(1, 4000)
    new.train()(sound_BT).last_hidden_state.square().sum().backward()
    fed = new.encoder.layers[0].feed_forward.output_dense.weight.grad
    assert fed[32:].abs().max() > 0  # what starts at zero can learn


def test_a_start_with_less_inside_keeps_the_strongest_and_drops_upper_layers():
    old = random_encoder(toy_config(inner=24), 0)
    with torch.no_grad():
        for layer in old.encoder.layers:
            layer.feed_forward.output_dense.weight[:, ::2] = 0  # every other one does nothing
    same = copy.deepcopy(old)
    same.load_state_dict(student.strongest_inner(old.state_dict()))
    torch.testing.assert_close(states(same), states(old), atol=1e-5, rtol=1e-4)
    new = random_encoder(toy_config(inner=12), 1)
    student.start_from(new, old.state_dict())
    torch.testing.assert_close(states(new), states(old), atol=1e-5, rtol=1e-4)
    low = random_encoder(toy_config(layers=1), 1)
    student.start_from(low, old.state_dict())
    kept = low.encoder.layers[0].attention.q_proj.weight
    torch.testing.assert_close(kept, old.encoder.layers[0].attention.q_proj.weight)


def test_what_ships_has_mean_zero_and_deviation_one_and_is_the_same_up_to_that():
    encoder = random_encoder(toy_config(), 0)
    sounds = [np.random.default_rng(i).standard_normal(SECOND).astype(np.float32) for i in range(3)]
    small = student.shipped(encoder, sounds)
    with torch.inference_mode():
        inputs = [torch.from_numpy(student.normalized(x))[None] for x in sounds]
        own = torch.cat([small(x).last_hidden_state for x in inputs], 1)[0]
        raw = torch.cat([encoder(x).last_hidden_state for x in inputs], 1)[0]
    np.testing.assert_allclose(own.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(own.std(0), 1, atol=1e-3)
    np.testing.assert_allclose(own, (raw - raw.mean(0)) / raw.std(0), atol=1e-2)


@pytest.mark.parametrize("width", sorted(student.SHAPES))
def test_every_shape_fits_8_mb_and_answers_for_each_state(width):
    model = student.Student(student.student_config(width), num_targets=7)
    assert 2 * sum(p.numel() for p in model.encoder.parameters()) < 7.9e6
    answers = model(torch.zeros(2, 8000))
    assert answers.state_BSE.shape == (2, 24, 7)
    assert answers.moment_BE2.shape == (2, 14) and answers.prosody_BSP.shape == (2, 24, 4)
