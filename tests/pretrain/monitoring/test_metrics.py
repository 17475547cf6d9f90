import csv

import pytest

from pretrain.monitoring.metrics import HELD_OUT, Metrics, columns, describe, words_line
from pretrain.monitoring.validation import Answers


def read(folder, name: str = "metrics.csv") -> list[dict[str, str]]:
    with open(folder / name, newline="") as file:
        return list(csv.DictReader(file))


def answers(accuracy: float = 0.25) -> list[Answers]:
    words = {"words": 8, "word_accuracy": accuracy, "piece_accuracy": 0.5}
    return [
        Answers(subset="text+face", objective="wwmlm", loss=2.0, clips=4, **words),
        Answers(subset="face", objective="span_mvfr", loss=0.1 + 0.2, clips=3),
    ]


class Recorder:
    """What accelerate's trackers are told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def log(self, values: dict[str, float], step: int) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.closed = True


def test_a_resumed_run_drops_the_rows_it_will_write_again(tmp_path):
    metrics = Metrics(tmp_path, 0)
    for step in (1, 2, 3):
        metrics.write(step, "train", {"loss": 0.1 + 0.2, "memory_gb": 1.0})
    metrics.write(3, "validation", {"wwmlm": 2.5})
    for step in (3, 4):
        metrics.write_answers(step, answers())
    for file, half in ((metrics.lines, "4,train,0."), (metrics.held_out, "4,text,wwml")):
        with open(file.path, "a") as killed_here:
            killed_here.write(half)
    Metrics(tmp_path, 3).write(4, "train", {"loss": 1.0})
    rows = read(tmp_path)
    assert list(rows[0]) == columns()
    assert [(row["step"], row["split"]) for row in rows] == [
        ("1", "train"),
        ("2", "train"),
        ("3", "train"),
        ("3", "validation"),
        ("4", "train"),
    ]
    assert float(rows[0]["loss"]) == 0.1 + 0.2  # every digit
    held_out = read(tmp_path, "validation.csv")
    assert list(held_out[0]) == HELD_OUT
    assert [(row["step"], row["subset"]) for row in held_out] == [("3", "text+face"), ("3", "face")]
    assert float(held_out[1]["loss"]) == 0.1 + 0.2 and held_out[1]["words"] == ""
    Metrics(tmp_path, 0)
    assert read(tmp_path) == read(tmp_path, "validation.csv") == []  # a start anew owns the files


def test_rows_of_an_older_version_get_todays_columns(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "step,split,loss,gone,memory_gb\n1,train,2.5,7,1.0\n2,train,2.0,7,1.0\n3,train,1."
    )
    Metrics(tmp_path, 2).write(3, "train", {"loss": 1.5, "grad_norm": 0.5})
    rows = read(tmp_path)
    assert all(list(row) == columns() for row in rows)
    assert [(row["loss"], row["grad_norm"]) for row in rows] == [
        ("2.5", ""),
        ("2.0", ""),
        ("1.5", "0.5"),
    ]


def test_trackers_are_told_what_the_files_are_told_and_closed(tmp_path):
    recorder = Recorder()
    with Metrics(tmp_path, 0, [recorder]) as metrics:
        metrics.write(5, "train", {"loss": 1.5, "grad_norm": 0.5})
        metrics.write_answers(5, answers())
        assert not recorder.closed
    assert recorder.closed
    assert recorder.told == [
        (5, {"train/loss": 1.5, "train/grad_norm": 0.5}),
        (
            5,
            {
                "validation_wwmlm/text+face": 2.0,
                "validation_span_mvfr/face": 0.1 + 0.2,
                "validation_words/text+face": 0.25,
            },
        ),
    ]


ROW = {
    "loss": 3.4123,
    "wwmlm": 2.71,
    "span_mafr": 0.38,
    "clips_per_second": 640.4,
    "tokens_per_second": 52_000,
    "gflops_per_second": 31.44,
    "packing": 0.9814,
    "grad_norm": 0.416,
    "grad_norm_max": 1.31,
    "clipped_share": 0.04,
    "learning_rate": 5e-5,
    "memory_gb": 31.2,
}


@pytest.mark.parametrize(("more", "shown"), [({}, "31.4 GFLOP/s"), ({"mfu": 0.437}, "mfu 44%")])
def test_a_line_of_the_log_reads_as_one(more, shown):
    assert describe(1200, ROW | more) == (
        "step 1200 | loss 3.412 | wwmlm 2.7100 mafr 0.3800 | 640 clips/s | 52k tok/s | "
        f"{shown} | pack 98.1% | grad 0.42, most 1.3, clipped 4% | lr 5.00e-05 | 31.2 GB"
    )


def test_words_are_told_by_what_was_given():
    assert words_line(answers()) == "text+face 25.0%"
    assert words_line(answers()[1:]) == ""
