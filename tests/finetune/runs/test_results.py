"""Results folders that several launches write at once, and rows of older code."""

import csv
import dataclasses
import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toys
from PIL import Image

from finetune.collect import main as collect
from finetune.report import finetune_report
from finetune.runs.results import (
    Recipe,
    ResultsRow,
    read_recipes,
    read_rows,
    run_folder,
    settled,
    write_csv,
    write_recipe,
    write_results,
    write_row,
)

from ..conftest import make_clips

ROW = ResultsRow(
    **dict.fromkeys(("corpus", "protocol", "fold_file_sha256", "data_sha256", "git_commit"), "x"),
    **dict.fromkeys(("wa", "ua", "macro_f1"), 0.5),
    **dict.fromkeys((f"{s}_{e}" for s in ("wa", "ua", "macro_f1") for e in ("low", "high")), 0.4),
    **dict.fromkeys(("fold", "seed", "step", "num_train", "num_dev", "num_test"), 1),
    **dict.fromkeys(("num_classes", "classes_in_test", "num_processes"), 2),
    **{"selection": "last", "selection_ua": None, "shared_speakers": False},
    **{"setting": "direct", "head": "linear", "modalities": "text", "case": "text"},
    **{"checkpoint_sha256": "", "recipe": "0" * 16},
)
NUM_WRITERS, NUM_ROUNDS = 4, 4
SETTINGS = ("direct", "bert_direct", "pretrain_finetune", "pretrain_prompt")


def recipe_of(setting: str, digest: str, **changes) -> Recipe:
    about = {"classes": ("a", "b"), "protocol": "p v1", "notes": ("4 of 4 clips",), "facts": {}}
    return Recipe(recipe=digest, setting=setting, **{**about, **changes})


def finish(output: Path, row: ResultsRow) -> None:
    """All that the end of a run writes of it."""
    folder = run_folder(output, row.setting, row.fold, row.seed, row.recipe)
    write_csv(folder / "curve.csv", ["step", "train_loss"], [{"step": 1, "train_loss": 0.1}])
    said = {"clip": "c", "truth": "a", "prediction": "b", "p_a": 0.4, "p_b": 0.6}
    write_csv(folder / "predictions.csv", list(said), [said])
    write_row(folder, row)


def work(output: Path, number: int, start) -> None:
    """One launch: a recipe of its own and one shared with the others, rows, csv, table."""
    start.wait()
    setting = SETTINGS[number]
    digest = f"{number:016x}"
    for round_ in range(NUM_ROUNDS):
        write_recipe(output, recipe_of(setting, digest))
        write_recipe(output, recipe_of("direct", "f" * 16, variant="shared"))
        for of, about in ((setting, digest), ("direct", "f" * 16)):
            fold = round_ if of == setting and about == digest else 100 * number + round_
            finish(output, dataclasses.replace(ROW, setting=of, recipe=about, fold=fold))
            write_results(output)
        if round_ % 4 == 3:
            finetune_report(output)


def test_launches_that_finish_at_once_lose_no_row_recipe_or_picture(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(NUM_WRITERS + 1)
    workers = [
        context.Process(target=work, args=(tmp_path, number, start))
        for number in range(NUM_WRITERS)
    ]
    for worker in workers:
        worker.start()
    start.wait()
    most = 0
    while any(worker.is_alive() for worker in workers):
        if (tmp_path / "results.csv").exists():  # whole, whenever it is looked at
            with open(tmp_path / "results.csv", newline="") as file:
                seen = list(csv.DictReader(file))
            assert all(line["recipe"] and line["notes"] is not None for line in seen)
            most = max(most, len(seen))
        for picture in tmp_path.glob("*.png"):
            assert picture.read_bytes().endswith(b"IEND\xaeB`\x82")
        time.sleep(0.05)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    expected = 2 * NUM_WRITERS * NUM_ROUNDS
    assert len(read_rows(tmp_path)) == expected >= most > 0
    with open(tmp_path / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == expected
    assert {(r.setting, r.variant) for r in read_recipes(tmp_path)} == {
        *((setting, "") for setting in SETTINGS),
        ("direct", "shared"),
    }
    table = pd.read_csv(tmp_path / "table.csv")
    assert sorted(table.num_runs) == [NUM_ROUNDS] * NUM_WRITERS + [NUM_WRITERS * NUM_ROUNDS]
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_is_built_holds_what_came_meanwhile():
    found, built = [["a"], ["a", "b"], ["a", "b"]], []
    assert settled(lambda: found.pop(0), lambda rows: built.append(rows) or rows) == ["a", "b"]
    assert built == [["a"], ["a", "b"]] and not found


def test_collect_builds_tables_from_rows_alone(tmp_path, capsys):
    write_recipe(tmp_path, recipe_of("direct", "0" * 16))
    for fold in range(3):
        finish(tmp_path, dataclasses.replace(ROW, fold=fold))
    assert collect([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| Direct | 50.0 ± 0.0 % |" in out and f"3 rows in {tmp_path / 'results.csv'}" in out
    assert "| Direct | 50.0 ± 0.0 % |" in (tmp_path / "table.md").read_text()
    assert pd.read_csv(tmp_path / "table.csv").num_runs.tolist() == [3]
    assert [path.name for path in tmp_path.glob("curve-*.png")] == ["curve-direct.png"]
    picture_HW3 = np.asarray(Image.open(tmp_path / "curve-direct.png").convert("RGB"))
    assert picture_HW3.shape[1] == 506 and np.ptp(picture_HW3) == 255
    assert collect([str(tmp_path / "nowhere")]) == 2
    assert "run accelerate launch finetune/run.py" in capsys.readouterr().err


def test_the_recipe_that_was_asked_for_last_is_the_one_reported(tmp_path):
    old, new = recipe_of("direct", "1" * 16), recipe_of("direct", "2" * 16)
    few = recipe_of("direct", "3" * 16, variant="10 % of the labels")
    for recipe in (old, new, few):
        write_recipe(tmp_path, recipe)
        finish(tmp_path, dataclasses.replace(ROW, recipe=recipe.recipe))
    assert {r.recipe[0] for r in read_recipes(tmp_path)} == {"2", "3"}
    write_recipe(tmp_path, old)
    assert {r.recipe[0] for r in read_recipes(tmp_path)} == {"1", "3"}
    report = finetune_report(tmp_path)
    assert [row[0] for row in report.rows] == ["Direct", "Direct (10 % of the labels)"]
    assert "1 rows of earlier recipes are in results.csv, not in this table" in report.notes


def test_rows_of_older_code_are_read(tmp_path):
    finish(tmp_path, ROW)
    (path,) = tmp_path.glob("runs/*/*/row.json")
    row = json.loads(path.read_text())
    for name in ("case", "split", "num_classes", "classes_in_test", "train_on", "label_share"):
        row.pop(name)
    path.write_text(json.dumps(row | {"notes": "one; two"}))
    (found,) = read_rows(tmp_path)
    assert (found.case, found.split, found.classes_in_test) == ("text", "test", None)
    assert found.notes == ("one; two",)
    assert write_results(tmp_path) == [found]


@pytest.mark.slow
def test_two_launches_on_one_folder_leave_one_whole_table(root, tmp_path, write_shards, checkpoint):
    shards = write_shards(make_clips(num_speakers=3, per_speaker=7, signal=2.0))
    output = tmp_path / "out"
    common = [
        *("--config", "configs/finetune/prompt.yaml", f"data.shards=[{shards}]"),
        *(f"model.checkpoint={checkpoint}", f"output={output}", *toys.FAST),
    ]
    tasks = [
        ["folds=[0]", "settings=[pretrain_prompt]"],
        ["folds=[1, 2]", "settings=[pretrain_prompt]"],
        ["folds=[0, 1]", "settings=[direct]"],
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "finetune/run.py", *common, *task],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for task in tasks
    ]
    for process in running:
        told, _ = process.communicate(timeout=600)
        assert process.returncode == 0, told
    table = pd.read_csv(output / "table.csv")
    assert dict(zip(table.setting, table.num_runs, strict=True)) == {
        "direct": 2,
        "pretrain_prompt": 3,
    }
    with open(output / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 5
    for row in read_rows(output):  # each run's own config, whichever task came last
        folder = run_folder(output, row.setting, row.fold, row.seed, row.recipe)
        assert f"- {row.setting}" in (folder / "config.yaml").read_text()
