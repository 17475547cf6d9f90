"""Several things to be told of the same clips, in one command: each as if it were alone."""

import dataclasses
import json

import pytest
import toys

from data_pipeline.config import ConfigError, load_config
from finetune.clips.labelled import DatasetError, LabelMap, read_labelled
from finetune.config import FinetuneConfig
from finetune.pipeline import ArrayStageSettings, PipelineConfig, PipelineError, chain_of
from finetune.protocols.__main__ import main as protocols
from finetune.run import main
from finetune.runs.results import read_rows

from .conftest import make_clips

TWO = (
    "targets={mood: {label_column: mood, labels: {good: [fine], bad: [poor, awful]}}, "
    "anger: {labels: {anger: [anger], other: [happy, neutral, sad]}}}"
)


@pytest.fixture
def shards(write_shards):
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    moods = {"anger": "poor", "sad": "awful", "happy": "fine", "neutral": "fine"}
    for clip in clips:
        clip.meta["columns"] = {"mood": moods[clip.meta["label"]]}
    return write_shards(clips)


def test_a_target_is_a_config_of_its_own():
    config = load_config(FinetuneConfig, None, [TWO, "output=out", "data.modalities=[speech]"])
    mood, anger = config.of_targets()
    assert (mood.output, mood.targets, mood.data.label_column) == ("out/mood", {}, "mood")
    assert mood.data.labels == {"good": ("fine",), "bad": ("poor", "awful")}
    assert (anger.output, anger.data.label_column) == ("out/anger", "label")
    assert mood.data.modalities == anger.data.modalities == ("speech",)
    assert dataclasses.replace(mood, output="x", data=anger.data) == dataclasses.replace(
        anger, output="x"
    )
    plain = load_config(FinetuneConfig, None, [])
    assert plain.of_targets() == [plain]


def test_each_target_has_rows_tables_and_recipes_of_its_own(tmp_path, shards, checkpoint):
    words = [f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", "folds=[0]", *toys.FAST]
    words += ["own_settings.mine={system: own.nearest_mean, options: {scale: 0.5}}"]
    words += ["settings=[mine]", f"output={tmp_path / 'out'}", TWO]
    assert main(words) == 0
    for target, classes in (("mood", ["good", "bad"]), ("anger", ["anger", "other"])):
        (row,) = read_rows(tmp_path / "out" / target)
        assert row.num_classes == 2 and row.ua > 0.5
        (path,) = (tmp_path / "out" / target).glob("recipes/*.json")
        recipe = json.loads(path.read_text())
        assert recipe["classes"] == classes
        assert recipe["facts"].get("label_column") == ("mood" if target == "mood" else None)
        run = next((tmp_path / "out" / target).glob("runs/mine/*"))
        assert load_config(FinetuneConfig, run / "config.yaml", []).targets == {}


def test_folds_are_made_of_the_first_target(tmp_path, shards):
    words = ["make", "--shards", str(shards), "--folds", "3", "--output", str(tmp_path / "f.json")]
    assert protocols([*words, "--by", "speaker", TWO]) == 0
    assert len(json.loads((tmp_path / "f.json").read_text())["folds"]) == 3


def test_a_column_that_no_clip_has_is_told(shards):
    labels = LabelMap.build({"good": ["fine"], "bad": ["poor"]})
    with pytest.raises(DatasetError, match="24 without a label.*fill the column `temper`"):
        read_labelled([str(shards)], labels, (), "temper")
    with pytest.raises(DatasetError, match="labels that no class lists: awful 6"):
        read_labelled([str(shards)], labels, (), "mood")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("targets={a/b: {labels: {x: [x], y: [y]}}}", "targets.a/b: expected a name of letters"),
        ("targets={a: {label: {x: [x]}}}", "targets.a"),
    ],
)
def test_targets_that_cannot_be(word, message):
    with pytest.raises(ConfigError, match=message):
        load_config(FinetuneConfig, None, [word])


def test_a_chain_of_jobs_takes_one(tmp_path):
    stage = ArrayStageSettings(config="configs/finetune/stories.yaml")
    config = PipelineConfig(clips="clips.csv", output=str(tmp_path / "out"), finetune=stage)
    with pytest.raises(PipelineError, match=r"has targets \(valence, arousal\), and a chain has"):
        chain_of(config)
