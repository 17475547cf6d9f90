"""The table's commands are such as a user could give, and its page is made of what they leave."""

import shlex
from pathlib import Path

import pytest

from data_pipeline.config import check_settings, load_config
from data_pipeline.extraction.config import DataConfig
from finetune.config import FinetuneConfig
from finetune.protocols import load_protocol
from finetune.systems.stories import table
from finetune.systems.stories.__main__ import main
from finetune.systems.stories.config import Options


def settings(command: str) -> list[str]:
    return [word for word in shlex.split(command) if "=" in word]


def test_its_commands_ask_for_what_there_is(root):
    _, extract, _, folds = table.data_commands(Path("data"), Path("yam.tflite"))
    data = load_config(DataConfig, None, settings(extract))
    assert list(data.extractors) == ["yamnet", "sentence"]
    assert data.extractors["yamnet"] == {"weights": "yam.tflite"}
    found = [
        load_config(FinetuneConfig, root / table.CONFIG, settings(command))
        for command in table.finetune_commands()
    ]
    *composed, meld = found
    for config, (name, streams) in zip(composed, table.SETTINGS.items(), strict=True):
        assert (config.settings, config.data.modalities) == ((name,), streams)
        assert config.data.shards == (data.output,) and config.data.protocol in folds
        options = check_settings(Options, config.setting(name).options, "options")
        assert (options.story, options.groups) == ("recording", "speaker")
        assert options == Options()  # all four models, by duration
    assert len({config.output for config in composed}) == 1
    assert load_protocol(meld.data.protocol).group == "recording"
    assert meld.setting("linguistic").options["groups"] == "recording"
    for config in found:
        assert config.selection == "dev" and tuple(config.targets) == table.TARGETS
        assert all(list(t.labels) == ["low", "medium", "high"] for t in config.targets.values())
    columns = [target.label_column for target in meld.targets.values()]
    assert columns == ["sentiment", "label"]


def test_without_results_there_is_no_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["table", "--publish"]) == 2
    assert "runs/stories/composed/valence holds no finetuning results" in capsys.readouterr().err


def test_a_command_that_fails_ends_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "data_commands", lambda data, yamnet: ["exit 3"])
    assert main(["table", f"--data={tmp_path}", "--yamnet=y.tflite"]) == 2
    assert "this command failed: exit 3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["table", f"--data={tmp_path}"])
    assert "--data and --yamnet are both needed" in capsys.readouterr().err
