"""Paths as users write them: homes, shell variables, one folder by two names, other stages'."""

import argparse
from pathlib import Path

import pytest

from data_pipeline.config import ConfigError, load_config
from data_pipeline.extraction.config import DataConfig
from data_pipeline.paths import (
    STAGE_FILES,
    check_distinct,
    check_stage,
    expanded,
    new_file_argument,
    path_argument,
)
from finetune.config import FinetuneConfig
from finetune.demo import DemoConfig
from pretrain.config import PairingConfig, PretrainConfig

PATHS = [
    (DataConfig, "clips", []),
    (DataConfig, "output", []),
    (DataConfig, "streams.speech.encoder", []),
    (DataConfig, "streams.face.encoder", []),
    (DataConfig, "transcriber", []),
    (PretrainConfig, "model.text_checkpoint", []),
    (PretrainConfig, "data.shards", [0]),
    (PretrainConfig, "data.validation_shards", [0]),
    (PretrainConfig, "run.output", []),
    (PairingConfig, "results", []),
    (PairingConfig, "pretrain.run.output", []),
    (FinetuneConfig, "output", []),
    (FinetuneConfig, "data.shards", [0]),
    (FinetuneConfig, "data.protocol", []),
    (FinetuneConfig, "model.checkpoint", []),
    (FinetuneConfig, "model.bert", []),
    (DemoConfig, "clips", []),
    (DemoConfig, "output", []),
]
"""Every path setting of every command, and where in its value the path is."""
GIVEN = {DataConfig: ["clips=a", "output=b"], PairingConfig: ["positions={digit: 4}"]}


def setting(config: type, name: str, inside: list[int], value: str) -> str:
    override = f"{name}=[{value}]" if inside else f"{name}={value}"
    found = load_config(config, None, [*GIVEN.get(config, []), override])
    for part in name.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    for index in inside:
        found = found[index]
    return str(found)


@pytest.mark.parametrize(("config", "name", "inside"), PATHS)
def test_every_path_setting_knows_home_and_names_a_shell_variable(
    monkeypatch, config, name, inside
):
    monkeypatch.setenv("HOME", "/home/me")
    assert setting(config, name, inside, "~/runs/x") == "/home/me/runs/x"
    assert setting(config, name, inside, "runs/~x") == "runs/~x"
    for value, variable in (("$RUN/x", r"\$RUN"), ("a/${MY_RUN}", r"\$\{MY_RUN\}")):
        with pytest.raises(ConfigError, match=rf"{name}.*: {variable} is a shell variable"):
            setting(config, name, inside, f"'{value}'" if inside else value)
    with pytest.raises(ConfigError, match=rf"{name}.* has no value"):
        load_config(config, None, [*GIVEN.get(config, []), f"{name}="])
    with pytest.raises(ConfigError, match=rf"{name}.* is empty"):
        setting(config, name, inside, "' '")


def test_a_home_that_is_not_there_and_a_folder_with_a_dollar(tmp_path):
    with pytest.raises(ValueError, match="nobody's home is ~nobody-of-this-name"):
        expanded("~nobody-of-this-name/x")
    folder = tmp_path / "$old_prices"
    folder.mkdir()
    assert expanded(folder) == folder
    assert expanded("facebook/wav2vec2-base") == "facebook/wav2vec2-base"


def test_paths_of_the_other_commands(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    assert path_argument("~/x") == Path("/home/me/x")
    for text, match in (("", "is empty"), ("$RUN/x", "shell variable")):
        with pytest.raises(argparse.ArgumentTypeError, match=match):
            path_argument(text)
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder"):
        new_file_argument(str(tmp_path))
    assert new_file_argument(f"{tmp_path}/new.csv") == tmp_path / "new.csv"


def test_one_folder_is_not_listed_twice(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    check_distinct("data.shards", ["a", "b", "no/a"])
    for other in ("a", "a/", "./a", "b/../a", "link", str(tmp_path / "a")):
        with pytest.raises(ConfigError, match="data.shards lists .*count double"):
            check_distinct("data.shards", ["a", "b", other])
        with pytest.raises(ConfigError, match="data.shards lists .*count double"):
            load_config(FinetuneConfig, None, [f"data.shards=[a, b, {other}]"])


STAGES = {what: what.rpartition(" ")[2] for what in STAGE_FILES}


@pytest.mark.parametrize("stage", ["extraction", "pretraining", "finetuning"])
@pytest.mark.parametrize("what", STAGE_FILES)
def test_a_folder_of_another_stage_is_refused(tmp_path, what, stage):
    for name in STAGE_FILES[what]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").touch()
        check_stage(folder, stage, "output")
        (folder / name).touch()
        if STAGES[what] == stage:
            check_stage(folder, stage, "output")
            continue
        with pytest.raises(ConfigError) as caught:
            check_stage(folder, stage, "run.output")
        assert f"{folder} is {what} (it holds {name})" in str(caught.value)
        assert f"run.output={folder / stage}" in str(caught.value)
