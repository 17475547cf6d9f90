import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from data_pipeline.features.wav2vec2 import (
    ShortSoundError,
    SpeechEncoder,
    SpeechError,
    cut_above,
    load_speech_encoder,
    receptive_field,
)
from data_pipeline.files.weights import ASSETS, WeightsError, sha256_of
from data_pipeline.recipes.speech.student import student_config

SECOND = 16_000


def toy_config(norm: str) -> Wav2Vec2Config:
    return Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8,) * 7,
        conv_bias=norm == "layer",
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )


def save_toy(folder, norm: str = "layer", **extractor) -> str:
    torch.manual_seed(0)
    Wav2Vec2Model(toy_config(norm)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(**extractor).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("toys")
    return {norm: save_toy(base / norm, norm) for norm in ("layer", "group")}


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.1, int(seconds * SECOND)).astype(np.float32)


def test_ten_seconds_give_499_states_and_167_pooled(toys):
    encoder = load_speech_encoder(toys["layer"])
    assert encoder.num_states(10 * SECOND) == 499
    feature_SD = encoder(sound(10))
    assert feature_SD.shape == (167, 16) and feature_SD.dtype == np.float16
    assert encoder.spec.rate_hz == pytest.approx(50 / 3) and encoder.spec.width == 16
    assert encoder.spec.weights_sha256 == sha256_of(f"{toys['layer']}/model.safetensors")


def test_the_tail_is_the_mean_of_what_remains(toys):
    plain_SD = load_speech_encoder(toys["layer"], pooling=1)(sound(1)).astype(np.float32)
    pooled_SD = load_speech_encoder(toys["layer"], pooling=3)(sound(1)).astype(np.float32)
    assert len(plain_SD) == 49 and len(pooled_SD) == 17
    np.testing.assert_allclose(pooled_SD[0], plain_SD[:3].mean(0), atol=2e-3)
    np.testing.assert_allclose(pooled_SD[-1], plain_SD[48], atol=2e-3)


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("layer", [0, 1, 2, -2, 3, -1])
def test_a_layer_is_that_hidden_state_of_the_whole_model(toys, norm, layer):
    encoder = load_speech_encoder(toys[norm], layer=layer, pooling=1)
    model = Wav2Vec2Model.from_pretrained(toys[norm]).eval()
    x = sound(1)
    x_BT = torch.from_numpy((x - x.mean()) / np.sqrt(x.var() + 1e-7))[None]
    with torch.inference_mode():
        whole = model(x_BT, output_hidden_states=True)
    # The end is after the last norm, which transformers leaves out of hidden_states[-1].
    states = [*whole.hidden_states[:-1], whole.last_hidden_state]
    expected = states[layer][0].numpy()
    np.testing.assert_allclose(encoder(x).astype(np.float32), expected, atol=4e-3)
    assert encoder.spec.layer == {3: -1, -1: -1, -2: 2}.get(layer, layer)
    assert len(encoder.model.encoder.layers) == encoder.spec.layer % 4


@pytest.mark.parametrize("layer, pooling", [(4, 3), (-5, 3), (-1, 0)])
def test_a_layer_or_pooling_that_is_not_there_is_refused(toys, layer, pooling):
    with pytest.raises(SpeechError, match="hidden states 0 to 3"):
        load_speech_encoder(toys["layer"], layer=layer, pooling=pooling)


def test_windows_of_a_long_sound_meet_without_a_seam(toys):
    whole = load_speech_encoder(toys["layer"], pooling=1)(sound(12))
    encoder = load_speech_encoder(toys["layer"], pooling=1, window_seconds=6, margin_seconds=1.5)
    cut = encoder(sound(12))
    assert cut.shape == whole.shape
    # Context beyond the margin is lost, no state is lost, doubled or moved.
    similar = (cut * whole).sum(1) / np.linalg.norm(cut, axis=1) / np.linalg.norm(whole, axis=1)
    assert similar.min() > 0.98


def test_a_gpu_keeps_cudnn_without_tf32(toys):
    encoder, cudnn, seen = load_speech_encoder(toys["layer"]), torch.backends.cudnn, []
    encoder.model.register_forward_pre_hook(
        lambda *_: seen.append((cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32))
    )
    encoder(sound(1))
    assert seen == [(True, True, False)]


def test_margins_must_fit_into_the_window(toys):
    with pytest.raises(SpeechError, match="more than two margins"):
        load_speech_encoder(toys["layer"], window_seconds=4, margin_seconds=2)


def test_a_sound_shorter_than_one_state_says_both_lengths(toys):
    encoder = load_speech_encoder(toys["layer"])
    assert encoder.field == 400 == receptive_field((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    assert encoder(sound(1)[:400]).shape == (1, 16)
    for samples in (0, 399):
        with pytest.raises(ShortSoundError, match=rf"{samples} samples .* at least 400"):
            encoder(sound(1)[:samples])


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("level", [0.0, 1e-8, 0.5])
def test_silence_and_a_constant_give_finite_states(toys, norm, level):
    feature_SD = load_speech_encoder(toys[norm])(np.full(SECOND, level, np.float32))
    assert np.isfinite(feature_SD).all()


def test_clipped_and_loud_sound_is_encoded_at_any_level(toys):
    encoder = load_speech_encoder(toys["layer"])
    clipped = np.clip(sound(1) * 100, -1, 1)
    np.testing.assert_allclose(encoder(clipped), encoder(clipped * 300), atol=4e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sound_that_is_not_finite_is_refused(toys, value):
    broken = sound(1)
    broken[100:103] = value
    with pytest.raises(SpeechError, match="3 samples of 16000 that are NaN or infinite"):
        load_speech_encoder(toys["layer"])(broken)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((SECOND, 2), np.float32), np.zeros(SECOND), np.zeros(SECOND, np.int16), [0.0]],
)
def test_stereo_and_other_types_are_refused(toys, wrong):
    with pytest.raises(SpeechError, match=r"expected float32 \[T\], mono, 16000 Hz"):
        load_speech_encoder(toys["layer"])(wrong)


def test_weights_that_are_not_those_of_the_card_are_refused(tmp_path):
    folder = save_toy(tmp_path / "toy")
    digest = sha256_of(tmp_path / "toy" / "model.safetensors")
    card = tmp_path / "toy" / "README.md"
    card.write_text(f"---\nweights_sha256: {digest}\n---\n")
    load_speech_encoder(folder)
    card.write_text(f"---\nweights_sha256: {'0' * 64}\n---\n")
    with pytest.raises(WeightsError, match=f"{digest}, their card says 0000"):
        load_speech_encoder(folder)


def test_weights_that_lack_a_layer_are_refused(tmp_path):
    folder = save_toy(tmp_path / "toy")
    config = toy_config("layer")
    config.num_hidden_layers = 5
    config.save_pretrained(folder)
    with pytest.raises(WeightsError, match="lacks .* weights, first encoder.layers.3"):
        load_speech_encoder(folder)


def test_an_encoder_of_another_rate_or_without_its_preprocessor_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="hears 8000 Hz"):
        load_speech_encoder(save_toy(tmp_path / "low", sampling_rate=8000))
    folder = save_toy(tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="preprocessor_config.json"):
        load_speech_encoder(folder)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no model.safetensors"):
        load_speech_encoder(str(tmp_path))


def test_an_encoder_that_takes_raw_level_is_not_normalized(tmp_path):
    encoder = load_speech_encoder(save_toy(tmp_path / "raw", do_normalize=False))
    assert "raw" in encoder.spec.preprocessing
    assert np.abs(encoder(sound(1)) - encoder(sound(1) * 30)).max() > 1e-2


@pytest.mark.slow
def test_full_size_ten_seconds_with_random_weights(tmp_path):
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(tmp_path / "base")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "base")
    encoder = load_speech_encoder(str(tmp_path / "base"), layer=-1, pooling=3)
    assert encoder.num_states(10 * SECOND) == 499
    assert encoder(sound(10)).shape == (167, 768)
    assert (encoder.spec.layer, encoder.spec.pooling, encoder.spec.width) == (-1, 3, 768)


def test_the_shipped_shape_has_50_states_a_second_and_fits_8_mb():
    model = Wav2Vec2Model(student_config())
    assert 2 * sum(p.numel() for p in model.parameters()) < 8e6
    cut_above(model, 0)
    assert len(model.encoder.layers) == 0


def test_the_shipped_encoder_loads_and_hears():
    encoder = load_speech_encoder()
    assert isinstance(encoder, SpeechEncoder) and encoder.spec.name == "wav2vec2_small"
    folder = ASSETS / "wav2vec2_small"
    assert encoder.spec.weights_sha256 == sha256_of(folder / "model.safetensors")
    assert (folder / "model.safetensors").stat().st_size < 8e6
    feature_SD = encoder(sound(2))
    assert feature_SD.shape == (33, encoder.spec.width) and feature_SD.std() > 0
