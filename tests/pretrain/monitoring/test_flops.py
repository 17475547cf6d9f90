import numpy as np
import pytest

from pretrain.bench.models import SIZES, build
from pretrain.monitoring.flops import encoder_flops, encoder_shape, peak_tflops


def test_the_shape_is_read_off_the_encoder_and_the_bench_counts_alike():
    size = SIZES["small"]
    shape = encoder_shape(build(size, layers=2).encoder)
    assert shape == {"width": 384, "ffn_width": 1536, "num_layers": 2}
    lengths_N = np.array([7, 40])
    assert encoder_flops(47, 49 + 1600, **shape) == size.flops(lengths_N, layers=2)


@pytest.mark.parametrize(
    ("card", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L40", 181.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),  # a seventh of a card
        ("NVIDIA RTX A1000", None),  # no A100
        ("Tesla V100-SXM2-32GB", None),  # no bf16
        ("another", None),
    ],
)
def test_cards_have_the_peak_of_their_data_sheets(card: str, peak: float | None):
    assert peak_tflops(card) == peak
