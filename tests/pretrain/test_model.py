import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch
import toys
from safetensors.torch import load_file, save_file

from pretrain.checkpoint.integrity import CheckpointError
from pretrain.data.example import Example, ExampleFrames, collate
from pretrain.data.masking import MaskingSettings, mask_spans, random_generator
from pretrain.model import embeddings, heads
from pretrain.model.memobert import MEmoBert, WeightsMismatch
from pretrain.objectives import OBJECTIVES

VOCAB, WIDTH, SPEECH = 40, 16, 6
ALWAYS = MaskingSettings(dice=False)


def toy(**changes):
    """Two layers, 16 wide; every weight drawn anew, so that no zero hides a missing term."""
    arguments = dict(
        vocab_size=VOCAB,
        width=WIDTH,
        num_layers=2,
        num_heads=4,
        ffn_width=24,
        max_text_positions=64,
        **toys.model_sizes(speech_width=SPEECH),
        max_frame_positions=80,
        dropout=0.0,
    )
    torch.manual_seed(0)
    model = MEmoBert(**{**arguments, **changes})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
            if name.endswith("mask_embedding.weight"):
                parameter[0] = 0
    return model


def clip(objective, pieces=7, faces=20, states=30, name=None, gap=0.0):
    """An Example of random numbers; 0 leaves a stream out."""
    rng = random_generator(name or str(objective), pieces, faces, states)
    ids = rng.integers(5, VOCAB, size=pieces)
    asked = OBJECTIVES.get(objective)
    frames, target = {}, {}
    if objective == "wwmlm":
        target = {"target_at_M": np.array([1, 2]), "target_values": ids[1:3].copy()}
        ids[1:3] = 4
    for stream, n, width, hz in (("face", faces, 342, 10), ("speech", states, SPEECH, 50 / 3)):
        if not n:
            continue
        x = rng.normal(size=(n, width)).astype(np.float16)
        mine = asked is not None and asked.stream == stream
        corrupted = mask_spans(x, 0.2, ALWAYS, rng) if mine else None
        seconds = np.arange(n) / hz
        values = {stream: x}
        if stream == "face":
            seconds[n // 2 :] += gap
            probs = rng.random((n, 8)) + 0.1
            values["face_probs"] = (probs / probs.sum(1, keepdims=True)).astype(np.float16)
        frames[stream] = ExampleFrames(
            values_FC=corrupted.features_FC if mine else x,
            seconds_F=seconds.astype(np.float32),
            masked_F=corrupted.masked_F if mine else np.zeros(n, dtype=bool),
        )
        if mine:
            at_M = np.flatnonzero(corrupted.target_F)
            target = {"target_at_M": at_M, "target_values": values[asked.target][at_M]}
    return Example(id=name or "c", objective=objective, ids_T=ids, frames=frames, **target)


def batch_of(*examples):
    return collate(examples, pad_id=0)


def all_tasks():
    return batch_of(*(clip(task, 5 + i, 20 + 3 * i, 30 - i) for i, task in enumerate(OBJECTIVES)))


def losses(model, batch):
    predictions = model(batch)
    return {t: OBJECTIVES[t].loss(predictions[t], batch.targets[t].values) for t in predictions}


def layer_norm(x, norm):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return x * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def linear(x, layer):
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def gelu(x):
    erf = torch.special.erf(torch.from_numpy(x) / 2**0.5).numpy()
    return x * 0.5 * (1 + erf)


def test_a_full_clip_in_pretraining_is_32_and_36_and_64_positions():
    lengths = []
    model = toy()
    model.encoder.register_forward_hook(lambda _, inputs, out: lengths.append(out.shape[1]))
    encoded = model.encode(batch_of(clip("wwmlm", pieces=32, faces=36, states=64)))
    assert lengths == [32 + 36 + 64]
    assert encoded.text_NTH.shape == (1, 32, WIDTH)
    assert encoded["face"].shape == (1, 36, WIDTH)
    assert encoded["speech"].shape == (1, 64, WIDTH)
    assert encoded.pooled_NH.shape == (1, WIDTH)


def test_predictions_have_a_row_for_each_target():
    batch = all_tasks()
    predictions = toy()(batch)
    widths = {"wwmlm": VOCAB, "span_mvfr": 342, "span_mvfc_kl": 8, "span_mafr": SPEECH}
    for task, width in widths.items():
        assert predictions[task].shape == (len(batch.targets[task].index_M), width)
    counts = {task: count for task, (_, count) in losses(toy(), batch).items()}
    assert counts == batch.counts


def test_fused_and_plain_attention_agree():
    batch = all_tasks()
    fused, plain = toy(), toy(attention="plain")
    plain.load_state_dict(fused.state_dict())
    assert (fused.attention, plain.attention) == ("sdpa", "plain")
    results = []
    for model in (fused, plain):
        outs = losses(model, batch)
        sum(loss / count for loss, count in outs.values()).backward()
        results.append((outs, model.encoder.layer[0].attention.self.query.weight.grad))
    (a, grad_a), (b, grad_b) = results
    gap = max((a[t][0] / a[t][1] - b[t][0] / b[t][1]).abs().item() for t in OBJECTIVES)
    assert gap < 1e-5, f"greatest difference of a loss: {gap}"
    torch.testing.assert_close(grad_a, grad_b, atol=1e-6, rtol=1e-4)


def test_attention_by_hand():
    """softmax(Q K^T / sqrt(D)) V with the third position kept out."""
    from pretrain.model.attention import plain_attention, sdpa_attention

    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 1, 3, 4)).astype(np.float32) for _ in range(3))
    weights = np.exp(q[0, 0] @ k[0, 0, :2].T / 2.0)
    expected = weights / weights.sum(1, keepdims=True) @ v[0, 0, :2]
    keep = torch.tensor([True, True, False])[None, None, None]
    for attend in (plain_attention, sdpa_attention):
        out = attend(*map(torch.from_numpy, (q, k, v)), keep, 0.0)
        np.testing.assert_allclose(out[0, 0].numpy(), expected, atol=1e-6)


def test_neither_padding_nor_the_neighbours_change_a_clip():
    model = toy().eval()
    mine = clip("span_mvfr", pieces=5, faces=16, states=20)
    alone = model.encode(batch_of(mine))
    one_target = model(batch_of(mine))["span_mvfr"]
    for other in (
        clip("wwmlm", pieces=12, faces=36, states=64),
        clip("wwmlm", pieces=3, faces=0, states=2),
    ):
        batch = batch_of(other, mine)
        together = model.encode(batch)
        close = dict(atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.text_NTH[1, :5], alone.text_NTH[0], **close)
        torch.testing.assert_close(together["face"][1, :16], alone["face"][0], **close)
        torch.testing.assert_close(together["speech"][1, :20], alone["speech"][0], **close)
        torch.testing.assert_close(together.pooled_NH[1], alone.pooled_NH[0], **close)
        torch.testing.assert_close(model(batch)["span_mvfr"], one_target, **close)


def test_an_absent_modality_is_no_position_at_all():
    """A faceless clip among clips with faces comes out as in a batch without any."""
    model = toy().eval()
    mine = clip("wwmlm", pieces=6, faces=0, states=10)
    alone = batch_of(mine)
    assert "face" not in alone.frames and "face" not in model.encode(alone).frames_NFH
    together = model(batch_of(mine, clip("span_mafr")))["wwmlm"]
    torch.testing.assert_close(together, model(alone)["wwmlm"], atol=1e-5, rtol=1e-5)


def test_one_modality_reaches_the_others():
    model = toy().eval()
    a = clip("wwmlm", states=10)
    out = model(batch_of(a))["wwmlm"]
    a.frames["speech"].values_FC[-1] += 1
    assert (model(batch_of(a))["wwmlm"] - out).abs().max() > 1e-4


@pytest.mark.parametrize("modality", ["face", "speech"])
def test_frames_are_embedded_as_the_paper_says(modality):
    """LN(LN(W (x + mask vector) + b) + position + type), in numpy."""
    task = "span_mvfr" if modality == "face" else "span_mafr"
    model, batch = toy(), batch_of(clip(task))
    e, frames = model.frame_embeddings[modality], batch.frames[modality]
    x, masked = frames.values_NFC, frames.masked_NF
    type_H = model.embeddings.token_type_embeddings.weight[1]
    found = e(frames, type_H)[0].detach().numpy()

    m = masked[0].numpy()
    assert m.any() and not x[0][m].any()  # a masked frame comes in as zeros
    own = e.type_embedding.weight[0] if modality == "speech" else type_H
    frames = x[0].float().numpy() + m[:, None] * e.mask_embedding.weight[1].detach().numpy()
    hidden = layer_norm(linear(frames, e.linear), e.input_norm)
    hidden += e.position_embeddings.weight[: len(m)].detach().numpy() + own.detach().numpy()
    np.testing.assert_allclose(found, layer_norm(hidden, e.LayerNorm), atol=1e-5)


def test_the_heads_by_hand():
    model = toy()
    x = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
    x_MH = torch.from_numpy(x)

    word = model.cls.predictions
    hidden = layer_norm(gelu(linear(x, word.transform.dense)), word.transform.LayerNorm)
    words = model.embeddings.word_embeddings.weight.detach().numpy()
    expected = hidden @ words.T + word.bias.detach().numpy()
    np.testing.assert_allclose(model.mask_logits(x_MH).detach().numpy(), expected, atol=1e-4)

    head, weight = model.heads.span_mvfr, model.frame_embeddings.face.linear.weight
    hidden = layer_norm(gelu(linear(x, head.dense)), head.norm)
    expected = hidden @ weight.detach().numpy() + head.bias.detach().numpy()
    np.testing.assert_allclose(head(x_MH, weight).detach().numpy(), expected, atol=1e-4)

    head = model.heads.span_mvfc_kl
    hidden = layer_norm(gelu(linear(x, head.dense)), head.norm)
    expected = linear(hidden, head.classifier)
    np.testing.assert_allclose(head(x_MH, weight).detach().numpy(), expected, atol=1e-4)


def decoder_pointers(model, batch, monkeypatch):
    """Addresses of the matrices that the tied heads multiply with."""
    pointers = []

    def spy(x, weight, bias):
        pointers.append(weight.data_ptr())
        return torch.nn.functional.linear(x, weight, bias)

    with monkeypatch.context() as patch:
        patch.setattr(
            heads,
            "F",
            type("F", (), {"linear": staticmethod(spy), "gelu": torch.nn.functional.gelu}),
        )
        model(batch)
    return pointers


@pytest.mark.parametrize("reloaded", [False, True])
def test_decoders_share_the_storage_of_what_they_undo(reloaded, monkeypatch, tmp_path):
    model = toy()
    if reloaded:
        model.save_pretrained(tmp_path)
        model = MEmoBert.from_pretrained(tmp_path)
    face = model.frame_embeddings.face.linear.weight
    speech = model.frame_embeddings.speech.linear.weight
    words = model.embeddings.word_embeddings.weight
    found = decoder_pointers(model, all_tasks(), monkeypatch)
    assert found == [words.data_ptr(), face.data_ptr(), speech.data_ptr()]
    shapes = Counter(tuple(p.shape) for p in model.parameters())
    assert shapes[(VOCAB, WIDTH)] == shapes[(WIDTH, 342)] == shapes[(WIDTH, SPEECH)] == 1


def test_gradients_reach_every_parameter():
    model, batch = toy(), all_tasks()
    sum(loss / count for loss, count in losses(model, batch).values()).backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"pooler.dense.weight", "pooler.dense.bias"}  # for classifiers alone
    model.encode(batch).pooled_NH.sum().backward()
    assert model.pooler.dense.weight.grad.any()


@pytest.mark.parametrize("task", OBJECTIVES)
def test_a_task_trains_what_it_uses(task):
    model = toy()
    loss, count = losses(model, batch_of(clip(task)))[task]
    (loss / count).backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert "frame_embeddings.face.linear.weight" in got
    assert "frame_embeddings.speech.linear.weight" in got
    own = {
        "wwmlm": "cls.predictions.bias",
        "span_mvfr": "heads.span_mvfr.bias",
        "span_mvfc_kl": "heads.span_mvfc_kl.classifier.bias",
        "span_mafr": "heads.span_mafr.bias",
    }
    assert {name for name in own.values() if name in got} == {own[task]}


def test_the_vector_of_frames_that_are_not_masked_stays_zero():
    model = toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(loss / count for loss, count in losses(model, all_tasks()).values()).backward()
        optimizer.step()
    for embedder in (model.frame_embeddings.face, model.frame_embeddings.speech):
        assert not embedder.mask_embedding.weight[0].any()
        assert embedder.mask_embedding.weight[1].any()


def test_nothing_waits_for_the_device():
    """On the meta device a tensor has no values, so whatever looked at one would raise."""
    model, batch = toy().to("meta"), all_tasks().to("meta")
    outs = losses(model, batch)
    assert all(loss.is_meta for loss, _ in outs.values())
    assert {task: count for task, (_, count) in outs.items()} == batch.counts
    with pytest.raises(RuntimeError):
        outs["wwmlm"][0].item()


def test_by_index_a_gap_in_the_face_is_closed_and_by_seconds_it_stays():
    steady, gapped = batch_of(clip("wwmlm")), batch_of(clip("wwmlm", gap=1.0))
    by_index = toy().eval()
    torch.testing.assert_close(by_index(steady)["wwmlm"], by_index(gapped)["wwmlm"])
    by_seconds = toy(positions="seconds").eval()
    torch.testing.assert_close(by_index(steady)["wwmlm"], by_seconds(steady)["wwmlm"])
    assert (by_seconds(steady)["wwmlm"] - by_seconds(gapped)["wwmlm"]).abs().max() > 1e-4

    embed = by_seconds.frame_embeddings.face
    found = embed._positions(gapped.frames["face"].seconds_NF)[0]
    ticks = list(range(10)) + list(range(20, 30))
    torch.testing.assert_close(found, embed.position_embeddings.weight[ticks])
    speech = by_seconds.frame_embeddings.speech
    found = speech._positions(steady.frames["speech"].seconds_NF)[0]
    torch.testing.assert_close(found, speech.position_embeddings.weight[:30])


def test_a_frame_beyond_the_position_table_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"face frame at position 80 .* ends at 79"):
        toy()(batch_of(clip("wwmlm", faces=81)))
    with pytest.raises(ValueError, match=r"speech frame at position 80"):
        toy()(batch_of(clip("wwmlm", states=81)))
    late = batch_of(clip("wwmlm", gap=7.0))
    assert toy()(late)
    with pytest.raises(ValueError, match=r"face frame at position 89 \(8.9 s\)"):
        toy(positions="seconds")(late)
    with pytest.raises(ValueError, match="65 word pieces"):
        toy()(batch_of(clip("wwmlm", pieces=65)))


def test_the_type_of_speech():
    assert toy().frame_embeddings.speech.type_embedding is not None
    assert toy(own_type=False).frame_embeddings.speech.type_embedding is None
    faceless = toy(**toys.model_sizes(speech_width=SPEECH, face=False))
    assert faceless.frame_embeddings.speech.type_embedding is None  # it takes BERT's type 1
    faceless(batch_of(clip("span_mafr", faces=0)))
    with pytest.raises(ValueError, match="has face, but the model was built for speech"):
        faceless(batch_of(clip("wwmlm")))


def shifted(example, stream, by, *, masked=0):
    """`by` on every frame of a stream; `masked` on those that are masked, in place of zeros."""
    frames = example.frames[stream]
    values = frames.values_FC + np.where(frames.masked_F[:, None], masked, by)
    others = example.frames | {stream: dataclasses.replace(frames, values_FC=values)}
    return dataclasses.replace(example, frames=others)


def test_a_centered_stream_is_read_without_its_clips_mean():
    """By numpy; neither another clip's length nor what a masked frame holds has a part in it."""
    short, long = clip("span_mafr", states=19), clip("wwmlm", states=30)
    frames = batch_of(short, long).frames["speech"]
    found = embeddings.centered(frames)
    x, masked = short.frames["speech"].values_FC.astype(np.float32), short.frames["speech"].masked_F
    assert masked.any()
    expected = np.where(masked[:, None], 0, x - x[~masked].mean(0))
    np.testing.assert_allclose(found[0, :19], expected, atol=1e-5)
    assert not found[0, 19:].any()
    other = batch_of(shifted(short, "speech", 0, masked=9.0), long).frames["speech"]
    assert torch.equal(embeddings.centered(other), found)


def test_a_shift_of_a_whole_clip_changes_a_centered_stream_alone():
    one = clip("span_mafr")
    for centered, stream, same in (
        (["speech"], "speech", True),
        (["speech"], "face", False),
        ([], "speech", False),
    ):
        model = toy(centered=centered).eval()
        before, after = (model.encode(batch_of(e)) for e in (one, shifted(one, stream, 3.0)))
        assert torch.allclose(before.pooled_NH, after.pooled_NH, atol=1e-2) is same, stream


def test_a_model_knows_when_it_is_loaded_what_is_centered(tmp_path):
    toy(centered=("speech",)).save_pretrained(tmp_path)
    again = MEmoBert.from_pretrained(tmp_path)
    assert [e.centered for e in again.frame_embeddings.values()] == [False, True]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_heads": 5}, "width 16 is not a multiple of num_heads 5"),
        ({"positions": "time"}, "'time'"),
        ({"attention": "flash"}, "'flash'"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        toy(**wrong)


def test_fresh_weights_are_those_of_bert():
    torch.manual_seed(0)
    model = MEmoBert(
        vocab_size=500,
        width=64,
        num_layers=1,
        num_heads=4,
        ffn_width=128,
        **toys.model_sizes(speech_width=32),
    )
    for name in ("embeddings.word_embeddings", "encoder.layer.0.attention.self.query"):
        assert model.get_submodule(name).weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.frame_embeddings.face.linear.bias.any()
    assert not model.frame_embeddings.speech.mask_embedding.weight[0].any()
    norm = model.frame_embeddings.face.input_norm
    assert (norm.weight == 1).all() and norm.eps == 1e-12


def test_saved_and_loaded_it_is_the_same_model(tmp_path):
    model = toy(positions="seconds", own_type=False).eval()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["positions"] == "seconds" and config["streams"][1]["width"] == SPEECH
    assert not (tmp_path / "pytorch_model.bin").exists()
    again = MEmoBert.from_pretrained(tmp_path)
    batch = all_tasks()
    for task, predictions in model(batch).items():
        assert torch.equal(predictions, again(batch)[task])


def test_weights_of_another_size_are_an_error_that_names_the_sizes(tmp_path):
    toy().save_pretrained(tmp_path)
    with pytest.raises(WeightsMismatch) as error:
        MEmoBert.from_pretrained(tmp_path, **toys.model_sizes(speech_width=SPEECH + 1))
    assert "frame_embeddings.speech.linear.weight: found [16, 6], expected [16, 7]" in str(
        error.value
    )


def test_no_tensor_may_be_missing_or_left_over(tmp_path):
    toy().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["extra"] = tensors.pop("pooler.dense.bias")
    save_file(tensors, path)
    with pytest.raises(WeightsMismatch, match="pooler.dense.bias: missing(.|\n)*extra: unknown"):
        MEmoBert.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="no model.safetensors in"):
        MEmoBert.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="no config.json in"):
        MEmoBert.from_pretrained(tmp_path)


def test_bfloat16_weights_take_a_batch_of_float16():
    outs = losses(toy().bfloat16(), all_tasks())
    exact = losses(toy(), all_tasks())
    for task, (loss, count) in outs.items():
        assert loss.dtype == torch.float32
        assert loss.item() / count == pytest.approx(exact[task][0].item() / count, rel=0.1)


def test_it_learns_four_clips_by_heart():
    torch.manual_seed(0)
    model, batch = toy(), all_tasks()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        outs = losses(model, batch)
        sum(loss / count for loss, count in outs.values()).backward()
        optimizer.step()
        history.append({task: loss.item() / count for task, (loss, count) in outs.items()})
    for task in OBJECTIVES:
        assert history[-1][task] < 0.5 * history[0][task]


def test_the_paper_sizes():
    """Text side 109,482,240 weights, as BERT-base has; the rest by arithmetic."""
    with torch.device("meta"):
        model = MEmoBert(vocab_size=30_522, **toys.model_sizes(speech_width=768))

    def count(*names):
        return sum(p.numel() for n in names for p in model.get_submodule(n).parameters())

    assert count("embeddings", "encoder", "pooler") == 109_482_240
    norm, square = 2 * 768, 768 * 768 + 768
    face = 2 * 342 + 342 * 768 + 768 + norm + 512 * 768 + norm
    speech = 2 * 768 + square + norm + 512 * 768 + 768 + norm
    assert (count("frame_embeddings.face"), count("frame_embeddings.speech")) == (face, speech)
    assert count("cls") == square + norm + 30_522
    assert count("heads.span_mvfr") == square + norm + 342
    assert count("heads.span_mvfc_kl") == square + norm + 768 * 8 + 8
    assert count("heads.span_mafr") == square + norm + 768
