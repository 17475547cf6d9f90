import dataclasses

import pytest

from data_pipeline.config import ConfigError, dump_config, load_config
from pretrain.config import PretrainConfig
from pretrain.objectives import OBJECTIVES

YAMLS = {"reference.yaml": (40_000, 640, "step"), "tiny.yaml": (60, 16, "clip")}


@pytest.mark.parametrize(("name", "expected"), YAMLS.items())
def test_every_yaml_builds_and_opens_with_its_command(root, name, expected):
    path = root / "configs/pretrain" / name
    assert f"launch/pretrain.sh --config configs/pretrain/{name}" in path.read_text()
    c = load_config(PretrainConfig, path, [])
    assert (c.optim.steps, c.data.batch_clips, c.objectives.mixing) == expected


def test_reference_is_the_paper(root):
    """Every number of the paper's run that is a setting."""
    c = load_config(PretrainConfig, root / "configs/pretrain/reference.yaml", [])
    assert (c.model.text_checkpoint, c.model.text_init) == ("bert-base-uncased", "checkpoint")
    assert (c.model.dropout, c.model.positions, c.model.own_type) == (0.1, "index", True)
    assert c.data.batch_clips == 640
    assert c.data.limits == {"text": 30, "face": 36, "speech": 64}
    m = c.masking
    assert m.ratios == {name: objective.ratio for name, objective in OBJECTIVES.items()}
    assert m.span_length == 3
    assert m.dice
    assert c.objectives.mixing == "step"
    assert c.objectives.shares() == {
        "wwmlm": 0.4,
        "span_mvfr": 0.2,
        "span_mvfc_kl": 0.2,
        "span_mafr": 0.2,
    }
    o = c.optim
    assert (o.steps, o.warmup_steps, o.peak_learning_rate) == (40_000, 4_000, 5e-5)
    assert (o.floor_learning_rate, o.betas) == (1e-8, (0.9, 0.98))
    # 1e-6 and 5.0 of the official run, whose gradient is 4 times ours: a sum over micro-batches.
    assert (4 * o.eps, 4 * o.clip_norm) == (1e-6, 5.0)
    assert (o.weight_decay, c.run.seed) == (0.01, 1234)


def test_the_defaults_are_the_reference(root):
    """Only names of folders, how often to log, and what makes a GPU fast differ."""
    c = load_config(PretrainConfig, root / "configs/pretrain/reference.yaml", [])
    default = PretrainConfig()
    others = ("shards", "micro_batch_clips", "micro_batch_tokens")
    changes = {name: getattr(default.data, name) for name in others}
    assert dataclasses.replace(c.data, **changes) == default.data
    assert dataclasses.replace(c.engine, compile=False) == default.engine
    assert (c.model, c.optim) == (default.model, default.optim)
    # Spelled out there; the objectives' own where nothing is said.
    assert c.objectives.shares() == default.objectives.shares()
    assert c.objectives.mixing == default.objectives.mixing
    assert dataclasses.replace(c.masking, ratios={}) == default.masking


def test_a_dumped_config_reads_back_equal(tmp_path, root):
    config = load_config(PretrainConfig, root / "configs/pretrain/tiny.yaml", ["optim.steps=33"])
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(PretrainConfig, tmp_path / "c.yaml", []) == config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.stepz=3"], ["optim.stepz", "optim.steps"]),
        (["optim.steps=many"], ["optim.steps", "many"]),
        (["optim.steps=10"], ["warmup_steps=4000", "optim.steps=10"]),
        (["data.num_lanes=7"], ["num_lanes=7", "batch_clips=640"]),
        (["data.shards=[]"], ["data.shards", "at least one"]),
        (["data.limits.face=-1"], ["limits.face", "-1"]),
        (["data.max_face_frames=9"], ["data.max_face_frames' is now called 'data.limits'"]),
        (["model.width=64"], ["'width': 64", "text_init"]),
        (["model.centered=[voice]"], ["names voice", "model.streams=['face', 'speech']"]),
        (["model.dropout=1"], ["model.dropout"]),
        (["engine.kind=torch", "engine.zero_stage=1"], ["zero_stage=1", "deepspeed"]),
        (["engine.zero_stage=4"], ["engine.zero_stage"]),
        (["engine.zero_stage=3", "engine.compile=true"], ["compile=true with", "zero_stage=3"]),
        (["run.seed=-1"], ["run.seed: ", "-1"]),
        (["run.num_threads=-1"], ["run.num_threads: ", "-1"]),
        (["run.timeout_minutes=-1"], ["run.timeout_minutes: ", "-1"]),
        (["optim.betas=[1.5, 0.9]"], ["optim.betas.0: ", "less than 1", "1.5"]),
        (["optim.peak_learning_rate=-1"], ["optim.peak_learning_rate: ", "-1"]),
        (["optim.peak_learning_rate=.nan"], ["optim.peak_learning_rate is nan"]),
        (["optim.weight_decay=-1"], ["optim.weight_decay: ", "-1"]),
        (["optim.eps=0"], ["optim.eps: ", "greater than 0"]),
        (["model.text_init=none", "model.num_heads=0"], ["model.num_heads: ", "greater than 0"]),
        (["model.text_init=none", "model.num_layers=0"], ["model.num_layers: ", "greater than 0"]),
        (["model.max_frame_positions=0"], ["model.max_frame_positions: ", "found 0"]),
        (["objectives.weights.wwmlm=.inf"], ["objectives.weights.wwmlm: ", "finite"]),
        (["masking.ratios.wwmlm=1.5"], ["ratios.wwmlm", "1.5"]),
        (["masking.ratios.wwmlm=0"], ["ratios.wwmlm", "greater than 0"]),
        (["masking.span_length=0"], ["masking.span_length", "greater than 0"]),
    ],
)
def test_a_value_that_cannot_work_is_named(root, overrides, words):
    with pytest.raises(ConfigError) as caught:
        load_config(PretrainConfig, root / "configs/pretrain/reference.yaml", overrides)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("{mlm: 1}", "no objective 'mlm'; there are wwmlm, span_mvfr"),
        ("{wwmlm: 0, span_mvfr: 0, span_mvfc_kl: 0, span_mafr: 0}", "every objective is off"),
    ],
)
def test_objectives_that_cannot_be_are_told_before_any_data_is_read(weights, words):
    config = load_config(PretrainConfig, None, [f"objectives.weights={weights}"])
    with pytest.raises(ConfigError, match=words):
        config.objectives.shares()


def test_an_objective_with_weight_zero_is_off():
    weights = "{wwmlm: 0, span_mvfr: 1, span_mvfc_kl: 2, span_mafr: 1}"
    config = load_config(PretrainConfig, None, [f"objectives.weights={weights}"])
    assert list(config.objectives.shares()) == ["span_mvfr", "span_mvfc_kl", "span_mafr"]
    assert sum(config.objectives.shares().values()) == pytest.approx(1)
