"""On a GPU: the features of the CPU."""

import numpy as np
import pytest
import torch

from data_pipeline.features.expression import load_expression_encoder
from data_pipeline.features.wav2vec2 import load_speech_encoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_speech_features_are_those_of_the_cpu():
    """Forty seconds, so that windows are joined, too."""
    rng = np.random.default_rng(1)
    sound_T = (0.1 * np.cumsum(rng.normal(size=40 * 16000)) / 100).astype(np.float32)
    sound_T -= sound_T.mean()
    expected, found = (load_speech_encoder(device=d)(sound_T) for d in ("cpu", "cuda"))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_face_features_and_probabilities_are_those_of_the_cpu():
    crops_NHW = np.random.default_rng(2).integers(0, 256, (70, 48, 48), dtype=np.uint8)
    expected, found = (load_expression_encoder(device=d)(crops_NHW) for d in ("cpu", "cuda"))
    for cpu, gpu in zip(expected, found, strict=True):
        np.testing.assert_allclose(gpu, cpu, atol=0.02 * np.abs(cpu).max())
