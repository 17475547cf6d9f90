import copy

import pytest
import torch
import torch.nn.functional as F

from data_pipeline.features.dense_block import fused_forward
from data_pipeline.features.densenet import (
    FEATURE_WIDTH,
    NUM_CLASSES,
    DenseBlock,
    DenseNetFER,
    FoldedDenseNet,
    normalize_faces,
)


def lived_in_model(seed: int = 0) -> DenseNetFER:
    """Norms as after training: statistics and weights away from 0 and 1."""
    torch.manual_seed(seed)
    model = DenseNetFER()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    return model.eval()


def test_the_network_has_the_weights_of_the_original():
    model = DenseNetFER()
    assert sum(p.numel() for p in model.parameters()) == 768_044


def test_channels_grow_and_halve_as_in_the_original():
    stages = list(DenseNetFER().blocks)
    assert [s.out_width for s in stages] == [216, 108, 300, 150, 342]
    assert [isinstance(s, DenseBlock) for s in stages] == [True, False, True, False, True]


@pytest.mark.parametrize("size", [48, 64])
def test_faces_of_both_sizes_give_a_feature_and_logits(size):
    with torch.inference_mode():
        features, logits = DenseNetFER().eval()(torch.randn(2, 1, size, size))
    assert features.shape == (2, FEATURE_WIDTH) and logits.shape == (2, NUM_CLASSES)


def test_the_folded_network_gives_the_same_numbers():
    model = lived_in_model()
    images = torch.randn(3, 1, 48, 48)
    with torch.inference_mode():
        plain, folded = model(images), FoldedDenseNet(model)(images)
    for name, a, b in zip(("features", "logits"), plain, folded, strict=True):
        assert a.abs().mean() > 0.01
        assert (a - b).abs().max() < 1e-4, f"{name} differ by {(a - b).abs().max():.2e}"


def test_a_face_of_one_color_is_normalised_to_zeros():
    images = torch.full((2, 48, 48), 200, dtype=torch.uint8)
    assert (normalize_faces(images) == 0).all()


def test_brightness_and_contrast_are_normalised_away():
    images = torch.rand(2, 48, 48) * 100 + 50
    change = (normalize_faces(images) - normalize_faces(images * 1.5 - 20)).abs().max()
    assert change < 1e-4


@pytest.mark.slow
def test_the_fused_training_step_gives_the_plain_ones_gradients():
    """Both run in bfloat16; the yardstick is how far the plain one is from float32."""
    torch.manual_seed(0)
    exact = lived_in_model().to(memory_format=torch.channels_last).train()
    plain, fused = copy.deepcopy(exact), copy.deepcopy(exact)
    images = torch.randn(16, 1, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, NUM_CLASSES, (16,))

    F.cross_entropy(exact(images)[1], targets).backward()
    with torch.autocast("cpu", torch.bfloat16):
        logits = plain(images)[1]
    F.cross_entropy(logits.float(), targets).backward()
    F.cross_entropy(fused_forward(fused, images)[1], targets).backward()

    def distances(model: DenseNetFER) -> torch.Tensor:
        pairs = zip(model.parameters(), exact.parameters(), strict=True)
        return torch.stack([(a.grad - b.grad).norm() / b.grad.norm() for a, b in pairs])

    assert distances(fused).mean() < 1.3 * distances(plain).mean()
    for (name, a), b in zip(fused.named_buffers(), exact.buffers(), strict=True):
        if a.is_floating_point():
            assert (a - b).norm() < 0.01 * b.norm(), name
        else:
            assert a == b, name
