"""Two settings compared, from results folders that are written as runs write them."""

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from finetune.compare.__main__ import main
from finetune.compare.chosen import choose
from finetune.compare.comparison import compare
from finetune.compare.several import _holm, compare_several
from finetune.runs.results import Recipe, run_folder, write_csv, write_recipe, write_row

from .runs.test_results import ROW, recipe_of

CLASSES = ("a", "b")


def write_runs(
    output: Path, setting: str, gain: float, *, folds=5, seeds=(1, 2), digest="", **changes
) -> Recipe:
    """Runs whose UA is 0.6 + gain and some noise of fold and seed; of 20 clips a fold, the first
    60 % + gain are right."""
    digest = digest or f"{setting:0<16}"[:16]
    recipe = recipe_of(setting, digest, **{"classes": CLASSES, **changes.pop("recipe", {})})
    write_recipe(output, recipe)
    for fold in range(folds):
        for seed in seeds:
            noise = np.random.default_rng((fold, seed, len(setting))).normal() / 100
            ua = 0.6 + gain + fold / 50 + noise
            facts = {"fold": fold, "seed": seed, "setting": setting, "recipe": digest}
            row = dataclasses.replace(ROW, **facts, wa=ua, ua=ua, macro_f1=ua, **changes)
            folder = run_folder(output, setting, fold, seed, digest)
            truth = [CLASSES[n % 2] for n in range(20)]
            right = 12 + round(20 * gain)
            said = [
                {
                    "clip": f"c{fold}-{n}",
                    "truth": t,
                    "prediction": t if n < right else CLASSES[1 - n % 2],
                    "p_a": 0.5,
                }
                for n, t in enumerate(truth)
            ]
            write_csv(folder / "predictions.csv", list(said[0]), said)
            write_row(folder, row)
    return recipe


def test_the_better_one_is_named_with_interval_and_p(tmp_path, root, capsys):
    write_runs(tmp_path, "good", 0.1)
    write_runs(tmp_path, "plain", 0.0)
    file = tmp_path / "new" / "compare.csv"
    words = ["good", "plain", "--results", str(tmp_path), "--output", str(file)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "A is good, B is plain: 10 pairs of runs (5 folds x 2 seeds)" in out
    verdict = out.strip().splitlines()[-1]
    assert verdict.startswith("good is better than plain by ")
    assert "over 5 folds; paired t-test p" in verdict
    # Five signed ranks cannot fall below 2 / 2^5.
    assert verdict.endswith("Wilcoxon p = 0.062); the signed-rank test does not confirm it.")
    assert "cannot give a p below 0.0625" in out
    with open(file, newline="") as table:
        lines = list(csv.DictReader(table))
    assert [(n["over"], n["seed"], n["score"], n["num"]) for n in lines] == [
        *(("folds", "", score, "5") for score in ("wa", "ua", "macro_f1")),
        *(("clips", seed, score, "100") for seed in "12" for score in ("wa", "ua")),
    ]
    page = (root / "docs/files.md").read_text().partition("### `compare.csv`")[2]
    assert all(f"`{name}`" in page.partition("###")[0] for name in lines[0])
    ua = lines[1]
    assert float(ua["a_mean"]) - float(ua["b_mean"]) == pytest.approx(float(ua["difference_mean"]))
    assert 0 < float(ua["difference_low"]) < 0.1 < float(ua["difference_high"]) < 0.12
    assert float(lines[3]["difference_mean"]) == pytest.approx(0.1)
    assert (lines[3]["only_a"], lines[3]["only_b"]) == ("10", "0")
    assert float(lines[3]["p_mcnemar"]) == pytest.approx(2 / 2**10)
    assert main([*words[1::-1], *words[2:4]]) == 0  # the other way round: plain good
    assert "\ngood is better than plain by " in capsys.readouterr().out


def test_a_fold_counts_once_where_there_are_five_and_runs_are_told_apart_else(tmp_path):
    for name, gain in (("good", 0.02), ("plain", 0.0)):
        write_runs(tmp_path / "five", name, gain, folds=5, seeds=(1, 2, 3))
        write_runs(tmp_path / "four", name, gain, folds=4, seeds=(1, 2, 3))
        write_runs(tmp_path / "one", name, gain, folds=1, seeds=(1,))
    found = {n: compare(*(choose(x, tmp_path / n) for x in ("good", "plain")))
             for n in ("five", "four", "one")}  # fmt: skip
    five, four, one = found.values()
    assert (five.over, five.units["ua"].num_units, five.num_runs) == ("folds", 5, 15)
    assert not any("not independent" in note for note in five.notes)
    assert (four.over, four.units["ua"].num_units) == ("runs", 12)
    assert any("the units are not independent, p is too small" in note for note in four.notes)
    assert "in the one run of each: too few for a test" in one.verdict
    assert any("there is one fold" in note for note in one.notes) and one.text()


def test_equal_settings_show_no_difference(tmp_path):
    write_runs(tmp_path, "first", 0.0)
    write_runs(tmp_path, "other", 0.0)
    found = compare(choose("first", tmp_path), choose("other", tmp_path))
    assert found.verdict.startswith("No difference between first and other is shown: ")
    assert found.clips[1].p_mcnemar == 1.0


def test_a_difference_that_is_not_shown_has_its_sign(tmp_path):
    for seed, gain in ((1, -0.3), (2, 0.05)):
        write_runs(tmp_path, "first", max(gain, 0), folds=1, seeds=(seed,))
        write_runs(tmp_path, "other", max(-gain, 0), folds=1, seeds=(seed,))
    verdict = compare(choose("first", tmp_path), choose("other", tmp_path)).verdict
    assert re.search(r"is shown: -\d+\.\d points of UA \(A - B: 95 % interval -", verdict), verdict


def test_two_folders_and_variants_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_runs(Path("runs/x"), "same", 0.1)
    write_runs(Path("runs/finetune"), "same", 0.0)
    few = {"variant": "10 % of the labels"}
    write_runs(Path("runs/finetune"), "same", -0.1, digest="f" * 16, recipe=few, label_share=0.1)
    assert main(["runs/x:same", "same"]) == 0  # of runs/finetune, the plain run
    out = capsys.readouterr().out
    assert "A is runs/x:same, B is runs/finetune:same: 10 pairs" in out
    assert main(["same", "ffffff"]) == 0
    out = capsys.readouterr().out
    assert "B is same (10 % of the labels)" in out
    assert "Note: they differ in label_share: 1.0 and 0.1" in out
    write_runs(Path("runs/finetune"), "same", 0.2, digest="e" * 16)  # takes the first one's place
    assert main(["same", "same00"]) == 0
    assert "A is same eeeeeeee, B is same same0000" in capsys.readouterr().out


def test_runs_that_the_other_lacks_are_left_out_and_told(tmp_path):
    write_runs(tmp_path, "more", 0.0, folds=3, seeds=(1, 2))
    write_runs(tmp_path, "less", 0.0, folds=2, seeds=(2,))
    found = compare(choose("more", tmp_path), choose("less", tmp_path))
    assert found.num_runs == 2
    assert "left out, since the other has no such run: more, folds 0, 1, 2 with seeds 1, 2" in (
        found.notes
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fold_file_sha256": "y"}, "not judged on the same: folds (data.protocol): x and y"),
        ({"data_sha256": "y"}, "not judged on the same: shards (data.shards): x and y"),
        ({"recipe": {"classes": ("a", "c")}}, "classes (data.labels): a, b and a, c"),
        ({"seeds": (7,)}, "no fold and seed that both ran"),
    ],
)
def test_what_was_judged_otherwise_is_an_error_that_says_in_what(
    tmp_path, capsys, changes, message
):
    write_runs(tmp_path, "plain", 0.0)
    write_runs(tmp_path, "other", 0.0, **changes)
    assert main(["plain", "other", "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_other_clips_and_names_that_are_not_there_are_errors(tmp_path, capsys):
    write_runs(tmp_path, "first", 0.0)
    write_runs(tmp_path, "other", 0.0)
    path = run_folder(tmp_path, "other", 0, 1, f"{'other':0<16}") / "predictions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    for words, message in {
        ("first", "other"): "fold 0, seed 1: first was judged on 20 clips, other on 18",
        ("first", "first"): "A and B are both first",
        ("first", "third"): "third: no setting of that name in",
        ("first", "nowhere:other"): "nowhere holds no finetuning results",
    }.items():
        assert main([*words, "--results", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


def test_several_are_one_table_every_test_and_a_picture(tmp_path, capsys):
    for name, gain in (("middle", 0.05), ("good", 0.3), ("plain", 0.0), ("alike", 0.0)):
        write_runs(tmp_path, name, gain, seeds=(1, 2, 3) if name == "good" else (1, 2))
    file = tmp_path / "page" / "systems.csv"
    words = ["middle", "good", "plain", "alike", "--results", str(tmp_path)]
    assert main([*words, "--output", str(file)]) == 0
    out = capsys.readouterr().out
    assert "4 settings, each of the same 10 runs (folds x seeds)" in out
    assert "left out, since not all have such a run: 5 runs of good" in out
    last = out.strip().splitlines()[-1]
    assert last.startswith("good has the highest UA: better than middle, ")
    assert file.with_suffix(".md").read_text() == out
    assert file.with_suffix(".png").stat().st_size > 5000
    with open(file, newline="") as table:
        lines = list(csv.DictReader(table))
    assert len(lines) == 6 * 7  # pairs x (three scores, two of each seed's clips)
    tested = [line for line in lines if line["p_holm"]]
    assert len(tested) == 6 and all(float(n["p_holm"]) >= float(n["p_t"]) for n in tested)
    two = compare(choose("good", tmp_path), choose("plain", tmp_path))
    (line,) = [n for n in tested if (n["a"], n["b"]) == ("good", "plain")]
    assert float(line["p_t"]) == pytest.approx(two.units["ua"].p_t)


def test_of_several_the_best_is_first_and_equals_are_not_told_apart(tmp_path):
    for name in ("first", "other", "third"):
        write_runs(tmp_path, name, 0.0)
    found = compare_several([choose(n, tmp_path) for n in ("first", "other", "third")])
    ua = [standing.scores["ua"].mean for standing in found.standings]
    assert ua == sorted(ua, reverse=True)
    assert found.verdict.startswith(f"{found.standings[0].name} has the highest UA: not shown to ")


def test_holm_by_hand():
    """Holm (1979): .01, .02, .03, .04 of four are .04, .06, .06, .06."""
    p_of = {(0, 1): 0.04, (0, 2): 0.01, (1, 2): None, (0, 3): 0.03, (1, 3): 0.02}
    assert _holm(p_of) == pytest.approx(
        {(0, 1): 0.06, (0, 2): 0.04, (1, 2): None, (0, 3): 0.06, (1, 3): 0.06}
    )


def test_several_without_a_common_run_are_an_error(tmp_path, capsys):
    for name, seed in (("first", 1), ("other", 2), ("third", 1)):
        write_runs(tmp_path, name, 0.0, seeds=(seed,))
    assert main(["first", "other", "third", "--results", str(tmp_path)]) == 2
    assert "no fold and seed that all of first, other, third ran" in capsys.readouterr().err
