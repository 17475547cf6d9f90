"""Config: YAML, overrides, and what a user reads when one of them is wrong."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from data_pipeline.config import ConfigError, dump_config, load_config


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
    weights: dict[Literal["text", "face", "speech"], float] = field(
        default_factory=lambda: {"text": 2.0, "face": 1.0}
    )
    fast: Optim = field(default_factory=lambda: Optim(steps=1, kind="sgd"))
    """A section whose defaults are not its class's."""
    dry: bool = False
    folds: tuple[int, ...] | None = None
    top: int = field(default=3, metadata={"formerly": {"highest": "it counts from 0"}})

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


def test_a_section_and_a_map_of_fixed_names_keep_what_is_not_named(tmp_path: Path) -> None:
    """However deep, whether in a YAML, as a whole map or as one entry of it."""
    assert load_config(Run, None, ["weights.face=0"]).weights == {"text": 2.0, "face": 0.0}
    assert load_config(Run, None, ["weights={speech: 1}"]).weights == {
        "text": 2.0,
        "face": 1.0,
        "speech": 1.0,
    }
    path = tmp_path / "run.yaml"
    path.write_text("weights: {face: 0}\nfast: {steps: 5}\noptim: {steps: 7}\n")
    config = load_config(Run, path, ["optim={kind: sgd}", "fast.peak_learning_rate=1"])
    assert config.weights == {"text": 2.0, "face": 0.0}
    assert config.fast == Optim(steps=5, kind="sgd", peak_learning_rate=1)
    assert config.optim == Optim(steps=7, kind="sgd")


def test_a_map_of_the_users_names_is_replaced_whole_and_changed_by_entry(tmp_path: Path) -> None:
    assert load_config(Run, None, ["words.c=d"]).words == {"a": "b", "c": "d"}
    assert load_config(Run, None, ["words={c: d}"]).words == {"c": "d"}
    path = tmp_path / "run.yaml"
    path.write_text("words: {x: y}\n")
    assert load_config(Run, path, []).words == {"x": "y"}
    assert Run().words == {"a": "b"}, "the defaults themselves are never changed"


def test_a_heading_with_nothing_under_it_sets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("fast:\n#  steps: 9\n")
    assert load_config(Run, path, []) == Run()


def test_a_renamed_setting_names_its_new_name() -> None:
    with pytest.raises(ConfigError, match="'highest' is now called 'top'; it counts from 0"):
        load_config(Run, None, ["highest=3"])


def test_a_number_that_begins_with_0_is_decimal() -> None:
    assert load_config(Run, None, ["sizes=[010, -007, 0, 1_000]"]).sizes == (10, -7, 0, 1000)


@pytest.mark.parametrize("text", ["yes", "010", "1:30", "1e5", "0x1F", "null", "2024-01-01", "~"])
def test_text_that_looks_like_something_else_is_dumped_with_quotes(tmp_path, text) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(dump_config(Run(note=text, words={text: text})))
    assert load_config(Run, path, []) == Run(note=text, words={text: text})


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
        ("output=", r"output= has no value \(an unset shell variable\?\)"),
        ("limit=", r"limit= has no value"),
        ("sizes=", r"sizes= has no value"),
        ("output='  '", r"output is empty"),
        ("words={a: ''}", r"words.a is empty"),
        ("optim.steps=true", r"optim.steps is true; expected a number"),
        ("sizes=[1, false]", r"sizes.1 is false; expected a number"),
        ("optim.peak_learning_rate=.nan", r"optim.peak_learning_rate is nan"),
        ("sizes=1", r"a list needs brackets: sizes=\[1\]"),
        ("sizes=null", r"sizes: .*found None"),
        ("weights.txet=1", r"no setting 'weights.txet'; the nearest is 'weights.text'"),
        ("weights={txet: 1}", r"no setting 'weights.txet'; the nearest is 'weights.text'"),
        ("optim.steps.x=1", r"optim.steps is one value"),
        ("words.a.b=c", r"words.a"),
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
        ("limit: 1\noptim: {steps: 1}\nlimit: 2\n", "the key 'limit' stands twice"),
        ("optim:\n  steps: 1\n  steps: 2\n", "the key 'steps' stands twice"),
        ("optim: !!python/object/apply:os.getcwd []\n", "not YAML"),
    ],
)
def test_bad_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(Run, path, [])


@dataclass(frozen=True, kw_only=True)
class Labels:
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("line", "words", "mended"),
    [
        ("classes: {low: [0], high: [1]}", "0, 1", 'classes: {low: ["0"], high: ["1"]}'),
        ("classes: {0: [a], 01: [b]}", "0, 01", 'classes: {"0": [a], "01": [b]}'),
        ("classes: {yes: [yes, on], no: ['no']}", "yes, on, no", None),
        ("words: {low: off, high: 3.50}  # said", "off, 3.50", None),
        ("ignored: [null, ~, 2020-01-01, xxx]", "null, ~, 2020-01-01", None),
    ],
)
def test_words_that_need_quotes_are_told_with_the_line_as_it_should_be(
    tmp_path: Path, line: str, words: str, mended: str | None
) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text(f"# labels\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Labels, path, [])
    advice = str(caught.value).splitlines()[-1]
    assert advice.startswith(f"  put {words} in quotes")
    assert f"line 2 of {path}: " in advice
    told = advice.partition(f"line 2 of {path}: ")[2]
    assert mended in (None, told)
    path.write_text(f"{told}\n")
    assert load_config(Labels, path, []) != Labels()  # what it says is what works

    key, _, value = line.partition(": ")
    with pytest.raises(ConfigError) as caught:
        load_config(Labels, None, [f"{key}={value}"])
    override = str(caught.value).splitlines()[-1].partition("write '")[2].removesuffix("'")
    assert load_config(Labels, None, [override]) == load_config(Labels, path, [])


def test_a_block_of_yaml_has_its_lines_mended_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text("classes:\n  low:\n    - 0\n  high: [x, 1]\nignored: [a]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Labels, path, ["ignored=[no]"])
    advice = str(caught.value).splitlines()[-3:]
    assert [line.partition("; ")[2] for line in advice] == [
        f'line 3 of {path}:     - "0"',
        f'line 4 of {path}:   high: [x, "1"]',
        "write 'ignored=[\"no\"]'",
    ]


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"optim: caf\xe9\n")
    for path in (tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(ConfigError, match="cannot read the config file"):
            load_config(Run, path, [])


def test_missing_file_says_where_to_look() -> None:
    with pytest.raises(ConfigError, match="see configs/"):
        load_config(Run, "no/such.yaml", [])


@dataclass(frozen=True, kw_only=True)
class Task:
    clips: str


def test_what_must_be_given_is_asked_for_by_name() -> None:
    with pytest.raises(ConfigError, match="clips is not given; write clips=VALUE"):
        load_config(Task, None, [])
