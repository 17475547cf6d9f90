"""Command lines: settings in three spellings, and a help that says what each of them means."""

import dataclasses
import importlib
import os
import subprocess
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from data_pipeline.command_line import (
    config_from_command_line,
    field_docstrings,
    run_command,
    settings_of,
)
from data_pipeline.config import ConfigError, section_of
from data_pipeline.paths import PathText

CONFIGS = (
    "data_pipeline.extraction.config:DataConfig",
    "pretrain.config:PretrainConfig",
    "pretrain.config:PairingConfig",
    "finetune.config:FinetuneConfig",
    "finetune.demo:DemoConfig",
)
COMMANDS = {
    "python -m data_pipeline.extract": "output=PATH",
    "python -m data_pipeline.doctor": "output=PATH",
    "python -m data_pipeline.corpora": "--output",
    "python -m data_pipeline.report": "folder",
    "python -m pretrain.cli": "optim.steps=INT",
    "python -m pretrain.pairing": "pretrain.optim.steps=INT",
    "python finetune/run.py": "plans.direct.num_steps=INT",
    "python -m finetune.protocols": "make",
    "python -m finetune.protocols make": "--folds",
    "python -m finetune.demo": "clips=PATH",
    "bash launch/extract.sh": "output=PATH",
    "bash launch/pretrain.sh": "optim.steps=INT",
    "bash launch/finetune.sh": "plans.direct.num_steps=INT",
}
"""Command to what its help must list."""
EXAMPLES = {
    "python -m pretrain.cli": "deepspeed launch/pretrain.sh",
    "bash launch/pretrain.sh": "deepspeed launch/pretrain.sh",
    "bash launch/extract.sh": "python -m data_pipeline.extract",
    "bash launch/finetune.sh": "accelerate launch finetune/run.py",
    "python finetune/run.py": "accelerate launch finetune/run.py",
}
"""Commands whose help is that of another one, which its example calls."""
SLOW = {
    "python -m data_pipeline.speaker.bench": "--table",
    "python -m data_pipeline.speaker.turns": "--root",
    "python -m data_pipeline.media.decode_check": "--starts",
    "python -m finetune.collect": "folder",
    "python -m finetune.page": "--output",
    "python -m data_pipeline.recipes.fer": "--minutes",
    "python -m data_pipeline.recipes.lip_sync": "--num-clips",
    "python -m data_pipeline.recipes.speech.probes": "--only",
    "python -m data_pipeline.recipes.distil_wav2vec2": "--stop-at",
    "deepspeed launch/pretrain.sh": "optim.steps=INT",
    "accelerate launch finetune/run.py": "plans.direct.num_steps=INT",
}
"""They load torch first, or their launcher does."""


@dataclass(frozen=True, kw_only=True)
class Base:
    seed: int = 1
    """Of the base,
    on two lines."""


@dataclass(frozen=True, kw_only=True)
class Optim(Base):
    """How it learns."""

    steps: int = 3
    """Half of 100 % of them."""
    rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.98)
    # A comment between them.
    kind: Literal["adamw", "sgd"] = "adamw"

    """A docstring after a gap."""


@dataclass(frozen=True, kw_only=True)
class Run:
    clips: PathText
    """Where they are."""
    limit: int | None = 30
    shards: tuple[PathText, ...] = ("runs/a", "b c")
    words: dict[str, str] = field(default_factory=lambda: {"a": "b"})
    dry: bool = False
    fast: Optim = Optim(steps=9)


def read(argv: list[str]) -> Run:
    return config_from_command_line(Run, argv, command="run", about="It runs.", example="run a=1")


def test_three_spellings_and_the_launchers_rank(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("clips: here\nlimit: 1\n")
    argv = f"--config {tmp_path}/a.yaml fast.steps=1 --fast.kind=sgd --limit 4 --local_rank=1"
    assert read(argv.split()) == Run(clips="here", limit=4, fast=Optim(steps=1, kind="sgd"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("clips=a --fast.steps", "--fast.steps stands without a value; write fast.steps=VALUE"),
        ("clips=a --con b.yaml", "there is no setting 'con'"),
        ("clips=a --config a.yaml --config b.yaml", "--config is given 2 times"),
        ("clips=a --config=", "--config has an empty name"),
        ("clips=a word", "write key=value, e.g. limit=30"),
    ],
)
def test_words_that_cannot_be_used(argv: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(argv.split())


def test_help_lists_each_setting_with_type_default_and_docstring(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        read(["clips=nowhere", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert (
        text
        == """\
usage: run [--config FILE] [key=value ...]

It runs.

example:
  run a=1

--config FILE is a YAML of these settings, see configs/. key=value, with the
names below, comes on top of it. Quote what holds spaces, brackets or braces.

settings:
  clips=PATH
      Where they are. Must be given.
  limit=INT|null
      Default: 30
  shards=[PATH, ...]
      Default: [runs/a, b c]
  words={TEXT: TEXT, ...}
      Default: {a: b}
  dry=true|false
      Default: false

fast:
  How it learns.

  fast.seed=INT
      Of the base, on two lines. Default: 1
  fast.steps=INT
      Half of 100 % of them. Default: 9
  fast.rate=NUMBER
      Default: 5e-05
  fast.betas=[NUMBER, NUMBER]
      Default: [0.9, 0.98]
  fast.kind=adamw|sgd
      A docstring after a gap. Default: adamw
"""
    )


def test_only_the_first_of_several_ranks_prints_the_help(capsys, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        read(["--help"])
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", CONFIGS)
def test_every_setting_that_ships_says_what_it_means(name: str) -> None:
    """Also: the help's settings are all there are, and its defaults are those of the class."""
    module, _, cls = name.partition(":")
    config = getattr(importlib.import_module(module), cls)
    shown = {s.name: s for _, _, settings in settings_of(config) for s in settings}
    assert set(shown) == set(_names(config))
    silent = [s.name for s in shown.values() if not s.meaning]
    assert not silent


def _names(cls: type, above: str = "") -> list[str]:
    hints = typing.get_type_hints(cls)
    names = []
    for f in dataclasses.fields(cls):
        section = section_of(hints[f.name])
        name = above + f.name
        names += _names(section, f"{name}.") if section else [name]
        if "sections" in f.metadata:
            for inner in f.default_factory():
                names += _names(f.metadata["sections"](inner), f"{name}.{inner}.")
    return names


def test_a_docstring_below_overrides_that_of_the_class_above() -> None:
    @dataclass(frozen=True)
    class Louder(Base):
        seed: int = 2
        """Of this one."""

    assert field_docstrings(Louder) == {"seed": "Of this one."}


def help_of(command: str, root: Path) -> str:
    tools = Path(sys.executable).parent
    done = subprocess.run(
        [*command.split(), "--help"],
        cwd=root,
        env=os.environ
        | {"PATH": f"{tools}:{os.environ['PATH']}", "COLUMNS": "80", "PYTHONPATH": str(root)}
        | {"PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if command in COMMANDS:
        noise = [x for x in done.stderr.splitlines() if not x.startswith("import time:")]
        assert not noise, "a help comes alone"
        assert "| torch\n" not in done.stderr, "a help loads no torch"
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(root: Path, command: str) -> None:
    text = help_of(command, root)
    assert COMMANDS[command] in text
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    example = lines[lines.index("example:") + 1]
    assert example.strip().startswith(EXAMPLES.get(command, command)), "an example of this command"


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_help_of_the_slower_commands(root: Path, command: str) -> None:
    text = help_of(command, root)
    assert SLOW[command] in text
    assert "\nexample:\n  " + command in text


def test_what_a_user_can_mend_is_one_message_and_exit_code_2(capsys):
    def ending(error: BaseException) -> tuple[int, str]:
        def main(argv: list[str] | None) -> int:
            assert argv == ["x"]
            raise error

        code = run_command(main, ["x"], name="cook", go_on="stir on")
        out, said = capsys.readouterr()
        assert out == ""
        return code, said

    assert run_command(lambda argv: 7, [], name="cook") == 7
    assert ending(ConfigError("no salt; add some")) == (2, "cook: no salt; add some\n")
    missing = FileNotFoundError(2, "No such file or directory", "pot")
    assert ending(missing) == (2, "cook: cannot read or write pot: No such file or directory\n")
    assert ending(OSError("odd")) == (2, "cook: cannot read or write: odd\n")
    assert ending(KeyboardInterrupt()) == (130, "cook: interrupted; stir on\n")
    with pytest.raises(ZeroDivisionError):  # a fault of the program keeps its traceback
        ending(ZeroDivisionError())


@pytest.mark.parametrize("code", [0, 75])
def test_a_rank_ends_with_its_own_code_whatever_native_threads_do_then(root, code):
    """As those of a process group that abort while the interpreter is torn down."""
    words = (
        "import atexit, os; from data_pipeline.command_line import leave; "
        f"atexit.register(os.abort); print('saved', end=''); leave({code})"
    )

    def ended(**more: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, "-c", words], {**os.environ, **more}
        return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)

    of_rank = ended(RANK="1")
    assert (of_rank.returncode, of_rank.stdout) == (code, "saved")
    assert ended().returncode < 0, "whatever else registers to be asked at the end still is"
