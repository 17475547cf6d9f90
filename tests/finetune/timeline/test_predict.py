"""python -m finetune.predict on real clips, and on what is no clip."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_videos import make

from data_pipeline.extraction.config import DataConfig
from data_pipeline.features.extractors import load_extractors
from data_pipeline.files.weights import ASSETS
from finetune import predict as door
from finetune import recognizer as saved
from finetune.predict import main, split_words
from finetune.recognizer import Recognizer
from finetune.timeline import run
from finetune.timeline.recognition import NO_FACE
from finetune.timeline.utterance import read_timeline

SAMPLES = ASSETS / "samples"
CLASSES = ("anger", "neutral", "sad")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ByLoudness(Recognizer):
    """Reads the true streams of the encoders that ship; how it judges does not matter here."""

    def predict(self, samples, *, passport=None):
        rows = [
            [0.8, 0.1, 0.1] if sample.has("speech") else [0.34, 0.33, 0.33] for sample in samples
        ]
        return np.array(rows).reshape(-1, len(CLASSES))


@pytest.fixture(scope="module")
def passport():
    config = DataConfig(clips="", output="")
    made = {}
    for extractor in load_extractors(config.extractors, "cpu").values():
        made |= extractor.passport
    return {name: made[name] for name in ("face", "speech")}


@pytest.fixture
def recognizer(passport, monkeypatch):
    found = ByLoudness(classes=CLASSES, passport=passport, modalities=("text", "face", "speech"))
    monkeypatch.setattr(saved, "load_recognizer", lambda folder=None: found)
    return found


@pytest.fixture
def predict(recognizer, tmp_path, capsys):
    def predict(*words, code=0):
        done = main([*map(str, words), "--output", str(tmp_path / "out"), "workers=1"])
        said = capsys.readouterr()
        assert done == code, said.err
        return said

    return predict


SHORT = ("transcriber=null", "diarize=false", "faces=false")


@pytest.mark.slow
def test_a_video_a_sound_and_a_broken_file_between(predict, tmp_path):
    videos = tmp_path / "in"
    videos.mkdir()
    sound = next(SAMPLES.glob("*.mp3"))
    for name, source in (("a.flv", next(SAMPLES.glob("*.flv"))), ("c.mp3", sound)):
        (videos / name).write_bytes(source.read_bytes())
    (videos / "b.mp4").write_bytes(b"broken")
    said = predict(videos / "a.flv", videos / "b.mp4", videos / "c.mp3", *SHORT, code=2)
    assert f"predict: {videos}/b.mp4: unreadable_video" in said.err
    out = tmp_path / "out"
    timeline = read_timeline(out / "timeline.json")
    assert [bool(video.problem) for video in timeline.videos] == [False, True, False]
    of_video = [u for u in timeline if u.video.endswith("a.flv") and u.emotion == "anger"]
    assert of_video and set(of_video[0].modalities) == {"face", "speech"}
    of_sound = [u for u in timeline if u.video.endswith("c.mp3")]
    assert [u.modalities for u in of_sound] == [("speech",)]
    page = (out / "timeline.html").read_text()
    assert "b.mp4" in page and page.count("data:image/jpeg") >= 12
    assert (out / "a.vtt").is_file() and (out / "c.vtt").is_file()

    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    again = predict(videos / "a.flv", videos / "b.mp4", videos / "c.mp3", *SHORT, code=2)
    assert read_timeline(out / "timeline.json") == timeline and again.out == said.out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")} == made


@pytest.mark.slow
def test_where_nobody_speaks_the_picture_is_judged_and_flat_ones_abstain(
    predict, shared_data, tmp_path
):
    quiet = [p for p in (shared_data / "expression_videos/clips").iterdir() if p.suffix == ".mp4"]
    predict(sorted(quiet)[0], *SHORT)
    timeline = read_timeline(tmp_path / "out/timeline.json")
    seen = [u for u in timeline if u.modalities == ("face",)]
    assert seen and all(u.person is None and u.emotion is None for u in seen)
    assert "no class is likely: anger has 0.34, and min_confidence is 0.35" == seen[0].abstains


class OneFace:
    """Everybody has the same."""

    name = "one"

    def embed(self, crop_HW):
        return np.ones(2)


@pytest.mark.slow
def test_a_face_of_the_table_names_who_does_not_speak(predict, shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "face_encoder", lambda faces: OneFace())
    quiet = shared_data / "expression_videos/clips/single_face.mp4"
    (tmp_path / "table.csv").write_text(
        f"video,text,speaker\n{next(SAMPLES.glob('*.flv'))},x,Ann\n"
    )
    predict(tmp_path / "table.csv", quiet, *SHORT[:2], "speaker=any_face")
    timeline = read_timeline(tmp_path / "out/timeline.json")
    assert [(u.person, u.named_by) for u in timeline] == [("Ann", "table"), ("Ann", "face")]
    page = (tmp_path / "out/timeline.html").read_text()
    assert "Ann (by face)" in page
    assert list((tmp_path / "out/faces").iterdir())


@pytest.mark.slow
def test_a_list_and_a_table_with_words(predict, tmp_path):
    video, sound = next(SAMPLES.glob("*.flv")), next(SAMPLES.glob("*.mp3"))
    (tmp_path / "table.csv").write_text(f"video,text,speaker\n{sound},well then,Ann\n")
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'table.csv'}\n\n{video}\n")
    predict(tmp_path / "list.txt", *SHORT)
    first, *_ = read_timeline(tmp_path / "out/timeline.json")
    assert (first.text, first.person, first.modalities) == ("well then", "Ann", ("text", "speech"))


def test_what_cannot_be_done_is_one_message(predict, recognizer, tmp_path, monkeypatch, capsys):
    assert "no video is named" in predict(code=2).err
    assert "nothing to look at" in predict(tmp_path / "none.mp4", code=2).err
    assert "no file ~nobody-here/none.mp4" in predict("~nobody-here/none.mp4", code=2).err
    (tmp_path / "words.csv").write_text("text,speaker\nwell then,Ann\n")
    said = predict(tmp_path / "words.csv", code=2).err
    assert "no column `video`, which names the file of each row; found text, speaker" in said
    (tmp_path / "empty.txt").write_text("\n")
    assert "expected a path a line" in predict(tmp_path / "empty.txt", code=2).err
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("a file")
    assert "name another folder" in predict(next(SAMPLES.glob("*.mp3")), code=2).err
    (tmp_path / "out").unlink()
    found = door.main([str(next(SAMPLES.glob("*.mp3"))), "--output", "/proc"])
    assert found == 2 and "cannot write to output=/proc" in capsys.readouterr().err
    assert "there is no setting 'transcribe'" in predict("x.mp4", "transcribe=null", code=2).err
    other = dataclasses.replace(
        recognizer,
        passport={"speech": dataclasses.replace(recognizer.passport["speech"], layer=1)},
    )
    monkeypatch.setattr(saved, "load_recognizer", lambda folder=None: other)
    assert "speech.layer: found" in predict(next(SAMPLES.glob("*.mp3")), code=2).err


def test_files_and_settings_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.mp4").touch()
    words = ["a=b.mp4", "--output", "o", "min_confidence=.5", "x y.mp4"]
    inputs, settings = split_words(words)
    assert [str(path) for path in inputs] == ["a=b.mp4", "x y.mp4"]
    assert settings == ["output=o", "min_confidence=.5"]


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "min_confidence" in said and "--output FOLDER" in said and door.EXAMPLE in said


def test_in_python_it_is_one_call(recognizer):
    timeline = recognizer.recognize(
        next(SAMPLES.glob("*.mp3")), transcriber=None, diarize=False, faces=False, workers=1
    )
    (row,) = json.loads(timeline.to_frame().to_json(orient="records"))
    assert row["emotion"] == "anger" and row["p_anger"] == 0.8


def ffmpeg(words, **settings):
    command = ["ffmpeg", "-v", "error", "-y", *words.split()]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **settings).stdout


@pytest.mark.slow
def test_every_file_of_a_folder_is_rows_or_one_message(predict, tmp_path):
    """No speech but music, no face, nothing at all, a live recording, one that breaks off, broken
    ones between, and a table that says more than there is."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg: apt-get install ffmpeg")
    folder = tmp_path / "in"
    folder.mkdir()
    film, sound = next(SAMPLES.glob("*.flv")), next(SAMPLES.glob("*.mp3"))
    coded = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
    chord = "aevalsrc=0.1*(sin(440*PI*t)+sin(554*PI*t)+sin(659*PI*t))*exp(-2*mod(t\\,1)):d=2"
    ffmpeg(f"-i {film} -f lavfi -i {chord} -map 0:v -map 1:a {coded} {folder}/music.mp4")
    ffmpeg(f"-f lavfi -i testsrc=s=320x240:r=25:d=2 -i {sound} {coded} {folder}/no_face.mp4")
    make(folder / "nothing.mp4", seconds=8, tone_at=99)
    (folder / "live.mkv").write_bytes(ffmpeg(f"-i {film} {coded} -f matroska -"))
    ffmpeg(f"-i {film} {coded} -movflags +faststart {folder}/cut.mp4")
    whole = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    (folder / "broken.mp4").write_bytes(os.urandom(5000))
    (folder / "empty.mp4").touch()
    rows = f"video,start,end,text\n{film},0,99,\nnone.mp4,0,2,well\nin/broken.mp4,0,1,then\n"
    (tmp_path / "rows.csv").write_text(rows)
    said = predict(folder, tmp_path / "rows.csv", *SHORT, code=2)

    told = [line for line in said.err.splitlines() if line.startswith("predict: ")]
    names = sorted(line.split(":")[1].rpartition("/")[2] for line in told)
    assert names == ["broken.mp4", "empty.mp4", "none.mp4"]
    assert "Traceback" not in said.err and "missing_file: no file" in said.err
    timeline = read_timeline(tmp_path / "out/timeline.json")
    found = {}
    for u in timeline:
        found.setdefault(Path(u.video).name, []).append(u)
    assert {u.modalities for u in found["music.mp4"]} == {("face",)}
    assert ("speech",) in {u.modalities for u in found["no_face.mp4"]}
    assert [(round(u.end), u.abstains) for u in found["nothing.mp4"]] == [(8, NO_FACE)]
    assert "face" in found["live.mkv"][0].modalities and found["cut.mp4"][0].probabilities
    assert found[film.name][0].probabilities, "a row may say more than its file holds"
    assert [u.text for u in found["none.mp4"]] == ["well"]
    (of_row,) = [video for video in timeline.videos if video.path == str(film)]
    assert of_row.seconds < 5, "the row says 99"
    notes = {Path(video.path).name: video.notes for video in timeline.videos}
    assert notes["live.mkv"] == () and "the file breaks off" in notes["cut.mp4"][0]
    assert notes["music.mp4"] == ("no voice was heard",)


@pytest.mark.slow
def test_a_script_needs_no_guard(root, tmp_path):
    """As the README has it: each worker would start a script without one from its top."""
    sound = next(SAMPLES.glob("*.mp3"))
    script = tmp_path / "script.py"
    script.write_text(
        "from finetune import load_recognizer\n\n"
        f"for u in load_recognizer().recognize({str(sound)!r}):\n"
        "    print(u.start, u.end, u.person, u.emotion, u.confidence, u.text)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and done.stdout.startswith("0")
