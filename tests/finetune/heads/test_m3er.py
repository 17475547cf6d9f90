"""M3ER against values worked out by numpy, on streams that are missing or wrong, and as a run."""

import numpy as np
import pytest
import torch
import toys

from data_pipeline.config import ConfigError
from finetune.clips.labelled import DatasetError
from finetune.config import PromptConfig
from finetune.heads import HeadParts
from finetune.heads.m3er import (
    M3erHead,
    M3erSettings,
    MemoryFusion,
    into_steps,
    multiplicative_loss,
)
from finetune.heads.modality_check import Agreement, Proxies
from finetune.recognizer import load_recognizer
from finetune.run import main
from finetune.runs.results import read_rows

from ..conftest import make_clips, without_face

P = np.array([0.9, 0.6, 0.2])
EVERY = torch.ones(1, 3, dtype=torch.bool)
WIDTHS = {"text": 6, "face": 8, "speech": 5}


def loss(p: np.ndarray, has: torch.Tensor = EVERY, **how) -> float:
    return multiplicative_loss(torch.tensor(np.log(p))[None], has, **how).item()


@pytest.mark.parametrize(
    ("form", "beta", "golden"),
    [
        ("modified", 2.0, 0.723207),
        ("modified", 1.0, 1.215400),
        ("original", 2.0, 0.138959),
        ("original", 1.0, 0.525972),
    ],
)
def test_the_losses_have_the_golden_values(form, beta, golden):
    weight = {
        "modified": P ** (beta / 2),
        "original": np.array([np.prod(np.delete(1 - P, i)) for i in range(3)]) ** (beta / 2),
    }[form]
    assert -(weight * np.log(P)).sum() == pytest.approx(golden, abs=1e-6)
    assert loss(P, form=form, beta=beta) == pytest.approx(golden, abs=1e-6)


@pytest.mark.parametrize("form", ["modified", "original"])
def test_beta_0_and_a_lone_stream_are_plain_cross_entropy(form):
    assert loss(P, form=form, beta=0.0) == pytest.approx(-np.log(P).sum())
    lone = torch.tensor([[False, True, False]])
    assert loss(P, lone, form=form, beta=2.0) == pytest.approx(-np.log(0.6))
    two = torch.tensor([[True, True, False]])
    weight = P[:2] ** 2 if form == "modified" else (1 - P[1::-1]) ** 2
    assert loss(P, two, form=form, beta=2.0) == pytest.approx(-(weight * np.log(P[:2])).sum())


@pytest.mark.parametrize(
    ("form", "floor", "alive"), [("modified", 0.2, True), ("modified", 0.0, False)]
)
def test_a_stream_that_is_quite_wrong_learns_because_of_the_floor(form, floor, alive):
    scores = torch.tensor([[[20.0, 0.0]] * 3], requires_grad=True)
    log_p_NS = scores.log_softmax(-1)[..., 1]
    multiplicative_loss(log_p_NS, EVERY, form=form, beta=2.0, floor=floor).sum().backward()
    assert (scores.grad.abs().max() > 0.01) == alive


@pytest.mark.parametrize("num_streams", [1, 2, 3])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_with_the_floor_that_ships_the_loss_falls_with_every_p_of_the_truth(num_streams, beta):
    """p^c log p alone rises below p = exp(-1 / c): there it would push the truth away."""
    floor = M3erSettings().floor
    log_p_N1 = torch.linspace(-40, -1e-4, 4000)[:, None]
    slopes = {}
    for least in (floor, 0.0):
        log_p_NS = log_p_N1.repeat(1, num_streams).requires_grad_()
        there = torch.ones_like(log_p_NS, dtype=torch.bool)
        multiplicative_loss(
            log_p_NS, there, form="modified", beta=beta, floor=least
        ).sum().backward()
        slopes[least] = log_p_NS.grad
    assert slopes[floor].max() < -0.08
    assert num_streams == 1 or slopes[0.0].max() > 0.1


@pytest.mark.parametrize("form", ["modified", "original"])
def test_certainty_gives_no_nan(form):
    scores = torch.tensor([[[200.0, -200.0]] * 3], requires_grad=True)
    for truth in (0, 1):
        log_p_NS = scores.log_softmax(-1)[..., truth]
        multiplicative_loss(log_p_NS, EVERY, form=form, beta=1.0).sum().backward()
    assert scores.grad.isfinite().all()


def numpy_fusion(model: MemoryFusion, streams: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The equations written a second time: LSTM cells, delta attention, gated memory; one clip."""
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def net(name, x):
        inner = np.maximum(weights[f"{name}.0.weight"] @ x + weights[f"{name}.0.bias"], 0)
        return weights[f"{name}.3.weight"] @ inner + weights[f"{name}.3.bias"]

    width = model.width
    h, c = [np.zeros(width)] * len(streams), [np.zeros(width)] * len(streams)
    u = np.zeros(model.memory)
    for t in range(len(streams[0])):
        before = np.concatenate(c)
        for s, stream in enumerate(streams):
            gates = (
                weights[f"cells.{s}.weight_ih"] @ stream[t]
                + weights[f"cells.{s}.bias_ih"]
                + weights[f"cells.{s}.weight_hh"] @ h[s]
                + weights[f"cells.{s}.bias_hh"]
            )
            i, f, g, o = np.split(gates, 4)
            c[s] = sigmoid(f) * c[s] + sigmoid(i) * np.tanh(g)
            h[s] = sigmoid(o) * np.tanh(c[s])
        window = np.concatenate([before, *c])
        a = np.exp(net("attention", window))
        attended = a / a.sum() * window
        proposal = np.tanh(net("proposal", attended))
        both = np.concatenate([attended, u])
        u = sigmoid(net("keep", both)) * u + sigmoid(net("take", both)) * proposal
    return np.stack(h), u


def test_fusion_is_its_equations_step_by_step_and_ends_with_the_clip():
    torch.manual_seed(0)
    model = MemoryFusion([4, 3, 2], 5, 7, hidden=6, dropout=0.3).eval()
    streams = [torch.randn(2, 6, C) for C in (4, 3, 2)]
    lengths = (6, 4)  # the second clip's last two steps are padding
    steps_NT = torch.arange(6) < torch.tensor(lengths)[:, None]
    state_NSH, memory_NM = model(steps_NT, streams, torch.ones(2, 3, dtype=torch.bool))
    for n, length in enumerate(lengths):
        for T in range(1, length + 1):
            cut = [stream[n, :T].numpy() for stream in streams]
            part_NT = torch.arange(6) < torch.tensor([T, T])[:, None]
            h_NSH, u_NM = model(part_NT, streams, torch.ones(2, 3, dtype=torch.bool))
            h, u = numpy_fusion(model, cut)
            assert h_NSH[n].detach().numpy() == pytest.approx(h, abs=1e-6)
            assert u_NM[n].detach().numpy() == pytest.approx(u, abs=1e-6)
        assert state_NSH[n].detach().numpy() == pytest.approx(h, abs=1e-6)
        assert memory_NM[n].detach().numpy() == pytest.approx(u, abs=1e-6)


def test_a_stream_that_a_clip_lacks_stays_at_zero():
    torch.manual_seed(0)
    model = MemoryFusion([4, 3], 5, 7, hidden=6, dropout=0.0)
    streams = [torch.randn(1, 3, 4), torch.randn(1, 3, 3)]
    has = torch.tensor([[True, False]])
    state_NSH, memory_NM = model(torch.ones(1, 3, dtype=torch.bool), streams, has)
    assert not state_NSH[0, 1].any() and state_NSH[0, 0].all() and memory_NM.any()


def test_steps_are_equal_parts_of_a_clip():
    rows = torch.arange(1.0, 8.0)[None, :, None].repeat(3, 1, 1)
    found = into_steps(rows, torch.tensor([7, 2, 0]), torch.tensor([3, 4, 4]), 5)[..., 0]
    assert found[0].tolist() == [2.0, 4.0, 6.0, 0.0, 0.0]  # 1-3, 3-5, 5-7
    assert found[1].tolist() == [1.0, 1.0, 2.0, 2.0, 0.0]
    assert not found[2].any()


def correlated(count: int, seed: int = 0) -> tuple[dict, dict]:
    """Means of three streams that share three hidden numbers."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 3))
    mixing = np.random.default_rng(99)
    means = {
        name: hidden @ mixing.normal(size=(3, width)) + 0.1 * rng.normal(size=(count, width))
        for name, width in WIDTHS.items()
    }
    return means, {name: np.ones(count, bool) for name in WIDTHS}


def as_tensors(arrays: dict, count: int | None = None) -> dict:
    return {
        name: torch.tensor(value[:count], dtype=None if value.dtype == bool else torch.float32)
        for name, value in arrays.items()
    }


def test_a_stream_of_another_clip_is_found():
    agreement = Agreement(WIDTHS, 3)
    agreement.fit(*correlated(300))
    means, has = correlated(200, seed=1)
    valid = agreement.valid(as_tensors(means), as_tensors(has), 0.5)
    assert all(valid[name].float().mean() > 0.95 for name in WIDTHS)
    means["speech"] = np.roll(means["speech"], 1, axis=0)
    valid = agreement.valid(as_tensors(means), as_tensors(has), 0.9)
    assert valid["speech"].float().mean() < 0.4
    assert valid["face"].float().mean() > 0.9 and valid["text"].float().mean() > 0.9


def test_where_nothing_tells_which_stream_is_wrong_all_are_kept():
    agreement = Agreement({"text": 6, "face": 8}, 3)
    means, has = correlated(300)
    agreement.fit(means, has)
    means["face"] = np.roll(means["face"], 1, axis=0)
    two = [as_tensors({name: part[name] for name in ("text", "face")}) for part in (means, has)]
    assert all(part.all() for part in agreement.valid(*two, 0.9).values())
    lone = {"text": torch.tensor([True]), "face": torch.tensor([False])}
    means = {name: part[:1] for name, part in two[0].items()}
    assert [part.item() for part in agreement.valid(means, lone, 0.9).values()] == [True, False]


def test_the_check_needs_more_clips_than_directions_and_streams_that_change():
    agreement = Agreement(WIDTHS, 5)
    with pytest.raises(
        DatasetError, match="5 directions .* 5 training clips .* options.dimensions"
    ):
        agreement.fit(*correlated(5))
    means, has = correlated(50)
    means["face"][:] = 1.5
    with pytest.raises(DatasetError, match="stream face is the same in all 50 training clips"):
        agreement.fit(means, has)


def test_a_proxy_is_the_stream_that_the_others_speak_for():
    proxies = Proxies(WIDTHS, 400, 8)
    proxies.fit(*correlated(400))
    means, has = correlated(100, seed=1)
    valid = as_tensors({**has, "speech": np.zeros(100, bool)})
    proxy_NC, found_N = proxies(as_tensors(means), valid, "speech")
    truth = means["speech"]
    error = np.square(proxy_NC.numpy() - truth).sum() / np.square(truth - truth.mean(0)).sum()
    assert found_N.all() and error < 0.1
    nobody = {name: torch.zeros(100, dtype=torch.bool) for name in WIDTHS}
    assert not proxies(as_tensors(means), nobody, "speech")[1].any()


def test_in_training_a_clip_is_no_basis_of_its_own():
    proxies = Proxies(WIDTHS, 40, 3)
    arrays = correlated(40)
    proxies.fit(*arrays)
    means = as_tensors(arrays[0])
    valid = as_tensors({**arrays[1], "speech": np.zeros(40, bool)})
    own_N = (proxies.eval()(means, valid, "speech")[0] - means["speech"]).norm(dim=1)
    learned_N = (proxies.train()(means, valid, "speech")[0] - means["speech"]).norm(dim=1)
    assert learned_N.median() > 2 * own_N.median()
    others = Proxies(WIDTHS, 40, 3)
    others.fit(*[{n: np.roll(x, -1, 0)[:39] for n, x in part.items()} for part in arrays])
    first = [{n: x[:1] for n, x in part.items()} for part in (means, valid)]
    torch.testing.assert_close(
        proxies(*first, "speech")[0], others.eval()(*first, "speech")[0], rtol=1e-4, atol=1e-4
    )


def test_autocast_changes_neither_check_nor_proxy():
    agreement, proxies = Agreement(WIDTHS, 3), Proxies(WIDTHS, 40, 3)
    for part in (agreement, proxies):
        part.fit(*correlated(40))
    means, has = map(as_tensors, correlated(9, seed=1))
    valid = {**has, "speech": torch.zeros(9, dtype=torch.bool)}

    def found() -> tuple[torch.Tensor, torch.Tensor]:
        return agreement(means, ("text", "speech")), proxies(means, valid, "speech")[0]

    expected = found()
    with torch.autocast("cpu", torch.bfloat16):
        for one, other in zip(found(), expected, strict=True):
            assert one.dtype == torch.float32 and torch.equal(one, other)


def test_a_proxy_is_the_sum_of_its_equation():
    """One basis, then two: a solves the ridge system of the nearest bases."""
    proxies = Proxies({"face": 2, "speech": 2}, 3, 2)
    bases = {
        "face": np.array([[1.0, 0.0], [0.0, 1.0], [50.0, 50.0]]),
        "speech": np.array([[3.0, 1.0], [0.0, 2.0], [9.0, 9.0]]),
    }
    proxies.fit(bases, {name: np.ones(3, bool) for name in bases})
    face = torch.tensor([[0.5, 0.25]])
    valid = {"face": torch.tensor([True]), "speech": torch.tensor([False])}
    found, _ = proxies({"face": face, "speech": face}, valid, "speech")
    a = np.linalg.solve(np.eye(2) * 1.01, [0.5, 0.25])
    assert found[0].numpy() == pytest.approx(a @ bases["speech"][:2], rel=1e-5)


def parts(**changes) -> HeadParts:
    told = {"model": torch.nn.Identity(), "width": 19, "widths": WIDTHS, "frozen": True}
    told |= {"classes": ("a", "b"), "tokenizer": None, "prompt": PromptConfig()}
    return HeadParts(**{**told, "settings": M3erSettings(dimensions=3), **changes})


def test_a_model_that_learns_on_cannot_be_compared_with():
    with pytest.raises(ConfigError, match="plan.freeze_model=true"):
        M3erHead.build(parts(frozen=False))
    M3erHead.build(parts(frozen=False, widths={"face": 4}))
    settings = M3erSettings(check=False, proxies=False)
    M3erHead.build(parts(frozen=False, settings=settings))


RUNS = [
    ("features", "text, face, speech", ""),
    ("features", "face, speech", ", loss: original"),
    ("features", "speech", ""),
    ("checkpoint", "text, face, speech", ", check: false"),
]


@pytest.mark.parametrize(("weights", "modalities", "options"), RUNS)
def test_it_learns_from_one_two_or_three_streams(
    tmp_path, write_shards, checkpoint, bert, weights, modalities, options
):
    clips = make_clips(num_speakers=3, per_speaker=8, signal=3.0)
    clips[3] = without_face(clips[3])
    shards = write_shards(clips)
    plan = "{num_steps: 60, learning_rate: 1e-2, freeze_model: true}"
    arguments = [
        *(f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", f"model.bert={bert}"),
        *(f"data.modalities=[{modalities}]", "folds=[0]", *toys.FAST, "eval_every_steps=20"),
        f"own_settings.m3er={{weights: {weights}, head: m3er, plan: {plan}, "
        f"options: {{dimensions: 3{options}}}}}",
        *("settings=[m3er]", f"output={tmp_path / 'out'}"),
    ]
    assert main(arguments) == 0
    (row,) = read_rows(tmp_path / "out")
    assert row.head == "m3er" and row.ua > 0.5
    (folder,) = tmp_path.glob("out/runs/m3er/*/recognizer")
    recognizer = load_recognizer(folder)
    samples = {sample.id: sample for sample in recognizer.read(shards)}
    lines = (folder.parent / "predictions.csv").read_text().splitlines()
    clip, *_, last = lines[1].split(",")
    (found_C,) = recognizer.predict([samples[clip]])
    assert found_C[-1] == pytest.approx(float(last), abs=1e-6)


def test_too_few_clips_for_the_check_is_one_message(tmp_path, write_shards, bert, capsys):
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    arguments = [
        *(f"data.shards=[{shards}]", "model.checkpoint=null", f"model.bert={bert}"),
        *("folds=[0]", *toys.FAST, "settings=[m3er]", f"output={tmp_path / 'out'}"),
        "own_settings.m3er={weights: features, head: m3er}",
    ]
    assert main(arguments) == 2
    assert "expected more clips than directions" in capsys.readouterr().err
