"""The page of `make demo`, and what the demo says when it cannot run."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

import pretrain.monitoring.report
from data_pipeline.report import ClipPreview, DataReport, RejectRow, StageRow, YieldRow
from finetune import demo
from finetune.clips.labelled import DatasetError
from finetune.report import FinetuneReport, JudgedClip
from finetune.timeline.utterance import Timeline, Video
from pretrain.monitoring.report import ObjectiveRow, PretrainReport, ReportError, pretrain_report
from pretrain.objectives import OBJECTIVES

from .conftest import make_clips


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
        by_subset=[("WWMLM", "text + face", "1.0000", "12.5 %")],
        curves=[picture],
        more=[picture],
        num_steps=100,
    )
    settings = FinetuneReport(
        folder=tmp_path,
        columns=("Setting", "WA"),
        rows=[("Direct", "25.0 %")],
        pictures=[picture],
        notes=["two folds"],
        judged=[JudgedClip(clip="clip 2", truth="anger", prediction="fear", probability=0.61)],
        chance=("Chance", "16.7%"),
    )
    return data, losses, settings


def test_page_holds_all_of_it_and_no_markup_of_the_input(
    tmp_path: Path, reports: tuple[DataReport, PretrainReport, FinetuneReport]
) -> None:
    steps = [demo.Step(command="python -m data_pipeline.extract", seconds=3.0)]
    video = Video(path="clip.mp4", problem="unreadable_video: no <i>film</i>")
    timeline = Timeline(classes=("happy", "sad"), videos=(video,), utterances=())
    (tmp_path / "timeline.json").write_text(timeline.to_json())
    page = demo.write_page(
        tmp_path / "report.html",
        demo.DemoConfig(),
        *reports,
        remarks=demo.Remarks(losses=[], settings=["not on yours: no labels"]),
        steps=steps,
        seconds=61.0,
        timeline=tmp_path,
    ).read_text(encoding="utf-8")
    for text in ("clip 1", "WWMLM", "-75.0 %", "Direct", "25.0 %", "12.5 %", demo.CAUTION[:40]):
        assert text in page, text
    for text in (
        "two folds",
        "not on yours: no labels",
        "clip 2",
        "fear",
        "0.61",
        "1 of 1 clips",
        "16.7%",
    ):
        assert text in page, text
    assert "the recognizer that ships" in page and "&lt;i&gt;film&lt;/i&gt;" in page
    assert "&lt;b&gt;c&lt;/b&gt;" in page and "<b>c</b>" not in page
    assert page.count("data:image/png;base64,") == 4
    assert 'src="http' not in page, "the page must be whole by itself"
    for sideways in ("overflow-x", "min-width: 7"):
        assert sideways not in page, "a phone would have to scroll sideways"


def test_summary_adds_up(
    capsys: pytest.CaptureFixture[str],
    reports: tuple[DataReport, PretrainReport, FinetuneReport],
) -> None:
    demo.print_summary(
        *reports,
        remarks=demo.Remarks(losses=[], settings=["not on yours: no labels"]),
        page=Path("report.html"),
    )
    printed = capsys.readouterr().out
    assert "clips in 3 = samples 2 + rejects 1" in printed
    assert "Chance   16.7%" in printed
    assert "report: report.html" in printed and "not on yours: no labels" in printed


def test_two_folders_called_clips_get_outputs_of_their_own(tmp_path: Path) -> None:
    names = [demo.folder_name(tmp_path / corpus / "clips") for corpus in ("grid s1", "meld")]
    assert names == ["grid_s1-clips", "meld-clips"]
    assert demo.folder_name(Path("/clips.csv")) == "clips"


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["clips=no/such/folder"]) == 2
    assert "no no/such/folder" in capsys.readouterr().err


def test_a_stage_that_fails_ends_the_demo_by_name(tmp_path: Path) -> None:
    with pytest.raises(demo.DemoError, match="exit code 2"):
        demo.extract(tmp_path / "nothing.csv", tmp_path / "shards")


def test_labelled_clips_are_dealt_by_speaker_or_else_one_by_one(
    write_shards: Callable[..., Path],
) -> None:
    many = write_shards(make_clips(num_speakers=3, per_speaker=4, signal=1.0), "many")
    assert demo.deal(many) == [
        "data.deal.by=speaker",
        "data.deal.folds=3",
        "data.deal.allow_shared_speakers=false",
    ]
    one = write_shards(make_clips(num_speakers=1, per_speaker=8, signal=1.0), "one")
    assert demo.deal(one)[0] == "data.deal.by=clip"
    other = make_clips(num_speakers=3, per_speaker=4, signal=1.0, labels=("a", "b"))
    with pytest.raises(DatasetError, match="no clip with a label of anger"):
        demo.deal(write_shards(other, "other"))


def test_folders_may_have_spaces_and_the_printed_command_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my clips, 2"
    code = f"import sys; assert sys.argv[1:] == ['clips={folder}']"
    step = demo.run("python", "-c", code, f"clips={folder}")
    assert step.command.endswith(f" 'clips={folder}'")
    assert step.command in capsys.readouterr().out
    assert demo.as_yaml([folder]) == f'["{folder}"]'


def test_losses_of_objectives_that_no_held_out_clip_can_be_asked_are_left_out(
    tmp_path: Path,
) -> None:
    rows = [{"step": n, "split": "validation", "wwmlm": 3.0 - n, "span_mafr": 2.0} for n in (0, 1)]
    table = pd.DataFrame(rows, columns=["step", "split", *OBJECTIVES])
    table.to_csv(tmp_path / "metrics.csv", index=False)
    report = pretrain_report(tmp_path)
    assert [(row.objective, row.start, row.end) for row in report.rows] == [
        ("WWMLM", 3.0, 2.0),
        ("SpanMAFR", 2.0, 2.0),
    ]
    table[table.step < 0].to_csv(tmp_path / "metrics.csv", index=False)
    with pytest.raises(ReportError, match="has no row yet"):
        pretrain_report(tmp_path)


def test_only_objectives_that_were_asked_have_a_curve_and_no_step_is_half_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"step": n, "split": "train", "wwmlm": 3.0 - n, "span_mafr": 2.0} for n in (1, 2, 3)]
    pd.DataFrame(rows, columns=["step", "split", *OBJECTIVES]).to_csv(
        tmp_path / "metrics.csv", index=False
    )
    ticks = []
    save = pretrain.monitoring.report.save_picture

    def spy(figure: Figure, path: Path) -> Path:
        figure.canvas.draw()
        ticks.extend(figure.axes[0].get_xticks())
        return save(figure, path)

    monkeypatch.setattr(pretrain.monitoring.report, "save_picture", spy)
    report = pretrain_report(tmp_path)
    assert [path.name for path in report.curves] == ["curve-wwmlm.png", "curve-span_mafr.png"]
    assert report.rows == [] and report.num_steps == 3
    assert ticks and all(tick == round(tick) for tick in ticks), ticks
    for path in report.curves:
        assert Image.open(path).width <= 600, "shrunk to a phone, wider letters cannot be read"
