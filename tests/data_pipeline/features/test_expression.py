import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data_pipeline.features.densenet import FEATURE_WIDTH
from data_pipeline.features.expression import (
    ExpressionError,
    load_densenet,
    load_expression_encoder,
)
from data_pipeline.files.weights import ASSETS, WeightsError, sha256_of
from data_pipeline.schema import EXPRESSIONS

SHIPPED = ASSETS / "densenet_ferplus"


@pytest.fixture(scope="module")
def encoder():
    return load_expression_encoder()


def noise_crops(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(SHIPPED, tmp_path / "encoder")


def test_crops_give_features_and_probabilities(encoder):
    features, probs = encoder(noise_crops(3, encoder.crop_size))
    assert features.shape == (3, FEATURE_WIDTH) and features.dtype == np.float32
    assert probs.shape == (3, len(EXPRESSIONS)) and np.allclose(probs.sum(1), 1, atol=1e-5)
    assert np.isfinite(features.astype(np.float16)).all()


def test_the_spec_says_how_the_features_were_made(encoder):
    spec = encoder.spec
    assert (spec.name, spec.width, spec.rate_hz, spec.layer, spec.pooling) == (
        "densenet_ferplus", FEATURE_WIDTH, 10.0, -1, 1,
    )  # fmt: skip
    assert spec.weights_sha256 == sha256_of(SHIPPED / "model.safetensors")
    assert str(encoder.crop_size) in spec.preprocessing


def test_the_card_and_the_config_name_the_same_weights():
    config = json.loads((SHIPPED / "config.json").read_text())
    card = (SHIPPED / "README.md").read_text()
    assert f"weights_sha256: {config['weights_sha256']}" in card
    assert (SHIPPED / "model.safetensors").stat().st_size < 4_000_000


def test_the_same_call_gives_the_same_bytes(encoder):
    crops = noise_crops(40, encoder.crop_size)
    first, second = encoder(crops), encoder(crops)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def test_a_face_hardly_depends_on_those_beside_it(encoder):
    crops = noise_crops(35, encoder.crop_size)
    together = encoder(crops)
    alone = encoder(crops[33:34])
    for a, b in zip(together, alone, strict=True):
        assert np.abs(a[33] - b[0]).max() < 1e-4


def test_the_encoder_is_the_plain_network(encoder):
    from data_pipeline.features.densenet import normalize_faces

    model, _ = load_densenet(SHIPPED)
    crops = noise_crops(4, encoder.crop_size)
    with torch.inference_mode():
        features, logits = model(normalize_faces(torch.from_numpy(crops)))
    found, probs = encoder(crops)
    assert np.abs(found - features.numpy()).max() < 1e-4
    assert np.abs(probs - logits.softmax(1).numpy()).max() < 1e-4


def test_a_gpu_keeps_cudnn_without_tf32(encoder):
    cudnn, seen = torch.backends.cudnn, []
    before = (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32)
    handle = encoder._model.register_forward_pre_hook(
        lambda *_: seen.append((cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32))
    )
    encoder(noise_crops(1, encoder.crop_size))
    handle.remove()
    assert seen == [(True, True, False)]
    assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == before


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_crop_of_one_color_gives_finite_numbers_and_always_the_same(encoder, grey):
    size = encoder.crop_size
    features, probs = encoder(np.full((1, size, size), grey, np.uint8))
    blank, _ = encoder(np.zeros((1, size, size), np.uint8))
    assert np.isfinite(features).all() and np.isfinite(probs).all()
    assert np.array_equal(features, blank)


def test_no_crops_give_no_rows(encoder):
    size = encoder.crop_size
    features, probs = encoder(np.zeros((0, size, size), np.uint8))
    assert features.shape == (0, FEATURE_WIDTH) and probs.shape == (0, len(EXPRESSIONS))


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((2, 48, 48), np.float32),
        np.zeros((2, 1, 1), np.uint8),
        np.zeros((48, 48), np.uint8),
        np.zeros((2, 48, 48, 3), np.uint8),
    ],
    ids=["float", "one pixel", "no batch", "color"],
)
def test_other_crops_are_refused(encoder, crops):
    with pytest.raises(ExpressionError, match="expected uint8"):
        encoder(crops)


def test_weights_other_than_the_cards_are_refused(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="is not the file its card describes"):
        load_expression_encoder(str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing file", "no expression encoder at .*: expected config.json and model.safetensors"),
        ("no config", "config.json is not a config: "),
        ("classes", "config.json: classes .* this code knows"),
        ("key", "config.json: no weights_sha256, .*; expected"),
        ("other network", "model.safetensors holds no DenseNet-FER"),
    ],
)
def test_a_broken_folder_is_one_clear_error(folder, change, message):
    config_path, weights_path = folder / "config.json", folder / "model.safetensors"
    config = json.loads(config_path.read_text())
    if change == "missing file":
        weights_path.unlink()
    elif change == "no config":
        config_path.write_text("{")
    elif change == "classes":
        config_path.write_text(json.dumps(config | {"classes": list(reversed(EXPRESSIONS))}))
    elif change == "key":
        config_path.write_text(json.dumps({"name": "x"}))
    else:
        weights = load_file(weights_path)
        weights.pop("classifier.bias")
        save_file(weights, weights_path)
        sha = sha256_of(weights_path)
        config_path.write_text(json.dumps(config | {"weights_sha256": sha}))
    with pytest.raises(WeightsError, match=message):
        load_expression_encoder(str(folder))


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(WeightsError, match="nowhere"):
        load_expression_encoder("./nowhere")
