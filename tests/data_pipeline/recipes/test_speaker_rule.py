import csv

import pytest

from data_pipeline.recipes.speaker_rule import Row, Rule, fit, judge_left_out, main, read_table


def row(truth: str, *faces: tuple[float, float], group: str = "a", people: str = "ann") -> Row:
    return Row(
        kind="k",
        group=group,
        people=frozenset(people.split()),
        seen=tuple(people.split()),
        truth=truth,
        answers={},
        faces=[{"synchrony": s, "net": n} for s, n in faces],
        panels=[str(k) for k in range(len(faces))],
    )


def test_a_rule_by_hand():
    both = Rule(names=("synchrony", "net"), bar=2.0, weight=0.1)
    assert both.answer(row("0", (0.2, 3.0), (0.1, 5.0))) == "1"  # .5 against .6
    assert both.answer(row("0", (0.2, 1.9), (-0.1, 9.0))) == "nobody"
    assert both.answer(row("0")) == "nobody"
    assert Rule(names=("net",), bar=2.0).answer(row("0", (9.0, 1.0), (0.0, 2.0))) == "1"


def test_the_bar_lies_between_talkers_and_muted_and_leans_to_the_talkers():
    rows = [row("0", (x, 0.0)) for x in (0.3, 0.31, 0.4)]
    rows += [row("nobody", (x, 0.0)) for x in (0.05, 0.1, 0.35)]
    # 0.35 is taken for a speaker sooner than three are lost.
    assert fit(rows, ("synchrony",)).bar == pytest.approx(0.2, abs=0.02)


def test_nobody_is_judged_by_a_rule_that_knows_them():
    """Bob's muted mouth fits everything: a rule that knew it would put the bar above."""
    rows = [row("0", (0.2, 0.0), people=who) for who in ("ann", "cat")]
    rows += [row("nobody", (0.05, 0.0), people=who) for who in ("ann", "cat")]
    rows += [row("nobody", (0.15, 0.0), people="bob")] * 2
    assert judge_left_out(rows, ("synchrony",), "a") == [True] * 4 + [False] * 2
    kept_out = [row("nobody", (0.15, 0.0), group="b", people="dan")]
    assert judge_left_out([*rows, *kept_out], ("synchrony",), "a")[-1]


def test_reads_what_the_bench_writes(tmp_path, capsys):
    cells = {
        "kind": "both_lips",
        "group": "a",
        "people": "ann bob",
        "voice": "ann",
        "truth": "0",
        "synchrony": "0",
        "counts": "1",
        "loudest_mover": "1",
        "x/y": "1",
        "synchrony+x/y": "0",
        "panel_by_face": "0 1",
        "open_by_face": "5 5",
        "change_by_face": "5 0",
        "match_share_by_face": "0.5 0.5",
        "synchrony_by_face": "0.300 0.400",
        "x/y_by_face": "3.000 4.000",
    }
    with open(tmp_path / "t.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(cells))
        writer.writeheader()
        writer.writerow(cells)
        writer.writerow({**cells, "truth": "nobody", "people": "cat dan", "voice": "eve"})
    (first, _) = read_table(tmp_path / "t.csv", ["x/y"])
    assert first.panels == ["0"] and first.faces == [{"synchrony": 0.3, "x/y": 3.0}]
    assert first.people == {"ann", "bob"}
    assert main([str(tmp_path / "t.csv"), "--fit", "a"]) == 0
    assert "synchrony+x/y, fitted" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path / "t.csv"), "--fit", "elsewhere"])
    assert "there are a" in capsys.readouterr().err
