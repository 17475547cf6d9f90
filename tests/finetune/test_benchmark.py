"""The tables of the composed benchmark: their configs are there, and a page is what was run."""

import shlex
from pathlib import Path

import pytest
import toys

from data_pipeline.config import load_config
from finetune.benchmark import TABLES, Table, publish
from finetune.benchmark import main as benchmark
from finetune.config import FinetuneConfig
from finetune.robustness import __main__ as passport_command
from finetune.robustness import agreement as agreement_command
from finetune.run import main
from pretrain.config import PretrainConfig

from .conftest import make_clips

OF_RECOGNIZERS = {
    "finetune.robustness": passport_command,
    "finetune.robustness.agreement": agreement_command,
}


@pytest.mark.parametrize("name", TABLES)
def test_its_commands_can_be_read_and_run_what_is_compared(name, root, monkeypatch):
    monkeypatch.chdir(root)
    table, settings = TABLES[name], set()
    for command in table.commands:
        words = shlex.split(command)
        if "--config" not in words:
            kind, folders = OF_RECOGNIZERS[words[2]], {*table.passports, *table.agreements}
            asked = kind.parser().parse_args(words[3:])
            assert str(asked.output) in folders and asked.recognizers and len(asked.shards) == 1
            continue
        at = words.index("--config")
        kind = PretrainConfig if "launch/pretrain.sh" in words else FinetuneConfig
        config = load_config(kind, words[at + 1], words[at + 2 :])
        if kind is FinetuneConfig:
            assert config.output == table.results and len(config.seeds) >= 5
            assert config.selection == "dev"
            settings |= set(config.settings)
    assert {setting for pair in table.pairs for setting in pair} <= settings
    assert set(table.together) <= settings


def test_a_page_holds_commands_table_verdicts_and_pictures(
    tmp_path, write_shards, checkpoint, monkeypatch
):
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    out = tmp_path / "out"
    arguments = [f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", f"output={out}"]
    arguments += ["settings=[pretrain_prompt, pretrain_finetune]", *toys.FAST, "seeds=[1, 2]"]
    assert main(arguments) == 0
    assert main([*arguments, "label_share=0.5"]) == 0
    table = Table(
        title="A question",
        commands=("accelerate launch finetune/run.py",),
        results=str(out),
        pairs=(("pretrain_prompt", "pretrain_finetune"),),
        note="Few clips.",
    )
    page = tmp_path / "pages" / publish("mine", table, tmp_path / "pages")
    text = page.read_text()
    assert "accelerate launch finetune/run.py\n```" in text and "| Pretrain+Prompt |" in text
    verdicts = [line for line in text.splitlines() if " points of UA " in line]
    assert len(verdicts) == 2, "one for all labels, one for half of them"
    assert [("50 % of the labels" in line) for line in verdicts] == [False, True]
    assert "Note: there is" in text or "Note: with" in text
    assert "points of UA" in text and "Few clips." in text and "![](mine_settings.png)" in text
    for name in ("mine.csv", "mine_settings.png"):
        assert (page.parent / name).stat().st_size > 100
    both = ("pretrain_prompt", "pretrain_finetune")
    table = Table(title="All", commands=(), results=str(out), together=both)
    text = (tmp_path / "pages" / publish("all", table, tmp_path / "pages")).read_text()
    assert "p by Holm" in text and "![](all_pairs.png)" in text
    for name in ("all_pairs.csv", "all_pairs.png"):
        assert (page.parent / name).stat().st_size > 100


def test_a_table_that_there_is_not_is_told(capsys):
    with pytest.raises(SystemExit):
        benchmark(["nothing"])
    assert "no table nothing; there are settings, robustness" in capsys.readouterr().err


def test_a_command_that_fails_ends_it_with_its_name(tmp_path, monkeypatch, capsys):
    table = Table(title="", commands=("exit 3",), results=str(Path(tmp_path)), pairs=())
    monkeypatch.setitem(TABLES, "broken", table)
    assert benchmark(["broken", "--output", str(tmp_path)]) == 2
    assert "table broken: this command failed: exit 3" in capsys.readouterr().err
