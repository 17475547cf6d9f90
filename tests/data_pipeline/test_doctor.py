"""The doctor: what it finds before work starts, and the fix it names."""

import pytest

from data_pipeline import doctor
from data_pipeline.config import load_config
from data_pipeline.doctor import check_encoders, check_output, check_quickly
from data_pipeline.extraction.config import DataConfig
from data_pipeline.schema import Clip


def config(tmp_path, *overrides) -> DataConfig:
    return load_config(DataConfig, None, [f"clips={tmp_path}", f"output={tmp_path}/o", *overrides])


def clips(*videos, **fields) -> list[Clip]:
    return [Clip(id=f"c-{n}", video=str(v), **fields) for n, v in enumerate(videos)]


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


def test_all_is_well_with_files_that_are_there(tmp_path):
    (tmp_path / "a.mp4").touch()
    findings = list(check_quickly(config(tmp_path), clips(tmp_path / "a.mp4"), 1))
    assert levels(findings) == ["ok"] * 3
    assert str(findings[0]) == "ok      1 clips of 1 videos"


def test_missing_files_are_named(tmp_path):
    (tmp_path / "a.mp4").touch()
    some = clips(tmp_path / "a.mp4", tmp_path / "gone.mp4")
    finding = next(check_quickly(config(tmp_path), some, 1))
    assert finding.level == "warning" and "1 of 2 videos are not there" in finding.what
    none = next(check_quickly(config(tmp_path), clips(tmp_path / "gone.mp4"), 1))
    assert none.level == "error" and "gone.mp4" in none.what
    assert "relative to the clip table" in none.fix


def test_a_disk_too_small_and_too_many_workers_are_found(tmp_path):
    film = clips(tmp_path, start=0.0, end=1e12)
    _, disk, workers = check_quickly(config(tmp_path), film, 10_000)
    assert disk.level == "error" and "another output=" in disk.fix
    assert workers.level == "warning" and "workers=" in workers.fix


def test_an_output_that_an_extraction_refuses_is_an_error(tmp_path):
    asked = config(tmp_path)
    table = clips(tmp_path / "a.mp4")
    assert check_output(asked, table).level == "ok"
    (tmp_path / "o").mkdir()
    assert check_output(asked, table).level == "ok"
    (tmp_path / "o/letter.txt").touch()
    foreign = check_output(asked, table)
    assert foreign.level == "error" and "holds letter.txt" in foreign.what
    (tmp_path / "o/letter.txt").rename(tmp_path / "letter.txt")
    (tmp_path / "o").rmdir()
    (tmp_path / "o").touch()
    file = check_output(asked, table)
    assert file.level == "error" and "is a file, expected a folder" in file.what


def test_an_encoder_that_does_not_load_is_an_error_with_the_fix(tmp_path):
    (finding,) = check_encoders(config(tmp_path, "streams.speech.encoder=./nowhere"))
    assert finding.level == "error" and "no folder ./nowhere" in finding.what
    assert "streams.NAME.encoder=" in finding.fix


def test_a_table_that_may_not_be_read_is_one_line(tmp_path, capsys, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied", "t.csv")

    monkeypatch.setattr(doctor, "load_clips", refused)
    assert doctor.main(["clips=t.csv", f"output={tmp_path}/o"]) == 2
    assert capsys.readouterr().err == "doctor: cannot read or write t.csv: Permission denied\n"


def test_the_command_ends_with_2_when_there_is_an_error(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("video\ngone.mp4\n")
    words = [f"clips={tmp_path}/t.csv", f"output={tmp_path}/o", "streams.speech.encoder=./nowhere"]
    assert doctor.main(words) == 2
    out = capsys.readouterr().out
    assert out.count("error   ") == 2 and "gone.mp4" in out
    assert doctor.main([f"clips={tmp_path}/none.csv", f"output={tmp_path}/o"]) == 2
    assert "no clip table" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word", ["clip=x", "streams.speech.encodr=x", "workers=0", "array.index=3"]
)
def test_a_wrong_setting_is_named(tmp_path, capsys, word):
    assert doctor.main([f"clips={tmp_path}", f"output={tmp_path}/o", word]) == 2
    out = capsys.readouterr().err
    assert word.partition("=")[0] in out
