"""Joined clips against padded ones, whose arithmetic is tested by hand in test_model."""

import numpy as np
import pytest
import torch

from pretrain.data.collate import Example, collate
from pretrain.data.example import Limits
from pretrain.data.loader import Loader
from pretrain.data.masking import MaskingSettings
from pretrain.data.packing import PackingError, Rows, first_fit, join
from pretrain.model.attention import JOINED_KERNELS
from pretrain.objectives import OBJECTIVES

from ..test_model import clip, losses, toy

FULL = [clip(name, 5 + i, 20 + 3 * i, 30 - i, name=name) for i, name in enumerate(OBJECTIVES)]
TEXTS = [clip("wwmlm", 5 + i, 0, 0, name=f"text {i}") for i in range(3)]
WITHOUT = {
    "nothing": FULL,
    "face": [clip("wwmlm", 6, 0, 20), clip("span_mafr", 4, 0, 30), *TEXTS[:1]],
    "speech": [clip("wwmlm", 6, 12, 0), clip("span_mvfr", 4, 30, 0), clip("span_mvfc_kl", 3, 9, 0)],
    "text": [clip(name, 1, 20, 25) for name in list(OBJECTIVES)[1:]],
    "face in some": [*FULL, clip("wwmlm", 9, 0, 12), clip("span_mafr", 9, 0, 7)],
    "speech in some": [clip("span_mvfr", 6, 10, 0), *FULL, clip("wwmlm", 6, 10, 0)],
    "text in some": [clip("span_mafr", 1, 5, 30), *FULL],
    "streams in some": [*TEXTS, *FULL],
    "streams": TEXTS,
    "others": FULL[:1],
    "others, and a stream": [clip("span_mafr", 4, 0, 30)],
}


def gradients(model, batch) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Each objective's mean loss, and the gradients of their sum."""
    model.zero_grad(set_to_none=True)
    means = {name: total / count for name, (total, count) in losses(model, batch).items()}
    sum(means.values()).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: mean.detach() for name, mean in means.items()}, grads


@pytest.mark.parametrize("examples", WITHOUT.values(), ids=[f"without {name}" for name in WITHOUT])
@pytest.mark.parametrize(
    "changes", [{}, {"positions": "seconds", "centered": ["speech", "face"]}], ids=["", "seconds"]
)
def test_joined_clips_lose_and_learn_as_padded_ones(examples, changes):
    model = toy(**changes)
    padded, joined = collate(examples), join(examples)
    assert (joined.counts, joined.num_tokens) == (padded.counts, padded.num_tokens)
    (found, grads), (expected, wanted) = gradients(model, joined), gradients(model, padded)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grads, wanted, rtol=1e-4, atol=1e-5)


def test_half_precision_costs_joined_clips_no_more_than_rounding():
    """Of a key's bias the true gradient is 0: it adds the same to all scores of a query."""
    model = toy()
    expected, wanted = gradients(model, collate(FULL))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, grads = gradients(model, join(FULL))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    for name in wanted.keys() - {f"encoder.layer.{n}.attention.self.key.bias" for n in (0, 1)}:
        assert (grads[name] - wanted[name]).norm() < 0.1 * wanted[name].norm(), name


def test_hidden_states_of_joined_clips_are_those_of_each_clip_alone():
    model, hidden = toy(), []
    model.encoder.layer[0].register_forward_hook(lambda _, inputs, out: hidden.append(out))
    examples = WITHOUT["streams in some"]
    model(join(examples))
    for example in examples:
        model(join([example]))
    torch.testing.assert_close(hidden[0], torch.cat(hidden[1:]), rtol=1e-5, atol=1e-6)


def test_no_number_of_one_clip_reaches_another():
    model = toy().eval()
    before = model(join([FULL[0], FULL[3]]))["wwmlm"]
    after = model(join([FULL[0], clip("span_mafr", 7, 30, 11, name="another")]))["wwmlm"]
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)


def test_positions_by_hand():
    """Two clips of [text | speech | face] and of [text | face]."""
    first, second = clip("span_mafr", 3, 1, 2), clip("wwmlm", 4, 2, 0)
    batch = join([first, second])
    assert list(batch.frames) == ["face", "speech"]
    # Rows: text 0-2 and 3-6, face 7 and 8-9, speech 10-11.
    assert batch.row_P.tolist() == [0, 1, 2, 7, 10, 11, 3, 4, 5, 6, 8, 9]
    assert batch.text_index_R.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert batch.frames["face"].index_R.tolist() == [0, 0, 1]
    assert batch.frames["face"].clip_R.tolist() == [0, 1, 1]
    assert batch.segments.lengths == (6, 6) and batch.segments.longest == 6
    assert batch.segments.ends_E.tolist() == [0, 6, 12]
    assert batch.targets["span_mafr"].index_M.tolist() == (4 + first.target_at_M).tolist()
    assert batch.targets["wwmlm"].index_M.tolist() == [7, 8]


def test_first_fit_by_hand():
    assert first_fit([90, 40, 100, 30, 20], 130, 8) == [[0, 1], [2, 3], [4]]
    assert first_fit([90, 100, 40, 30], 130, 8) == [[0, 2], [1, 3]]
    assert first_fit([1] * 5, 130, 2) == [[0, 1], [2, 3], [4]]


def test_a_clip_too_long_is_told_with_the_setting():
    with pytest.raises(PackingError, match="data.micro_batch_tokens=130; set it to 131 or more"):
        first_fit([9, 131], 130, 8)


def asked(batches) -> dict[str, list[float]]:
    """Objective to the sum of each row that is asked for, in any order."""
    return {
        name: sorted(
            total
            for b in batches
            if name in b.targets
            for total in np.atleast_2d(b.targets[name].values.double().numpy().T).sum(0).tolist()
        )
        for name in OBJECTIVES
    }


@pytest.mark.parametrize("mixing", ["clip", "step"])
def test_a_step_is_of_the_same_clips_and_masks_however_it_is_cut(toy_index, bert_tokenizer, mixing):
    def loader(rows: Rows | None) -> Loader:
        weights = {name: objective.weight for name, objective in OBJECTIVES.items()}
        return Loader(
            toy_index,
            tokenizer=bert_tokenizer,
            limits=Limits(),
            masking=MaskingSettings(),
            batch_clips=8,
            micro_batch_clips=8,
            num_lanes=4,
            weights=weights,
            mixing=mixing,
            seed=7,
            rows=rows,
        )

    padded, joined = loader(None), loader(Rows(tokens=200, clips=8))
    for _ in range(6):
        a, b = padded.next_step(), joined.next_step()
        assert len(b.batches) > 1
        assert sorted(i for x in b.batches for i in x.ids) == sorted(a.batches[0].ids)
        assert (a.num_clips, a.num_tokens, a.dropped) == (b.num_clips, b.num_tokens, b.dropped)
        assert asked(a.batches) == asked(b.batches)
    assert padded.state_dict()["places_L2"].tolist() == joined.state_dict()["places_L2"].tolist()


def with_the_inputs_of_flash_attention(query_PAD, key_PAD, value_PAD, segments, p):
    """As torch.compile sees that of a GPU: it reads where clips end, and the longest."""
    return (query_PAD + key_PAD + value_PAD) / (segments.ends_E.sum() + segments.longest)


@pytest.mark.parametrize("layout", ["padded", "joined", "joined, as on a GPU"])
def test_compiled_layers_are_one_program_whatever_the_shape(layout, monkeypatch):
    """However many clips, positions and targets there are, and of whatever objectives: nothing is
    compiled after the first batch."""
    if layout == "joined, as on a GPU":
        monkeypatch.setitem(JOINED_KERNELS, "clipwise", with_the_inputs_of_flash_attention)
    torch._dynamo.reset()
    model = toy(dropout=0.1).train()
    model.encoder.compile_layers(backend="eager")
    rng = np.random.default_rng(0)

    def step(num_clips: int) -> None:
        names = rng.permutation(list(OBJECTIVES))[: rng.integers(1, 5)]
        sizes = rng.integers(3, 40, size=(num_clips, 3))
        examples: list[Example] = [clip(str(rng.choice(names)), *map(int, s)) for s in sizes]
        batch = collate(examples) if layout == "padded" else join(examples)
        sum(total for total, _ in losses(model, batch).values()).backward()

    step(num_clips=5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for num_clips in (8, 3, 2, 11, 4):
            step(num_clips)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0


@pytest.mark.parametrize("batch", [join(FULL), collate(FULL)], ids=["joined", "padded"])
def test_a_compiled_model_has_the_same_losses(batch):
    torch._dynamo.reset()
    plain, compiled = toy(), toy()
    compiled.encoder.compile_layers(backend="eager")
    torch.testing.assert_close(gradients(compiled, batch), gradients(plain, batch))
