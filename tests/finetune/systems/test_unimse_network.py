"""The equations of the adapters and of the contrast a second time, with numpy; streams of a batch
in any order; what is frozen."""

import copy
import socket

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from finetune.recognizer import SHIPPED
from finetune.systems.unimse.answers import AnswerBook, Field
from finetune.systems.unimse.batch import Turn, TurnReader
from finetune.systems.unimse.config import Adapters, Contrast
from finetune.systems.unimse.head import UniMseHead, build_classifier, info_nce
from finetune.systems.unimse.network import FusedT5, PyramidAdapter, StreamEncoder
from finetune.training.whole_batch import WholeBatch

SIZES = dict(vocab_size=30, d_model=8, d_kv=4, d_ff=16, num_layers=3, num_heads=2)
WIDTHS = {"speech": 5, "face": 7}


def tiny_t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        **SIZES, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, dropout_rate=0.0
    )
    return T5ForConditionalGeneration(config).eval()


def fused(**said) -> FusedT5:
    return FusedT5(tiny_t5(), WIDTHS, Adapters(num_blocks=2, bottleneck=6, hidden=4, **said)).eval()


def rows_of(*lengths, seed=0):
    """Streams of clips of these lengths, padded."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, width in WIDTHS.items():
        padded = rng.normal(size=(len(lengths), max(1, *lengths), width)).astype(np.float32)
        for row, length in zip(padded, lengths, strict=True):
            row[length:] = 0
        values[name] = (torch.from_numpy(padded), lengths)
    return values


@pytest.mark.parametrize("form", ["residual", "official"])
def test_the_adapter_is_its_equation(form):
    torch.manual_seed(1)
    adapter = PyramidAdapter(8, 6, 5, form)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    h, beside = torch.randn(2, 3, 8), torch.randn(2, 6)
    w = {name: parameter.detach().numpy() for name, parameter in adapter.named_parameters()}
    f = np.concatenate([h.numpy(), np.repeat(beside.numpy()[:, None], 3, 1)], -1)
    down = 1 / (1 + np.exp(-(f @ w["down.weight"].T + w["down.bias"])))
    y = (down @ w["up.weight"].T + w["up.bias"] + f) @ w["out.weight"].T + w["out.bias"]
    expected = h.numpy() + y if form == "residual" else y
    found = adapter(h, beside).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_with_a_residual_it_starts_as_the_t5_and_the_official_one_as_noise():
    ids, mask = torch.arange(2, 8).reshape(2, 3), torch.ones(2, 3, dtype=torch.int64)
    with torch.no_grad():
        plain = tiny_t5().encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        for form, near in (("residual", True), ("official", False)):
            model = fused(form=form)
            beside, _ = model.encode_streams(rows_of(3, 2))
            states, words = model.encode_words(ids, mask, beside)
            assert len(words) == 2 and words[0].shape == (2, 3, 8)
            assert ((states - plain).abs().max() < 0.1) == near, form


def test_the_adapters_sit_in_the_last_blocks_of_both_stacks():
    model = fused()
    names = {name.partition(".adapter")[0] for name, _ in model.named_parameters()}
    held = {name for name in names if name.startswith("t5") and "layer" in name.split(".")[-2]}
    assert {n for n in held if any(m.startswith(f"{n}.adapter") for m in model.state_dict())} == {
        "t5.encoder.block.1.layer.1",
        "t5.encoder.block.2.layer.1",
        "t5.decoder.block.1.layer.2",
        "t5.decoder.block.2.layer.2",
    }


def test_only_the_last_blocks_learn_and_the_adapters():
    model = FusedT5(tiny_t5(), WIDTHS, Adapters(num_blocks=2))
    model.learn_blocks(1)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "t5.shared.weight" not in learning
    for name, _ in model.named_parameters():
        last = ".block.2." in name
        ours = name.startswith("streams.") or ".adapter." in name
        assert (name in learning) == (last or ours), name
    model.learn_blocks(0)
    assert not any(
        p.requires_grad and n.startswith("t5.") and ".adapter." not in n
        for n, p in model.named_parameters()
    )


def test_a_stream_is_heard_to_its_last_real_row_in_any_order():
    torch.manual_seed(2)
    encoder = StreamEncoder(5, 4, 0.0)
    values, lengths = rows_of(2, 6, 0, 4)["speech"]
    with torch.no_grad():
        vectors, states = encoder(values, lengths)
        for n, length in enumerate(lengths):
            if not length:
                assert not vectors[n].any() and not states[n].any()  # zeros: it is absent
                continue
            alone, (last, _) = encoder.lstm(values[n : n + 1, :length])
            torch.testing.assert_close(vectors[n], encoder.linear(last[0, 0]))
            torch.testing.assert_close(states[n, :length], alone[0])
            assert not states[n, length:].any()
        order = [3, 1, 0, 2]  # the released code puts sequences back twice: they are permuted
        again, shuffled = encoder(values[order], tuple(lengths[i] for i in order))
    torch.testing.assert_close(again, vectors[order])
    torch.testing.assert_close(shuffled, states[order])


def test_a_stream_that_is_absent_says_nothing_of_its_padding():
    model, ids = fused(), torch.arange(2, 6).reshape(1, 4)
    with torch.no_grad():
        said = []
        for filler in (0.0, 9.0):
            rows = rows_of(3)
            rows["face"] = (torch.full((1, 3, 7), filler), (0,))
            beside, _ = model.encode_streams(rows)
            said.append(model.encode_words(ids, torch.ones_like(ids), beside)[0])
    torch.testing.assert_close(said[0], said[1])


def test_answers_are_the_same_alone_and_in_a_batch_and_of_one():
    model, ids = fused(), torch.arange(2, 14).reshape(3, 4)
    mask, rows = torch.ones_like(ids), rows_of(3, 1, 5)
    with torch.no_grad():
        beside, _ = model.encode_streams(rows)
        states, _ = model.encode_words(ids, mask, beside)
        together = model.generate(states, mask, beside, 5)
        logits = model.decode(states, mask, beside, ids[:, :3])
        for n in range(3):
            one = {name: (v[n : n + 1, : k[n]], k[n : n + 1]) for name, (v, k) in rows.items()}
            beside, _ = model.encode_streams(one)
            states, _ = model.encode_words(ids[n : n + 1], mask[:1], beside)
            alone = model.generate(states, mask[:1], beside, 5)
            assert alone[0].tolist() == together[n, : alone.shape[1]].tolist()
            torch.testing.assert_close(
                model.decode(states, mask[:1], beside, ids[n : n + 1, :3])[0], logits[n]
            )


def test_nothing_of_a_batch_is_kept_so_a_model_can_be_copied():
    model, ids = fused(), torch.arange(2, 6).reshape(1, 4)
    beside, _ = model.encode_streams(rows_of(3))
    model.encode_words(ids, torch.ones_like(ids), beside)
    copy.deepcopy(model)
    assert all(f.beside_NS is None and f.words_NTD is None for f in model.fused["encoder"])


def test_info_nce_has_its_golden_value():
    """Orthonormal rows, B = 4: log(1 + 3 exp(-10))."""
    rows = torch.eye(4)
    loss_B = info_nce(rows, rows, torch.ones(4, dtype=torch.bool), 0.1)
    torch.testing.assert_close(loss_B.mean(), torch.tensor(1.3619e-4), rtol=1e-3, atol=0)


def test_info_nce_is_its_equation_and_leaves_absent_streams_out():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    has = np.array([True, False, True, True, True])
    q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, key))
    power = np.exp(q @ k.T / 0.1) * has
    expected = np.where(has, -np.log(np.diag(power).clip(1e-300) / power.sum(1)), 0)
    found = info_nce(*map(torch.from_numpy, (query, key, has)), 0.1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert info_nce(torch.eye(1), torch.eye(1), torch.tensor([True]), 0.1).item() == 0


@pytest.mark.parametrize("blocks", ["mean", "last"])
def test_the_parts_of_two_processes_add_up_to_the_whole(blocks):
    torch.manual_seed(3)
    head = UniMseHead(8, 4, Contrast(blocks=blocks))
    shared = {"words0": torch.randn(4, 8), "words1": torch.randn(4, 8)}
    shared |= {"stream face": torch.randn(4, 4), "has face": torch.ones(4)}
    label = torch.zeros(4, dtype=torch.int64)
    whole = head.batch_losses(shared, label, slice(None))["contrast_face"]
    parts = [head.batch_losses(shared, label, slice(r, None, 2))["contrast_face"] for r in (0, 1)]
    torch.testing.assert_close(sum(parts), whole)


def taught():
    """A classifier and five clips with answers, some without a stream, which two processes cannot
    share evenly."""
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    fields = (Field(name="polarity", words=("negative",)), Field(name="emotion", words=("sad",)))
    book = AnswerBook.build(fields, {"sad": "negative"}, {}, tokenizer)
    t5 = tiny_t5()
    t5.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.manual_seed(4)
    torch.nn.init.normal_(t5.shared.weight)
    model = FusedT5(t5, WIDTHS, Adapters(num_blocks=2, hidden=4, dropout=0.0))
    classifier = build_classifier(model, book, decode="likelihood", contrast=Contrast())
    reader = TurnReader(tokenizer=tokenizer, prefix="say: ", widths=WIDTHS, limits={})
    rng, absent = np.random.default_rng(0), ("face", 2)
    turns = [
        Turn(
            ids_T=reader.pieces("so " * (1 + n % 3)),
            streams={k: rng.normal(size=(2 + n, w)) for k, w in WIDTHS.items() if (k, n) != absent},
            has_text=True,
            answer_A=np.array(book.ids({"polarity": "negative", "emotion": "sad"})[: 3 + n % 2]),
        )
        for n in range(5)
    ]
    return classifier, reader, turns


def gradients(parallel=False, rank=0, processes=1):
    classifier, reader, turns = taught()
    model = classifier
    if parallel:
        model = DistributedDataParallel(classifier, find_unused_parameters=True)
    whole = WholeBatch(
        label_B=torch.zeros(5, dtype=torch.int64), rank=rank, num_processes=processes
    )
    others = [turn for n, turn in enumerate(turns) if n % processes != rank]
    batch = reader.collate(turns[whole.mine], beside=others)
    said = model(batch, whole.label_B[whole.mine], whole)
    assert set(said.losses) == {"answer", "contrast_speech", "contrast_face"}
    (sum(said.losses.values()) * processes / 5).backward()
    return {n: p.grad for n, p in classifier.named_parameters() if p.grad is not None}


def work(rank, port, folder):
    torch.set_num_threads(1)
    where = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    torch.save(gradients(True, rank, 2), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_learn_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, str(tmp_path)), nprocs=2)
    alone = gradients()
    assert {"head.words.weight", "model.fused.streams.face.lstm.weight_ih_l0"} <= alone.keys()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, gradient in alone.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
