"""Foal-Net against values worked out by numpy, over processes, and through the entry."""

import math
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing
import toys
from torch.nn.parallel import DistributedDataParallel

from data_pipeline.config import ConfigError
from finetune.config import PromptConfig
from finetune.heads import HeadParts
from finetune.heads.foal_net import (
    LEAST_TEMPERATURE,
    CrossAttentionLayer,
    FoalNetHead,
    FoalNetSettings,
    Projection,
    alignment_loss,
    draw,
    masked_softmax,
    negatives,
)
from finetune.recognizer import load_recognizer
from finetune.run import main
from finetune.runs.results import read_rows
from finetune.training.whole_batch import WholeBatch
from pretrain.model.batch import Batch, Frames
from pretrain.model.memobert import Encoded

from ..conftest import make_clips, without_face

LABELS = torch.tensor([0, 0, 1, 2])
TEMPERATURE = 2.659260


def head(audio: int = 8, video: int = 4, classes: int = 3, **settings) -> FoalNetHead:
    torch.manual_seed(0)
    return FoalNetHead(
        (audio, video), classes, FoalNetSettings(num_heads=2, projection=6, **settings)
    )


def clips(
    count: int, *, audio: int = 8, video: int = 4, seed: int = 1
) -> tuple[Encoded, Batch, torch.Tensor]:
    """Random rows; clip 1 lacks the video, and lengths differ."""
    torch.manual_seed(seed)
    lengths = {"speech": torch.arange(count) % 3 + 3, "face": torch.arange(count) % 4 + 1}
    lengths["face"][1] = 0
    widths, frames = {"speech": audio, "face": video}, {}
    for name, length_N in lengths.items():
        real_NF = torch.arange(int(length_N.max())) < length_N[:, None]
        values_NFC = torch.randn(*real_NF.shape, widths[name])
        frames[name] = Frames(
            values_NFC=values_NFC,
            real_NF=real_NF,
            masked_NF=torch.zeros_like(real_NF),
            seconds_NF=torch.zeros(real_NF.shape),
            last_seconds=0.0,
        )
    batch = Batch(
        ids=list(map(str, range(count))),
        text_ids_NT=torch.ones(count, 1, dtype=torch.int64),
        text_mask_NT=torch.ones(count, 1, dtype=torch.bool),
        frames=frames,
    )
    encoded = Encoded(
        text_NTH=torch.zeros(count, 1, audio),
        frames_NFH={name: rows.values_NFC for name, rows in frames.items()},
        pooled_NH=torch.zeros(count, audio),
    )
    return encoded, batch, torch.arange(count) % 3


def part(encoded: Encoded, batch: Batch, rows: slice) -> tuple[Encoded, Batch]:
    def cut(frames: Frames) -> Frames:
        return Frames(
            values_NFC=frames.values_NFC[rows],
            real_NF=frames.real_NF[rows],
            masked_NF=frames.masked_NF[rows],
            seconds_NF=frames.seconds_NF[rows],
            last_seconds=0.0,
        )

    return (
        Encoded(
            text_NTH=encoded.text_NTH[rows],
            frames_NFH={name: values[rows] for name, values in encoded.frames_NFH.items()},
            pooled_NH=encoded.pooled_NH[rows],
        ),
        Batch(
            ids=batch.ids[rows],
            text_ids_NT=batch.text_ids_NT[rows],
            text_mask_NT=batch.text_mask_NT[rows],
            frames={name: cut(frames) for name, frames in batch.frames.items()},
        ),
    )


def test_alignment_has_the_golden_value():
    logits = np.eye(4) / TEMPERATURE
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    same = LABELS.numpy()[:, None] == LABELS.numpy()
    expected = -(log * same).sum(1)
    assert expected == pytest.approx([2.612688, 2.612688, 1.118322, 1.118322], abs=1e-6)
    has = torch.ones(4, dtype=torch.bool)
    found = alignment_loss(torch.eye(4) / TEMPERATURE, LABELS, has, "sum")
    assert found.numpy() == pytest.approx(expected, abs=1e-6)
    assert found.mean().item() == pytest.approx(1.865505, abs=1e-6)
    mean = alignment_loss(torch.eye(4) / TEMPERATURE, LABELS, has, "mean")
    assert mean.numpy() == pytest.approx(expected / same.sum(1), abs=1e-6)


def test_negatives_are_drawn_by_the_golden_rows():
    has = torch.ones(4, dtype=torch.bool)
    kept = negatives(LABELS, has)
    rows = masked_softmax(torch.eye(4) / TEMPERATURE, kept)
    third = 1 / 3
    expected = [[0, 0, 0.5, 0.5]] * 2 + [[third, third, 0, third], [third, third, third, 0]]
    assert rows.numpy() == pytest.approx(np.array(expected), abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw(rows, generator) for _ in range(6000)])
    for row in range(4):
        shares = torch.bincount(drawn[:, row], minlength=4) / len(drawn)
        assert shares.numpy() == pytest.approx(np.array(expected[row]), abs=0.03)


def test_a_clip_without_a_stream_takes_no_part_in_the_contrast():
    has = torch.tensor([True, True, False, True])
    logits = torch.randn(4, 4)
    found = alignment_loss(logits, LABELS, has, "sum")
    kept = [0, 1, 3]
    alone = alignment_loss(logits[kept][:, kept], LABELS[kept], has[kept], "sum")
    assert found[2] == 0 and torch.allclose(found[kept], alone, atol=1e-5)
    assert not negatives(LABELS, has)[:, 2].any()


def test_a_layer_is_its_equation():
    """By numpy, head by head: softmax(q k / sqrt(d)) v, W_o, residual, norm."""
    torch.manual_seed(0)
    layer = CrossAttentionLayer(6, 4, 2, 0.1).eval()
    rows, other = torch.randn(1, 3, 6), torch.randn(1, 5, 4)
    real = torch.tensor([[True, True, True, False, True]])
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    q, k = linear("query", rows[0].numpy()), linear("key", other[0].numpy())
    v = linear("value", other[0].numpy())
    answers = []
    for h in (slice(0, 3), slice(3, 6)):
        logits = q[:, h] @ k[:, h].T / math.sqrt(3)
        logits[:, 3] = -np.inf
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        answers.append(p @ v[:, h])
    x = rows[0].numpy() + linear("answer", np.concatenate(answers, 1))
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    found = layer(rows, other, real)[0].detach().numpy()
    assert found == pytest.approx(x, abs=1e-5)
    assert [name.partition(".")[0] for name in weights].count("norm") == 2


def test_the_projection_is_its_equation():
    torch.manual_seed(0)
    project = Projection(4, 6, 0.5).eval()
    x = torch.randn(3, 4)
    first = x.numpy() @ project.first.weight.detach().numpy().T
    gelu = first * 0.5 * (1 + np.vectorize(math.erf)(first / math.sqrt(2)))
    second = gelu @ project.second.weight.detach().numpy().T + project.second.bias.detach().numpy()
    e = first + second
    e = (e - e.mean(1, keepdims=True)) / np.sqrt(e.var(1, keepdims=True) + 1e-5)
    assert project(x).detach().numpy() == pytest.approx(e, abs=1e-5)


def test_matching_is_the_mean_of_two_branches_and_their_pairs():
    """Untrained matchers that always say `own` by a known margin give a known loss."""
    model = head(mem=1.0).eval()
    encoded, batch, label_N = clips(6)
    with torch.no_grad():
        for match in (model.audio_match, model.video_match):
            match.weight.zero_()
            match.bias.copy_(torch.tensor([0.0, 1.0]))
    said = model(encoded, batch, label_N)
    losses = model.batch_losses(said.shared, label_N, slice(None))
    own, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))
    assert losses["mem"].item() == pytest.approx(5 * (own + wrong) / 2, rel=1e-5)  # one lacks video


def test_a_batch_of_one_label_has_no_matching_and_no_nan():
    model = head()
    encoded, batch, _ = clips(4)
    label_N = torch.ones(4, dtype=torch.int64)
    said = model(encoded, batch, label_N)
    losses = model.batch_losses(said.shared, label_N, slice(None))
    assert losses["mem"].item() == 0
    total = said.losses["cross_entropy"] + sum(losses.values())
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_what_lies_in_the_padding_changes_nothing():
    model = head().eval()
    encoded, batch, label_N = clips(5)
    plain = model(encoded, batch, label_N).scores_NC
    noisy = {
        name: torch.where(batch.frames[name].real_NF[..., None], values, 99.0)
        for name, values in encoded.frames_NFH.items()
    }
    changed = Encoded(text_NTH=encoded.text_NTH, frames_NFH=noisy, pooled_NH=encoded.pooled_NH)
    assert torch.equal(model(changed, batch, label_N).scores_NC, plain)
    alone = model(*part(encoded, batch, slice(1, 2)), label_N[1:2]).scores_NC
    assert torch.allclose(alone, plain[1:2], atol=1e-6), "a clip without video"


def test_switches_of_the_official_code():
    encoded, batch, label_N = clips(6)
    assert head(temperature="official").temperature.item() == pytest.approx(math.log(1 / 0.07))
    judged = head(mem_in_evaluation=True).eval()(encoded, batch, label_N)
    assert set(judged.losses) == {"cross_entropy", "mem"}
    assert set(head().eval()(encoded, batch, label_N).losses) == {"cross_entropy"}
    twice, once = head(mem_twice=True, dropout=0.0), head(dropout=0.0)
    for model in (twice, once):
        model.eval()  # without dropout the second pass gives what the first gave
    losses = [
        model.batch_losses(model(encoded, batch, label_N).shared, label_N, slice(None))["mem"]
        for model in (twice, once)
    ]
    assert torch.allclose(*losses)
    assert not head(avel=0.0, mem=0.0)(encoded, batch, label_N).shared


def test_judging_draws_nothing_that_training_would():
    encoded, batch, label_N = clips(6)
    model = head(mem_in_evaluation=True)
    before = model.draws.get_state()
    first, again = (model.eval()(encoded, batch, label_N).losses["mem"] for _ in range(2))
    assert torch.equal(model.draws.get_state(), before) and torch.equal(first, again)


def test_a_temperature_that_fell_too_far_can_come_back():
    encoded, batch, label_N = clips(6)
    model, held = head(temperature=1e-4), head(temperature=LEAST_TEMPERATURE)
    losses = []
    for each in (model, held):
        each.eval()
        shared = each(encoded, batch, label_N).shared
        losses.append(each.batch_losses(shared, label_N, slice(None))["avel"])
        losses[-1].backward()
    assert torch.allclose(*losses)
    assert model.temperature.grad == held.temperature.grad != 0


class Step(torch.nn.Module):
    """A head as the classifier runs it."""

    def __init__(self, model: FoalNetHead) -> None:
        super().__init__()
        self.head = model

    def forward(self, encoded, batch, whole: WholeBatch):
        label_N = whole.label_B[whole.mine]
        said = self.head(encoded, batch, label_N)
        losses = said.losses | self.head.batch_losses(
            whole.gather(said.shared), whole.label_B, whole.mine
        )
        return sum(losses.values())


def gradients(model: torch.nn.Module, rank: int = 0, processes: int = 1) -> dict[str, torch.Tensor]:
    encoded, batch, label_B = clips(7)
    whole = WholeBatch(label_B=label_B, rank=rank, num_processes=processes)
    loss = model(*part(encoded, batch, whole.mine), whole)
    (loss * processes / len(label_B)).backward()
    named = model.module if processes > 1 else model
    return {name: p.grad for name, p in named.named_parameters() if p.grad is not None}


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    model = Step(head().eval())
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    torch.save(gradients(parallel, rank, 2), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_contrast_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, str(tmp_path)), nprocs=2)
    alone = gradients(Step(head().eval()))
    assert {"head.audio_projection.first.weight", "head.temperature"} <= alone.keys()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == alone.keys()
        for name, gradient in alone.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"audio": "wavlm"}, "reads audio=wavlm and video=face, and there are speech, face"),
        ({"audio": "face"}, "audio=face and video=face"),
        ({"num_heads": 3}, "num_heads 3 does not divide the 8 numbers of speech"),
    ],
)
def test_a_head_that_cannot_be_is_told(settings, message):
    parts = HeadParts(
        model=torch.nn.Identity(),
        width=8,
        widths={"speech": 8, "face": 6},
        classes=("a", "b"),
        tokenizer=None,
        prompt=PromptConfig(),
        settings=FoalNetSettings(**{"num_heads": 2, **settings}),
    )
    with pytest.raises(ConfigError, match=message):
        FoalNetHead.build(parts)


@pytest.mark.parametrize("weights", ["features", "checkpoint"])
def test_it_learns_from_features_and_from_hidden_states(
    tmp_path, write_shards, checkpoint, bert, weights, capsys
):
    clips = make_clips(num_speakers=3, per_speaker=8, signal=3.0)
    clips[3] = without_face(clips[3])
    shards = write_shards(clips)
    options = "{num_heads: 2, projection: 16}"
    plan = "{num_steps: 40, learning_rate: 5e-3}"
    arguments = [
        *(f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", f"model.bert={bert}"),
        *("folds=[0]", *toys.FAST, "eval_every_steps=20"),
        f"own_settings.foal_net={{weights: {weights}, head: foal_net, plan: {plan}, "
        f"options: {options}}}",
        *("settings=[foal_net]", f"output={tmp_path / 'out'}"),
    ]
    assert main(arguments) == 0
    (row,) = read_rows(tmp_path / "out")
    assert row.head == "foal_net" and row.ua > 0.5
    unread = "foal_net: text: nobody reads, head foal_net has speech, face"
    assert (unread in capsys.readouterr().out) == (weights == "features")
    (folder,) = tmp_path.glob("out/runs/foal_net/*/recognizer")
    recognizer = load_recognizer(folder)
    assert set(recognizer.passport) == {"face", "speech"}  # text has none
    probability_NC = recognizer.predict(list(recognizer.read(shards)))
    assert probability_NC.shape == (24, 4) and np.isfinite(probability_NC).all()
