"""Padding changes nothing, statistics are over real frames, masks fall where they should."""

import copy
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from finetune.systems.speech_resnet.augment import SpecAugment
from finetune.systems.speech_resnet.batch import collate
from finetune.systems.speech_resnet.config import Masks
from finetune.systems.speech_resnet.head import build_classifier
from finetune.systems.speech_resnet.network import (
    EPSILON,
    FrameBatchNorm,
    RealFrames,
    SpeechResNet,
    statistics,
)
from finetune.systems.speech_resnet.speakers import additive_margin

BINS = 12


def clips_of(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(3 * rng.normal(size=(n, BINS)) - 8).astype(np.float16) for n in lengths]


def network(stem_stride: int = 1) -> SpeechResNet:
    """Whose batch norms have seen something, so that their means are not 0."""
    torch.manual_seed(0)
    net = SpeechResNet(mel_bins=BINS, width=4, stem_stride=stem_stride)
    with torch.no_grad():
        for _ in range(2):
            net.encode(collate(clips_of(40, 33, 25, seed=1)))
        for module in net.modules():
            if isinstance(module, FrameBatchNorm):
                module.bias.normal_()
    return net.eval()


@pytest.mark.parametrize("stem_stride", [1, 2, 3, 4])
def test_a_clip_is_heard_alike_alone_and_beside_longer_ones(stem_stride):
    net = network(stem_stride)
    clips = clips_of(1, 2, 3, 7, 8, 9, 16, 17, 28, 31, 33, 64, 65, 90)
    with torch.no_grad():
        together = net.encode(collate(clips))
        wider = net.encode(collate(clips, beside=clips_of(111)))
        alone = torch.cat([net.encode(collate([clip])) for clip in clips])
    scale = alone.abs().max()
    assert (together - alone).abs().max() < 1e-5 * scale
    assert (wider - alone).abs().max() < 1e-5 * scale
    assert (alone[1:] - alone[:-1]).abs().max(1).values.min() > 1e-2  # they are no constant


def test_padding_changes_no_training_step():
    clips, found = clips_of(20, 28, 9), []
    for beside in ((), clips_of(70)):
        net = network().train()
        out = net.encode(collate(clips, beside=beside))
        (out * torch.arange(out.numel()).view_as(out).remainder(7)).sum().backward()
        grads = [weight.grad for weight in net.parameters()]
        found.append((out.detach(), grads, [buffer.clone() for buffer in net.buffers()]))
    (out, grads, buffers), (other, other_grads, other_buffers) = found
    torch.testing.assert_close(out, other, rtol=1e-4, atol=1e-5)
    for one, two in zip((*grads, *buffers), (*other_grads, *other_buffers), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * float(one.abs().max()) + 1e-6)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_mask_follows_a_strided_convolution(stride):
    conv = torch.nn.Conv2d(1, 1, 2 * stride + 1, stride, padding=stride)
    for length in range(1, 40):
        real = RealFrames.of([length], 40, torch.device("cpu")).after(stride)
        assert real.lengths == (conv(torch.zeros(1, 1, length, BINS)).shape[2],)
        assert real.padded == conv(torch.zeros(1, 1, 40, BINS)).shape[2]


@pytest.mark.parametrize("lengths", [(7, 7, 7), (7, 3, 1), (1, 0, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_the_fast_batch_norm_is_the_equations(lengths, training):
    torch.manual_seed(0)
    fast = FrameBatchNorm(5).train(training)
    torch.nn.init.normal_(fast.weight)
    fast.running_mean.normal_()
    plain = copy.deepcopy(fast)
    real = RealFrames.of(lengths, 7, torch.device("cpu"))
    x = real.put(4 + 3 * torch.randn(sum(lengths), 2, 5)).requires_grad_()
    twin = x.detach().clone().requires_grad_()
    out = fast(x, real)
    if training:
        expected = real.put(plain.plain(real.take(twin)))
    else:
        scale_C = plain.weight / torch.sqrt(plain.running_var + plain.eps)
        shown = real.take(twin) * scale_C + plain.bias - plain.running_mean * scale_C
        expected = real.put(shown)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name))
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad, rtol=1e-3, atol=1e-4)


RANK = """
import sys, torch, torch.distributed as dist
from finetune.systems.speech_resnet.network import FrameBatchNorm, RealFrames
rank, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
torch.manual_seed(0)
rows, weight = torch.randn(9, 2, 3) + 5, torch.randn(9, 2, 3)
mine = slice(0, 6) if rank == 0 else slice(6, 9)
real = RealFrames.of([4, 2] if rank == 0 else [3, 0], 4, torch.device("cpu"))
norm = FrameBatchNorm(3)
x = rows[mine].clone().requires_grad_()
y = real.take(norm(real.put(x), real))
(y * weight[mine]).sum().backward()
grad = norm.weight.grad.clone(); dist.all_reduce(grad)
torch.save([y.detach(), x.grad, grad, norm.running_mean, norm.running_var], f"{out}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_two_processes_have_the_statistics_of_one(tmp_path, root):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), port, str(tmp_path)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.manual_seed(0)
    rows, weight = torch.randn(9, 2, 3) + 5, torch.randn(9, 2, 3)
    norm = FrameBatchNorm(3)
    x = rows.clone().requires_grad_()
    real = RealFrames.of([4, 2, 3], 4, torch.device("cpu"))
    y = real.take(norm(real.put(x), real))
    (y * weight).sum().backward()
    torch.testing.assert_close(torch.cat([part[0] for part in found]), y)
    torch.testing.assert_close(torch.cat([part[1] for part in found]), x.grad)
    for rank in range(2):
        torch.testing.assert_close(found[rank][2], norm.weight.grad)
        torch.testing.assert_close(found[rank][3], norm.running_mean)
        torch.testing.assert_close(found[rank][4], norm.running_var)


def test_statistics_are_mean_and_deviation_of_real_frames():
    x_NTD = torch.randn(3, 6, 4, dtype=torch.float64)
    real = RealFrames.of([6, 2, 1], 6, torch.device("cpu"))
    x_NTD[1, 2:] = x_NTD[2, 1:] = 0
    pooled = statistics(x_NTD, real)
    for n, length in enumerate(real.lengths):
        mean, var = x_NTD[n, :length].mean(0), x_NTD[n, :length].var(0, correction=0)
        torch.testing.assert_close(pooled[n], torch.cat([mean, torch.sqrt(var + EPSILON)]))


def test_the_deviation_of_frames_that_are_all_alike_has_a_slope():
    x_NTD = torch.ones(1, 5, 2, requires_grad=True)
    statistics(x_NTD, RealFrames.of([5], 5, torch.device("cpu"))).sum().backward()
    assert torch.isfinite(x_NTD.grad).all()


def test_a_clip_without_frames_is_zeros_and_disturbs_nobody():
    net = network()
    with torch.no_grad():
        both = net.encode(collate(clips_of(0, 30)))
        alone = net.encode(collate(clips_of(0, 30)[1:]))
        nothing = net.encode(collate(clips_of(0)))
    assert not both[0].any() and not nothing.any()
    torch.testing.assert_close(both[1:], alone)
    net.train().encode(collate(clips_of(0, 0))).sum().backward()
    assert all(torch.isfinite(buffer).all() for buffer in net.buffers())


def test_masks_are_bands_of_the_mean_within_the_real_frames():
    masks = Masks(time_masks=1, time_share=0.2, frequency_masks=1, frequency_share=0.25)
    augment, lengths = SpecAugment(masks), (40, 20, 1, 0)
    x_NTM = torch.rand(4, 40, BINS) + 1
    for n, length in enumerate(lengths):
        x_NTM[n, length:] = 0
    before = x_NTM.clone()
    torch.manual_seed(0)
    widest_time, widest_bins = 0, 0
    for _ in range(200):
        masked = augment(x_NTM, lengths)
        changed = masked != x_NTM
        assert not masked[changed].any()  # 0, the clip's mean
        for n, length in enumerate(lengths):
            assert not changed[n, length:].any()
            frames, bins = changed[n, :length].all(1), changed[n, :length].all(0)
            assert (changed[n, :length] == (frames[:, None] | bins[None])).all()
            for band, limit in ((frames, 0.2 * length), (bins, 0.25 * BINS)):
                at = torch.nonzero(band).flatten()
                whole = band is frames and bool(bins.all()) or band is bins and bool(frames.all())
                if len(at) and not whole:
                    assert at[-1] - at[0] + 1 == len(at) <= math.ceil(limit)
        widest_time = max(widest_time, int(changed[0].all(1).sum()))
        widest_bins = max(widest_bins, int(changed[0].all(0).sum()))
    assert (widest_time, widest_bins) == (8, 3)
    assert torch.equal(x_NTM, before)


def test_masks_are_drawn_in_training_alone():
    net = network()
    net.augment = SpecAugment(Masks(time_share=0.5, frequency_share=0.5))
    batch = collate(clips_of(40, 30))
    with torch.no_grad():
        assert torch.equal(net.encode(batch), net.encode(batch))
        net.train()
        seen = []
        for seed in (1, 1, 2):
            twin = copy.deepcopy(net)
            torch.manual_seed(seed)
            seen.append(twin.encode(batch))
    assert torch.equal(seen[0], seen[1]) and not torch.allclose(seen[0], seen[2])


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_trunk_hears_masked_clips_too(frozen):
    net = network()
    net.augment = SpecAugment(Masks(time_share=0.5, frequency_share=0.5))
    classifier = build_classifier(net, embedding=4, dropout=0.0, num_classes=2)
    if frozen:
        classifier.freeze()
    batch, label_N = collate(clips_of(40, 30)), torch.tensor([0, 1])
    with torch.no_grad():
        for training in (True, False, True):
            twins = [copy.deepcopy(classifier).train(training) for _ in range(2)]
            one, two = (twin(batch, label_N).scores_NC for twin in twins)
            assert torch.equal(one, two) != training
            assert twins[0].model.training == (training and not frozen)


def test_a_louder_clip_sounds_the_same():
    net, (clip,) = network(), clips_of(30)
    with torch.no_grad():
        found = net.encode(collate([clip.astype(np.float32), clip.astype(np.float32) + 4]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_the_additive_margin_of_two_speakers():
    segment, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    plain = additive_margin(segment, weight, None, margin=0.2, scale=30)
    torch.testing.assert_close(plain, torch.tensor([[18.0, 24.0]]))  # cosines 0.6 and 0.8
    asked = additive_margin(segment, weight, torch.tensor([1]), margin=0.2, scale=30)
    torch.testing.assert_close(asked, torch.tensor([[18.0, 18.0]]))
