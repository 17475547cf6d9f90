"""A training step of DenseNetFER for one CPU core: the same numbers in fewer memory passes.

On a core with bfloat16 matrix units the convolutions of a dense block take a quarter of a plain
step; the rest is norms, ReLUs, copies and sums over arrays larger than the cache. Two facts of a
dense block save most of it:

    - every layer normalises the same channels by the same batch statistics, so a channel is
      normalised once, when it is made, and layers only scale, shift and clip it;
    - new channels are written into one wide buffer, and its gradient gathers in another, so
      nothing is concatenated, sliced or added up.

The fused passes are C++ (dense_block.cpp), compiled on first use; `fused_forward` needs a C++
compiler, and its twin is the plain module under bfloat16 autocast.

Shapes: M = N * H * W positions, C channels, channels last.
"""

import functools
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from data_pipeline.features.densenet import (
    BOTTLENECK,
    GROWTH,
    DenseBlock,
    DenseNetFER,
)

EPS = 1e-5
FOLD = 4
MOMENTUM = 0.1


@functools.cache
def kernels() -> ModuleType:
    """The compiled passes; half a minute the first time, then cached by torch."""
    from torch.utils.cpp_extension import load

    if shutil.which("ninja") is None:  # an environment that is used without being activated
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return load(
        "memobert_dense_block",
        [str(Path(__file__).with_name("dense_block.cpp"))],
        extra_cflags=["-O3", "-march=native", "-ffast-math", "-fno-finite-math-only"],
    )


def _statistics(sums_2C: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / deviation per channel, from sums and sums of squares."""
    mean, square = sums_2C / rows
    return mean, torch.rsqrt((square - mean * mean).clamp(min=0) + EPS)


def _moments(x_MC: torch.Tensor) -> torch.Tensor:
    """[2, C] sums and sums of squares. Four short rows are read as one, which fills a vector."""
    rows, width = x_MC.shape
    fold = FOLD if rows % FOLD == 0 else 1
    sums = kernels().moments(x_MC.view(rows // fold, fold * width))
    return sums.view(2, fold, width).sum(1)


class _Block(torch.autograd.Function):
    """x [M, C0] -> relu(norm(all channels made from it)) [M, C], and each channel's statistics."""

    @staticmethod
    def forward(ctx, x_MC, image_shape, exit_scale, exit_shift, *weights):
        k = kernels()
        n, h, w = image_shape
        rows, width = x_MC.shape
        layers = [weights[i : i + 6] for i in range(0, len(weights), 6)]
        total = width + len(layers) * GROWTH
        hat_MC = x_MC.new_empty(rows, total)
        mean_C, rstd_C = x_MC.new_empty(2, total, dtype=torch.float32)
        b_MK = x_MC.new_empty(rows, BOTTLENECK)
        means, middles = [], []

        def keep(new_MC: torch.Tensor, start: int) -> None:
            at = slice(start, start + new_MC.shape[1])
            mean_C[at], rstd_C[at] = _statistics(_moments(new_MC), rows)
            k.affine(new_MC, rstd_C[at], -mean_C[at] * rstd_C[at], hat_MC[:, at], False)

        keep(x_MC, 0)
        for scale1, shift1, conv1, scale2, shift2, conv2 in layers:
            middle_MK = x_MC.new_empty(rows, BOTTLENECK)
            weight_CK = conv1.to(x_MC.dtype).view(BOTTLENECK, width).T.contiguous()
            sums = k.squeeze(hat_MC[:, :width], scale1, shift1, weight_CK, middle_MK)
            mean, rstd = _statistics(sums, rows)
            k.affine(middle_MK, scale2 * rstd, shift2 - mean * scale2 * rstd, b_MK, True)
            image = b_MK.view(n, h, w, BOTTLENECK).permute(0, 3, 1, 2)
            new = F.conv2d(image, conv2.to(x_MC.dtype), padding=1)
            keep(new.permute(0, 2, 3, 1).reshape(rows, GROWTH), width)
            middles.append(middle_MK)
            means += [mean, rstd]
            width += GROWTH
        out_MC = torch.empty_like(hat_MC)
        k.affine(hat_MC, exit_scale, exit_shift, out_MC, True)
        statistics = torch.cat([mean_C, 1 / rstd_C**2 - EPS])
        middle_statistics = torch.stack([torch.stack(means[0::2]), torch.stack(means[1::2])])
        middle_statistics[1] = 1 / middle_statistics[1] ** 2 - EPS
        ctx.image_shape = image_shape
        ctx.save_for_backward(hat_MC, rstd_C, exit_scale, exit_shift, *weights, *middles, *means)
        ctx.num_layers = len(layers)
        ctx.mark_non_differentiable(statistics, middle_statistics)
        return out_MC, statistics, middle_statistics

    @staticmethod
    def backward(ctx, dout_MC, _statistics_grad, _middle_grad):
        k = kernels()
        n, h, w = ctx.image_shape
        hat_MC, rstd_C, exit_scale, exit_shift, *saved = ctx.saved_tensors
        num = ctx.num_layers
        layers = [saved[i : i + 6] for i in range(0, 6 * num, 6)]
        middles, means = saved[6 * num : 7 * num], saved[7 * num :]
        rows, total = hat_MC.shape
        grad_MC = torch.zeros_like(hat_MC)
        dexit_scale, dexit_shift = k.affine_relu_backward(
            dout_MC.contiguous(), hat_MC, exit_scale, exit_shift, grad_MC
        )
        b_MK, dmiddle_MK = hat_MC.new_empty(2, rows, BOTTLENECK)

        def denormalize(start: int, end: int) -> torch.Tensor:
            """Gradient at channels as they were made, from that at their normalised form."""
            fold = FOLD if rows % FOLD == 0 else 1
            width = end - start
            shape = (rows // fold, fold * width)
            d, x = (t[:, start:end].contiguous().view(shape) for t in (grad_MC, hat_MC))
            one, zero = torch.ones(shape[1]), torch.zeros(shape[1])
            sums = k.norm_backward_sums(d, x, one, zero, False)
            dot, plain = sums.view(2, fold, width).sum(1) / rows
            rstd = rstd_C[start:end]
            scales = (t.repeat(fold) for t in (rstd, -rstd * dot, -rstd * plain))
            k.norm_backward_apply(d, x, one, zero, False, *scales, d)
            return d.view(rows, width)

        grads = []
        width = total
        for i in reversed(range(num)):
            scale1, shift1, conv1, scale2, shift2, conv2 = layers[i]
            middle_MK, mean, rstd = middles[i], means[2 * i], means[2 * i + 1]
            dnew = denormalize(width - GROWTH, width).view(n, h, w, GROWTH).permute(0, 3, 1, 2)
            width -= GROWTH
            scale, shift = scale2 * rstd, shift2 - mean * scale2 * rstd
            k.affine(middle_MK, scale, shift, b_MK, True)
            image = b_MK.view(n, h, w, BOTTLENECK).permute(0, 3, 1, 2)
            db, dconv2, _ = torch.ops.aten.convolution_backward(
                dnew, image, conv2.to(dnew.dtype), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
                (True, True, False),
            )  # fmt: skip
            db_MK = db.permute(0, 2, 3, 1).reshape(rows, BOTTLENECK)
            dot, dshift2 = k.norm_backward_sums(db_MK, middle_MK, scale, shift, True)
            dscale2 = (dot - mean * dshift2) * rstd
            kx = -scale * rstd * dscale2 / rows
            k.norm_backward_apply(
                db_MK, middle_MK, scale, shift, True,
                scale, kx, -scale * dshift2 / rows - kx * mean, dmiddle_MK,
            )  # fmt: skip
            weight_KC = conv1.to(dnew.dtype).view(BOTTLENECK, width)
            (dscale1, dshift1), dconv1 = k.squeeze_backward(
                dmiddle_MK, hat_MC[:, :width], scale1, shift1, weight_KC, grad_MC[:, :width]
            )
            grads.append(
                (dscale1, dshift1, dconv1.view_as(conv1), dscale2, dshift2, dconv2.float())
            )
        flat = [g for layer in reversed(grads) for g in layer]
        return denormalize(0, width), None, dexit_scale, dexit_shift, *flat


def _update(norm: nn.BatchNorm2d, mean: torch.Tensor, var: torch.Tensor, rows: int) -> None:
    norm.running_mean.lerp_(mean, MOMENTUM)
    norm.running_var.lerp_(var * (rows / (rows - 1)), MOMENTUM)
    norm.num_batches_tracked += 1


def _run_block(x_NCHW: torch.Tensor, block: DenseBlock, exit_norm: nn.BatchNorm2d) -> torch.Tensor:
    n, c, h, w = x_NCHW.shape
    weights = []
    for layer in block.layers:
        weights += [layer.norm1.weight, layer.norm1.bias, layer.conv1.weight]
        weights += [layer.norm2.weight, layer.norm2.bias, layer.conv2.weight]
    rows = n * h * w
    x_MC = x_NCHW.permute(0, 2, 3, 1).reshape(rows, c)
    out_MC, statistics, middle = _Block.apply(
        x_MC, (n, h, w), exit_norm.weight, exit_norm.bias, *weights
    )
    mean_C, var_C = statistics.chunk(2)
    for i, layer in enumerate(block.layers):
        width = c + i * GROWTH
        _update(layer.norm1, mean_C[:width], var_C[:width], rows)
        _update(layer.norm2, middle[0, i], middle[1, i], rows)
    _update(exit_norm, mean_C, var_C, rows)
    return out_MC.view(n, h, w, -1).permute(0, 3, 1, 2)


def fused_forward(
    model: DenseNetFER, images_N1HW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `model(images)` gives in training mode under bfloat16 autocast, running means included.

    CPU only. Features [N, 342] and logits [N, 8], float32, differentiable.
    """
    x_NCHW = F.conv2d(
        images_N1HW.bfloat16(), model.stem.weight.bfloat16(), stride=2, padding=1
    ).contiguous(memory_format=torch.channels_last)
    stages = list(model.blocks)
    for i in range(0, len(stages), 2):
        last = i + 1 == len(stages)
        x_NCHW = _run_block(x_NCHW, stages[i], model.norm if last else stages[i + 1].norm)
        if not last:
            conv = stages[i + 1].conv
            x_NCHW = F.avg_pool2d(F.conv2d(x_NCHW, conv.weight.bfloat16()), 2)
            x_NCHW = x_NCHW.contiguous(memory_format=torch.channels_last)
    features_NC = x_NCHW.float().mean((2, 3))
    return features_NC, model.classifier(features_NC)
