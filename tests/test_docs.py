"""docs/files.md names every column that a run writes and every reason that a clip can be left out
for, and README.md's commands and code run as they stand there."""

import ast
import csv
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toy_extractor

from data_pipeline.config import load_config
from data_pipeline.extraction.config import DataConfig
from finetune.config import FinetuneConfig
from finetune.pipeline import PipelineConfig
from finetune.protocols import Protocol
from finetune.runs.results import ResultsRow
from finetune.timeline.utterance import Timeline
from pretrain.config import PretrainConfig
from pretrain.monitoring.metrics import HELD_OUT, columns

REASON_CALLS = {"ClipRejected", "MediaError", "RowError", "StreamAbsent", "nobody", "reject"}
"""Calls whose first argument is a reject's reason."""
NAME = re.compile(r"`([^`]+)`")


@pytest.fixture(scope="module")
def sections(root: Path) -> dict[str, set[str]]:
    """`### `file`` to the names in the first column of its tables."""
    found: dict[str, set[str]] = {}
    title = ""
    for line in (root / "docs/files.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            title = "".join(NAME.findall(line))
        elif line.startswith("| "):
            found.setdefault(title, set()).update(NAME.findall(line.split("|")[1]))
    return found


def reasons_in_code(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                candidates = node.args[:1] if name.lstrip("_") in REASON_CALLS else []
                if name == "Reject":
                    candidates = [k.value for k in node.keywords if k.arg == "reason"]
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                names = {getattr(target, "id", "") for target in node.targets}
                candidates = node.value.elts[:1] if "problem" in names else []
            else:
                continue
            found |= {
                c.value for c in candidates if isinstance(c, ast.Constant) and c.value is not None
            }
    return found


def test_the_page_has_exactly_the_reasons_that_the_code_gives(
    root: Path, sections: dict[str, set[str]]
) -> None:
    listed = sections["rejects.csv"] - {"clip", "stage", "reason", "detail"}
    given = reasons_in_code(root / "data_pipeline")
    assert len(given) > 25, "the search has lost its way"
    assert given - listed == set(), "reasons that docs/files.md lacks"
    assert listed - given == set(), "reasons that no code gives any more"


def header(path: Path) -> set[str]:
    with open(path, newline="", encoding="utf-8") as file:
        return set(next(csv.reader(file)))


def keys(path: Path) -> set[str]:
    return set(json.loads(path.read_text(encoding="utf-8")))


def test_an_extraction_writes_no_column_that_the_page_lacks(
    tmp_path: Path, sections: dict[str, set[str]]
) -> None:
    toy_extractor.run_toy(tmp_path, toy_extractor.make_clips(["one", "reject"]), num_workers=1)
    assert header(tmp_path / "clips.csv") | {"region"} == sections["clips.csv"]
    assert header(tmp_path / "rejects.csv") <= sections["rejects.csv"]
    assert keys(tmp_path / "summary.json") == sections["summary.json"]
    assert keys(tmp_path / "000000.json") <= sections["NNNNNN.json"]
    for spec in json.loads((tmp_path / "passport.json").read_text()).values():
        assert set(spec) == sections["passport.json"]


def test_the_page_has_the_columns_of_training_and_results(sections: dict[str, set[str]]) -> None:
    assert set(columns()) == sections["metrics.csv"]
    assert set(HELD_OUT) == sections["validation.csv"]
    results = {f.name for f in dataclasses.fields(ResultsRow)}
    assert results - sections["results.csv"] == set()
    protocol = {f.name for f in dataclasses.fields(Protocol)}
    assert protocol == sections["folds.json"]


def test_the_page_has_the_columns_of_a_timeline(sections: dict[str, set[str]]) -> None:
    timeline = Timeline(classes=("CLASS",), videos=(), utterances=())
    assert set(timeline.to_frame().columns) == sections["timeline.csv"]
    assert set(json.loads(timeline.to_json())) == sections["timeline.json"]


def commands(root: Path, *pages: str) -> list[str]:
    """The lines of the shell blocks of README.md, or of other pages."""
    text = "".join((root / page).read_text(encoding="utf-8") for page in pages or ("README.md",))
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def python_block(root: Path) -> str:
    """The last of README.md; the first is that of tests/finetune/timeline/test_predict.py."""
    *_, block = re.findall(
        r"^```python\n(.*?)^```", (root / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return block


ELSEWHERE = {
    "make ": "tests/finetune/test_demo.py, and by hand: it sets up an environment",
    "bash launch/pretrain.sh": "tests/launch/test_pretrain_launch.py",
    "accelerate launch finetune/run.py": "tests/finetune/test_run.py",
    "deepspeed --num_gpus 4": "tests/launch/test_pretrain_launch.py, with 2 ranks",
    "bash launch/slurm/pipeline.sh": "tests/launch/test_slurm.py",
    "accelerate launch --config_file": "needs several GPUs",
}
"""How README's commands begin that no test can give as they stand, and what stands in for them."""
NEWCOMER = (
    "python -m data_pipeline.doctor",
    "python -m data_pipeline.extract",
    "deepspeed launch/pretrain.sh",
    "python -m finetune.protocols make",
    "accelerate launch --quiet finetune/run.py",
    "python -m finetune.page",
)


def test_every_setting_of_every_command_is_there(root: Path) -> None:
    """A command whose encoders or clips no test has is read as far as its config."""
    read = 0
    for command in commands(root, "README.md", "docs/cluster.md"):
        words = shlex.split(command, comments=True)
        if "--config" not in words:
            continue
        path = Path(words[words.index("--config") + 1])
        kind = {"data": DataConfig, "pretrain": PretrainConfig, "finetune": FinetuneConfig}
        kind |= {"pipeline": PipelineConfig}
        overrides = [word for word in words[words.index("--config") + 2 :] if "=" in word]
        load_config(kind[path.parent.name], root / path, overrides)
        read += 1
    assert read >= 24


def test_every_command_runs_here_or_says_why_not(root: Path) -> None:
    paper = [c for c in commands(root) if "movies" in c or "iemocap" in c]
    for command in commands(root):
        known = command.startswith((*NEWCOMER, *ELSEWHERE)) or command in paper
        assert known, f"README.md has a command that no test knows: {command}"


@pytest.fixture(scope="module")
def newcomer(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to type README's first six commands in: the project, and a clip table.

    The table has the twelve sample clips, as of three people and two emotions.
    """
    here = tmp_path_factory.mktemp("newcomer")
    for name in ("configs", "launch", "data_pipeline", "pretrain", "finetune"):
        (here / name).symlink_to(root / name)
    samples = root / "data_pipeline/assets/samples"
    with open(samples / "clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for n, row in enumerate(rows):
        row |= {"video": str(samples / row["video"]), "speaker": f"s{n % 3}", "recording": ""}
        row["label"] = ("happy", "sad")[n // 3 % 2]
    with open(here / "clips.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return here


SHORTER = {
    "python -m data_pipeline.extract": ["require=[speech]"],  # six of them have no picture
    "python -m data_pipeline.doctor": ["require=[speech]"],
    "deepspeed launch/pretrain.sh": [
        *("optim.steps=2", "optim.warmup_steps=1", "data.batch_clips=4", "run.device=cpu")
    ],
    "accelerate launch --quiet finetune/run.py": [
        "folds=[0]",
        *(
            f"plans.{setting}.{key}"
            for setting in ("direct", "bert_direct", "pretrain_finetune", "pretrain_prompt")
            for key in ("num_steps=2", "warmup_steps=0")
        ),
    ],
}
"""What the test adds to the commands, to take minutes less."""


@pytest.mark.slow
@pytest.mark.distributed
def test_the_newcomers_path_and_code_run_as_printed(
    root: Path, newcomer: Path, sections: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    typed = [c for c in commands(root) if "runs/mine" in c or "configs/finetune/tiny" in c]
    typed = [c for c in typed if "add=" not in c]  # that is tested by test_added_streams.py
    assert [next(n for n in NEWCOMER if c.startswith(n)) for c in typed] == list(NEWCOMER)
    for command, begin in zip(typed, NEWCOMER, strict=True):
        done = subprocess.run(
            ["bash", "-c", f"{command} {shlex.join(SHORTER.get(begin, []))}"],
            cwd=newcomer,
            env=os.environ
            | {"PATH": tools, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
            | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr, command

    runs = newcomer / "runs/mine"
    assert header(runs / "shards/rejects.csv") <= sections["rejects.csv"]
    assert header(runs / "pretrain/metrics.csv") == sections["metrics.csv"]
    assert header(runs / "pretrain/validation.csv") == sections["validation.csv"]
    assert header(runs / "finetune/results.csv") <= sections["results.csv"]
    for path in runs.glob("finetune/runs/*/*/predictions.csv"):
        found = {re.sub("^p_.*", "p_CLASS", name) for name in header(path)}
        assert found == sections["predictions.csv"]
    for path in runs.glob("finetune/runs/*/*/curve.csv"):
        assert header(path) == sections["curve.csv"] - {"train_NAME"}  # of several losses
    (checkpoint,) = runs.glob("pretrain/checkpoints/step-*")
    files = {p.name + "/" * p.is_dir() for p in checkpoint.iterdir()}
    assert files == sections["checkpoints"]
    card = (checkpoint / "README.md").read_text()
    assert "More Information Needed" not in card
    for text in ("densenet_ferplus", "wav2vec2_small", "non-commercial", "2 of 2", "wwmlm"):
        assert text in card, text
    assert "Chance" in (runs / "report.html").read_text(encoding="utf-8")

    monkeypatch.chdir(newcomer)
    names: dict[str, Any] = {}
    exec(python_block(root), names)  # noqa: S102  the very words of README.md
    encoded, batch = names["encoded"], names["batch"]
    width = names["model"].pooler.dense.out_features
    assert encoded.pooled_NH.shape == (12, width)
    assert encoded.text_NTH.shape == (*batch.text_ids_NT.shape, width)
    assert encoded["speech"].shape == (*batch.frames["speech"].real_NF.shape, width)
    assert encoded["face"].isfinite().all()
