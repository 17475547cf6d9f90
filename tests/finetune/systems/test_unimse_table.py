"""The table's commands are such as a user could give, and its page is made of what they leave."""

import shlex
from pathlib import Path

import pytest

from data_pipeline.config import load_config
from finetune.config import FinetuneConfig
from finetune.protocols import load_protocol
from finetune.systems.unimse import table
from finetune.systems.unimse.__main__ import main


def test_its_command_asks_for_what_there_is(root):
    command = table.finetune_command(Path("my data"), (1, 2))
    settings = [word for word in shlex.split(command) if "=" in word]
    config = load_config(FinetuneConfig, root / table.CONFIG, settings)
    assert config.seeds == (1, 2) and config.selection == "dev"
    assert config.output == table.RESULTS and load_protocol(config.data.protocol).group == "speaker"
    assert {name for pair in table.PAIRS for name in pair} == set(config.settings)
    asked = {name: config.setting(name) for name in config.settings}
    assert len({setting.plan for setting in asked.values()}) == 1
    assert len({str(setting.options["shape"]) for setting in asked.values()}) == 1
    sources = asked[table.ASKED].options["sources"]
    assert sources["meld"]["table"] == "my data/text/meld/train_sent_emo.csv"
    assert all("train" in Path(source["table"]).name for source in sources.values())


def test_without_results_or_data_there_is_no_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["table", "--publish"]) == 2
    assert "no results in runs/composed/unimse" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["table"])
    assert "--data is not given" in capsys.readouterr().err


def test_a_command_that_fails_ends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "shard_commands", lambda data: ["exit 3"])
    assert main(["table", "--data", str(tmp_path)]) == 2
    assert "this command failed: exit 3" in capsys.readouterr().err
