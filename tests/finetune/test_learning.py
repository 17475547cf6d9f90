"""The study of pretraining's choices: its commands can be read, its page says what was found."""

import csv
import shlex
from types import SimpleNamespace

import pytest

from data_pipeline.config import load_config
from finetune import learning
from finetune.config import FinetuneConfig
from finetune.learning import BASE, SEEDS, composed_commands, grid_commands, main, ways_of
from finetune.runs import results
from pretrain.config import PairingConfig, PretrainConfig

KINDS = {"pretrain.sh": PretrainConfig, "run.py": FinetuneConfig, "pretrain.pairing": PairingConfig}


@pytest.mark.parametrize("way", ways_of("composed"))
def test_a_way_differs_from_the_others_by_its_choice_alone(way, root, monkeypatch):
    monkeypatch.chdir(root)
    told = []
    for name in (BASE, way):
        words = shlex.split(composed_commands(name)[0])
        config = load_config(PretrainConfig, *_config_of(words))
        told.append({**vars(config), "run": None})
    assert (told[0] == told[1]) == (way == BASE)
    assert sum(told[0][part] != told[1][part] for part in told[0]) <= 1


@pytest.mark.parametrize("corpus", ["composed", "grid"])
def test_its_commands_can_be_read(corpus, root, monkeypatch):
    monkeypatch.chdir(root)
    outputs = []
    for way in ways_of(corpus):
        for command in {"composed": composed_commands, "grid": grid_commands}[corpus](way):
            words = shlex.split(command)
            (kind,) = (kind for name, kind in KINDS.items() if name in command)
            config = load_config(kind, *_config_of(words))
            if kind is PretrainConfig:
                outputs.append(config.run.output)
            elif kind is PairingConfig:
                outputs.append(config.pretrain.run.output)
                assert config.seeds == SEEDS
            else:
                assert config.model.checkpoint == outputs[-1] and config.label_share == 0.1
    assert len(set(outputs)) == len(outputs)


def test_the_page_has_means_and_distances(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "RUNS", tmp_path)
    ua = {way: 0.5 + 0.1 * (way == "padded") for way in ways_of("composed")}

    def rows(folder):
        seed = int(folder.parent.name[-1])
        way = folder.parents[1].name.replace("_", " ")
        return [SimpleNamespace(ua=ua[way] + 0.01 * seed * (way == "padded"))] * len(SEEDS)

    monkeypatch.setattr(results, "read_rows", rows)
    for way in ways_of("composed"):
        for seed in SEEDS:
            _write_validation(learning.folder_of("composed", way) / f"seed-{seed}/pretrain")
    for way in ways_of("grid"):
        _write_words(learning.folder_of("grid", way) / "words.csv")
    path = tmp_path / "page.md"
    assert main(["--publish", "--output", str(path)]) == 0
    lines = path.read_text().splitlines()
    (padded,) = (line for line in lines if line.startswith("| padded") and "62.0" in line)
    assert "62.0 ± 1.0" in padded and "+12.0 [+9.5, +14.5]" in padded
    assert any(line.startswith(f"| {BASE}") and "50.0 ± 0.0" in line for line in lines)
    assert any(line.startswith(f"| {BASE}") and "17.5 ± 0.0" in line for line in lines)
    assert any(line.startswith("| places") for line in lines)


def test_what_was_not_run_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learning, "RUNS", tmp_path)
    assert main(["--publish", "--output", str(tmp_path / "page.md")]) == 2
    assert "has 0 runs, expected 3; run python -m finetune.learning" in capsys.readouterr().err


def _config_of(words: list[str]) -> tuple[str, list[str]]:
    at = words.index("--config")
    return words[at + 1], words[at + 2 :]


def _write_validation(folder) -> None:
    folder.mkdir(parents=True)
    rows = [
        (0, "text+face+speech", "wwmlm", 0.0),
        (learning.STEPS, "text+face+speech", "span_mafr", ""),
        (learning.STEPS, "text+face+speech", "wwmlm", 0.175),
        (learning.STEPS, "text", "wwmlm", 0.1),
    ]
    with open(folder / "validation.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "subset", "objective", "word_accuracy"])
        writer.writerows(rows)


def _write_words(path) -> None:
    path.parent.mkdir(parents=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "condition", "position", "accuracy"])
        for seed in SEEDS:
            for condition in ("true", "speech only", "face only"):
                for word in learning.WORDS:
                    writer.writerow([seed, condition, word, 0.7 + 0.01 * seed])
