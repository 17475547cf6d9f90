"""The page of `make demo`, and what the demo says when it cannot run."""

from pathlib import Path

import pytest
from PIL import Image

from data_pipeline.report import ClipPreview, DataReport, RejectRow, StageRow, YieldRow
from finetune import demo
from finetune.report import FinetuneReport
from pretrain.report import ObjectiveRow, PretrainReport


@pytest.fixture
def reports(tmp_path: Path) -> tuple[DataReport, PretrainReport, FinetuneReport]:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 4)).save(picture)
    (tmp_path / "config.yaml").write_text("a: 1\n")
    data = DataReport(
        folder=tmp_path,
        num_clips=3,
        num_samples=2,
        num_rejects=1,
        reasons=[("no_face", 1)],
        rejects=[RejectRow(clip="<b>c</b>", stage="faces", reason="no_face", detail="none")],
        stages=[StageRow(stage="media", seconds=1.5, seconds_per_clip=0.5)],
        yields=[YieldRow(modality="face", samples=2, rows=60)],
        clips_per_second=1.0,
        workers=2,
        media_seconds=6.0,
        passport={"face": {"name": "densenet_ferplus"}},
        previews=[ClipPreview(title="clip 1", caption="speaker found", pictures=[picture])],
    )
    losses = PretrainReport(
        folder=tmp_path,
        rows=[ObjectiveRow(objective="WWMLM", start=4.0, end=1.0)],
        curves=picture,
        num_steps=100,
    )
    settings = FinetuneReport(
        folder=tmp_path,
        columns=("Setting", "WA"),
        rows=[("Direct", "25.0 %")],
        pictures=[picture],
        notes=["two folds"],
    )
    return data, losses, settings


def test_page_holds_all_of_it_and_no_markup_of_the_input(
    tmp_path: Path, reports: tuple[DataReport, PretrainReport, FinetuneReport]
) -> None:
    steps = [demo.Step(command="python -m data_pipeline.extract", seconds=3.0)]
    page = demo.write_page(
        tmp_path / "report.html", demo.DemoConfig(), *reports, steps=steps, seconds=61.0
    ).read_text(encoding="utf-8")
    for text in ("clip 1", "WWMLM", "-75.0 %", "Direct", "25.0 %", "two folds", demo.CAUTION[:40]):
        assert text in page, text
    assert "&lt;b&gt;c&lt;/b&gt;" in page and "<b>c</b>" not in page
    assert page.count("data:image/png;base64,") == 3
    assert 'src="http' not in page, "the page must be whole by itself"


def test_summary_adds_up(
    capsys: pytest.CaptureFixture[str],
    reports: tuple[DataReport, PretrainReport, FinetuneReport],
) -> None:
    demo.print_summary(*reports, finetuned_on_samples=True, page=Path("report.html"))
    printed = capsys.readouterr().out
    assert "clips in 3 = samples 2 + rejects 1" in printed
    assert "report: report.html" in printed and "bear no labels" in printed


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["clips=no/such/folder"]) == 1
    assert "no no/such/folder" in capsys.readouterr().err


def test_a_stage_that_fails_ends_the_demo_by_name(tmp_path: Path) -> None:
    with pytest.raises(demo.DemoError, match="exit code 2"):
        demo.extract(tmp_path / "nothing.csv", tmp_path / "shards")
