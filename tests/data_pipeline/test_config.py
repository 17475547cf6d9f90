"""Config: YAML, overrides, and what a user reads when one of them is wrong."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from data_pipeline.config import ConfigError, dump_config, load_config, parse_command_line


@dataclass(frozen=True, kw_only=True)
class Optim:
    steps: int = 3
    peak_learning_rate: float = 1e-3
    kind: Literal["adamw", "sgd"] = "adamw"


@dataclass(frozen=True, kw_only=True)
class Run:
    optim: Optim = field(default_factory=Optim)
    sizes: tuple[int, ...] = (1,)
    output: Path = Path("runs")
    limit: int | None = 30
    note: str | None = None
    words: dict[str, str] = field(default_factory=lambda: {"a": "b"})

    def __post_init__(self) -> None:
        if self.limit == 0:
            raise ValueError("limit is 0; expected 1 or more")


def test_yaml_then_overrides_then_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("optim:\n  steps: 7\n  peak_learning_rate: 5e-5\nlimit: null\n")
    config = load_config(Run, path, ["optim.steps=9", "--sizes=[1, 2]"])
    assert config == Run(optim=Optim(steps=9, peak_learning_rate=5e-5), sizes=(1, 2), limit=None)


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    config = Run(optim=Optim(peak_learning_rate=3e-5), sizes=(4, 5), output=Path("a/b"))
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(Run, path, []) == config


@pytest.mark.parametrize(
    ("value", "expected"),
    [("take #2", "take #2"), ("2024", "2024"), ("{a} [b] .", "{a} [b] ."), ("'x: y'", "x: y")],
)
def test_text_and_paths_are_taken_letter_by_letter(value: str, expected: str) -> None:
    config = load_config(Run, None, [f"output={value}", f"note={value}"])
    assert (str(config.output), config.note) == (expected, expected)
    assert load_config(Run, None, ["note=null"]).note is None


def test_an_override_replaces_what_stood_at_its_key(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("words: {x: y, z: w}\n")
    assert load_config(Run, path, ["words={q: r}"]).words == {"q": "r"}
    assert load_config(Run, path, ["words.x=s"]).words == {"x": "s", "z": "w"}


def test_a_check_over_the_whole_config_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("limit: 3\n")
    with pytest.raises(ConfigError) as error:
        load_config(Run, path, ["limit=0"])
    assert str(error.value) == (f"{path} with the command line:\n  limit is 0; expected 1 or more")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.stpes=3", r"no setting 'optim.stpes'; the nearest is 'optim.steps'"),
        ("otpim.steps=3", r"no setting 'otpim'; the nearest is 'optim'"),
        ("optim.steps=many", r"optim.steps: .*found 'many'"),
        ("optim.kind=adam", r"'adamw' or 'sgd'"),
        ("optim=3", r"optim: "),
        ("steps", r"write key=value"),
        ("sizes=[1", r"not YAML"),
    ],
)
def test_bad_override_says_what_is_wrong(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Run, None, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lr: 1\n", r"run.yaml: there is no setting 'optim.lr'"),
        ("- 1\n", "expected `key: value` lines"),
        ("a: [\n", "not YAML"),
        ("optim: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ],
)
def test_bad_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(Run, path, [])


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"optim: caf\xe9\n")
    for path in (tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(ConfigError, match="cannot read the config file"):
            load_config(Run, path, [])


def test_missing_file_says_where_to_look() -> None:
    with pytest.raises(ConfigError, match="see configs/"):
        load_config(Run, "no/such.yaml", [])


def test_command_line_takes_three_spellings_and_the_launchers_rank() -> None:
    argv = "--config a.yaml optim.steps=1 --optim.kind=sgd --limit 4 --local_rank=1".split()
    assert parse_command_line("", argv) == (
        "a.yaml",
        ["optim.steps=1", "--optim.kind=sgd", "--limit=4"],
    )
    with pytest.raises(ConfigError, match="without a value"):
        parse_command_line("", ["--optim.steps"])
