"""Arithmetic of the encoder, and the most that a GPU does: the two of which MFU is the ratio.

Model FLOPs, as in PaLM (Chowdhery et al. 2022, appendix B): what the equations of real positions
need, whatever a program does. Padding does not count; nor does it count less that the last layer's
feed-forward runs at the masked positions alone, or more that a layer is computed again.
"""

import re

from pretrain.model.encoder import Encoder

PEAK_TFLOPS = {
    "A30": 165.0,
    "A40": 149.7,
    "A100": 312.0,
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
    "H100": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H200": 989.0,
    "H200 NVL": 835.0,
    "GH200": 989.0,
    "B200": 2250.0,
}
"""Dense bf16, by words of the name that torch gives a card: from NVIDIA's data sheets, halved where
they tell the figure with sparsity. H100 and H200 without a further word are SXM. V100 and T4 have
no bf16."""


def encoder_shape(encoder: Encoder) -> dict[str, int]:
    """What `encoder_flops` must know of it."""
    dense = encoder.layer[0].intermediate.dense
    return {
        "width": dense.in_features,
        "ffn_width": dense.out_features,
        "num_layers": len(encoder.layer),
    }


def encoder_flops(
    positions: float, squares: float, *, width: int, ffn_width: int, num_layers: int
) -> float:
    """Of forward and backward, at the positions of some clips.

    A product of [n, k] and [k, m] is 2 n k m; backward is two products for each of forward. A layer
    has four of width x width and two of width x inner width a position, and in attention two of
    length x width a position. Embeddings, norms, GELU and heads are not counted.

    Args:
        positions: of all clips together.
        squares: the sum over the clips of their positions squared.
    """
    weights = 4 * width**2 + 2 * width * ffn_width
    forward = 2 * (weights * positions + 2 * width * squares)
    return 3 * forward * num_layers


def peak_tflops(card: str) -> float | None:
    """Of a card by its name; None: not in the table, or a part of one (MIG)."""
    words = set(re.split(r"[\s-]+", card))
    found = [name for name in PEAK_TFLOPS if words.issuperset(name.split())]
    return PEAK_TFLOPS[max(found, key=len)] if found and "MIG" not in words else None
