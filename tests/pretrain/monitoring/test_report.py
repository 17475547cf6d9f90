from pathlib import Path

import pytest
from PIL import Image

from pretrain.monitoring.metrics import Metrics
from pretrain.monitoring.report import PretrainReport, pretrain_report
from pretrain.monitoring.validation import Answers


def words(subset: str, loss: float, accuracy: float) -> Answers:
    about = {"words": 8, "word_accuracy": accuracy, "piece_accuracy": accuracy}
    return Answers(subset=subset, objective="wwmlm", loss=loss, clips=4, **about)


def faces(subset: str, loss: float) -> Answers:
    return Answers(subset=subset, objective="span_mvfr", loss=loss, clips=4)


@pytest.fixture
def report(tmp_path: Path) -> PretrainReport:
    with Metrics(tmp_path, 0) as metrics:
        for step in (0, 20):
            metrics.write(step, "validation", {"wwmlm": 2.0, "span_mvfr": 1.0})
            everything = [words("text+face", 2.0, step / 80), faces("text+face", 1.0)]
            metrics.write_answers(
                step, [*everything, words("text", 3.0, 0.125), faces("face", 4.0)]
            )
        for step in (10, 20):
            speed = {"tokens_per_second": 1000.0, "clipped_share": 0.5}
            metrics.write(step, "train", speed | {"grad_norm": 0.5, "grad_norm_max": 9.0})
    return pretrain_report(tmp_path)


def test_what_was_measured_has_a_picture_that_a_phone_shows(report):
    names = ["curve-words.png", "curve-gradient.png", "curve-speed.png"]
    assert [path.name for path in report.more] == names
    assert all(Image.open(path).width <= 600 for path in report.more)


def test_the_last_answers_stand_in_a_table_by_what_was_given(report):
    assert report.by_subset == [
        ("WWMLM", "text + face", "2.0000", "25.0 %"),
        ("WWMLM", "text", "3.0000", "12.5 %"),
        ("SpanMVFR", "text + face", "1.0000", ""),
        ("SpanMVFR", "face", "4.0000", ""),
    ]


def test_a_run_without_subsets_or_of_an_older_version_has_no_table(tmp_path):
    metrics = Metrics(tmp_path, 0)
    metrics.write(0, "validation", {"wwmlm": 2.0})
    metrics.write_answers(0, [words("text", 2.0, 0.5)])
    report = pretrain_report(tmp_path)
    assert report.by_subset == [] and [p.name for p in report.more] == ["curve-words.png"]
    (tmp_path / "validation.csv").unlink()
    (tmp_path / "metrics.csv").write_text("step,split,loss,wwmlm\n1,train,2.5,2.5\n")
    report = pretrain_report(tmp_path)
    assert report.by_subset == report.more == [] and len(report.curves) == 1
