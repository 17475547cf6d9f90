"""The table's commands are such as a user could give, and its page is made of what they leave."""

import shlex

import pytest

from data_pipeline.config import load_config
from data_pipeline.extraction.config import DataConfig
from finetune.config import FinetuneConfig
from finetune.protocols import load_protocol
from finetune.systems.speech_resnet import table
from finetune.systems.speech_resnet.__main__ import main
from finetune.systems.speech_resnet.config import SpeakerConfig


def settings(command: str) -> list[str]:
    return [word for word in shlex.split(command) if "=" in word]


@pytest.mark.parametrize("name", table.CORPORA)
def test_its_commands_ask_for_what_there_is(root, name):
    corpus, command = table.CORPORA[name], table.finetune_command(name, (1, 2))
    config = load_config(FinetuneConfig, root / table.CONFIG, settings(command))
    assert config.seeds == (1, 2) and config.selection == "dev"
    assert config.settings == table.SETTINGS
    assert load_protocol(config.data.protocol).group == "speaker"
    trunk = load_config(SpeakerConfig, None, settings(table.trunk_command(name)))
    starts = {n: config.setting(n).options.get("trunk") for n in table.SETTINGS}
    own = {None, trunk.output}
    assert set(starts.values()) == own and starts["transfer"] == starts["both"] == trunk.output
    assert name not in corpus.others and not any(name in folder for folder in trunk.shards)
    asked = [config.setting(n) for n in table.SETTINGS]
    assert len({setting.plan.num_steps for setting in asked}) == 1
    masked = [bool("augment" in setting.options) for setting in asked]
    assert masked == [False, True, False, True]
    shape = {
        n: s.options["shape"]
        for n, s in zip(table.SETTINGS, asked, strict=True)
        if "shape" in s.options
    }
    new = {"width": trunk.shape.width, "stem_stride": trunk.shape.stem_stride}
    assert shape == {"scratch": new, "augmented": new}  # those of the trunk are its
    _, extract = table.shard_commands(name, root)
    data = load_config(DataConfig, None, settings(extract))
    assert list(data.extractors) == ["fbank"] and data.output in config.data.shards


def test_without_results_there_is_no_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["table", "--publish"]) == 2
    assert "no results in runs/speech_resnet" in capsys.readouterr().err


def test_a_command_that_fails_ends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "shard_commands", lambda name, root: ["exit 3"])
    words = [f"--{name}={tmp_path}" for name in ("ravdess", "emodb", "grid")]
    assert main(["table", *words]) == 2
    assert "this command failed: exit 3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["table", words[0]])
    assert "--emodb, --grid is not given" in capsys.readouterr().err
