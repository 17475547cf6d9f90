"""Faces and EEG go through the doors that MEmoBERT uses: judged, saved, loaded, asked, fused."""

import csv
import dataclasses
import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import toys

from data_pipeline.config import load_config
from data_pipeline.extraction.config import DataConfig
from data_pipeline.features.face import Settings, load
from data_pipeline.recipes.face_eeg import CHANNELS
from data_pipeline.schema import ClipSample, FeatureSpec, SchemaError, Stream
from finetune import fuse
from finetune.config import FinetuneConfig
from finetune.recognizer import load_recognizer
from finetune.run import main
from finetune.runs.results import read_rows
from finetune.systems.face_eeg import table
from finetune.systems.face_eeg.__main__ import main as face_eeg

from ..conftest import PASSPORT, make_clips

LABELS = ("neutral", "sad", "fear", "happy")
SPEC = FeatureSpec(
    name="differential-entropy",
    weights_sha256="",
    layer=0,
    pooling=1,
    rate_hz=1.0,
    width=10,
    preprocessing="200Hz-window1s-Fz,Pz",
    dtype="float32",
)
PASSPORTS = {"eeg": {"eeg": SPEC}, "face": PASSPORT}
OPTIONS = "options: {hidden: 16}"


def eeg_of(clips: list[ClipSample], signal: float = 1.0) -> list[ClipSample]:
    """The same clips with made entropies, which their emotion moves, in place of all else."""
    rng = np.random.default_rng(1)
    moved_E = rng.normal(size=(len(LABELS), SPEC.width))
    found = []
    for clip in clips:
        values_ND = rng.normal(size=(4, SPEC.width)) + 3
        values_ND += signal * moved_E[LABELS.index(clip.meta["label"])]
        stream = Stream(values_ND=values_ND.astype(np.float32), seconds_N=SPEC.seconds(4))
        bare = dataclasses.replace(clip, text=None, words=[], streams={"eeg": stream})
        found.append(bare)
    return found


@pytest.fixture(scope="session")
def clips() -> list[ClipSample]:
    return make_clips(num_speakers=6, per_speaker=8, signal=1.0, labels=LABELS)


@pytest.fixture
def shards(clips, write_shards):
    """By stream, of the same clips."""
    return {
        "face": write_shards(clips, "faces"),
        "eeg": write_shards(eeg_of(clips), "waves", PASSPORTS["eeg"]),
    }


@pytest.fixture
def run(tmp_path, bert):
    """run(shards, stream, *settings, said=...) -> exit code; into tmp_path/stream."""

    def run(shards, stream, *settings, said=OPTIONS):
        plan = "plan: {num_steps: 40, learning_rate: 1e-2, warmup_steps: 0}"
        return main(
            [
                *(f"data.shards=[{shards}]", f"output={tmp_path / stream}"),
                *(f"data.modalities=[{stream}]", f"model.bert={bert}", "model.checkpoint=null"),
                f"data.labels={{{', '.join(f'{name}: [{name}]' for name in LABELS)}}}",
                *("folds=[0]", *toys.FAST, f"settings=[{stream}]"),
                f"own_settings.{stream}={{system: face_eeg, {plan}, {said}}}",
                *settings,
            ]
        )

    return run


ASKED = """
import json, sys
from finetune.recognizer import load_recognizer
recognizer = load_recognizer(sys.argv[1])
samples = list(recognizer.read(sys.argv[2]))
said = recognizer.predict(samples)
print(json.dumps({s.id: p.tolist() for s, p in zip(samples, said)}))
"""


@pytest.mark.parametrize("stream", ["eeg", "face"])
def test_it_learns_and_a_fresh_process_says_the_same(tmp_path, shards, run, stream):
    assert run(shards[stream], stream) == 0
    (row,) = read_rows(tmp_path / stream)
    assert (row.system, row.head, row.modalities) == ("face_eeg", "statistics", stream)
    assert row.ua > 0.6 and row.oracle_ua is not None and row.checkpoint_sha256 == ""
    (folder,) = tmp_path.glob(f"{stream}/runs/{stream}/*")
    told = json.loads((folder / "recognizer/recognizer.json").read_text())
    assert told["system"] == "face_eeg"
    words = [sys.executable, "-c", ASKED, str(folder / "recognizer"), str(shards[stream])]
    said = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
    with open(folder / "predictions.csv") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        mine = [float(line[f"p_{name}"]) for name in LABELS]
        np.testing.assert_allclose(said[line["clip"]], mine, atol=1e-5)


def test_the_two_decide_together(tmp_path, shards, run, capsys):
    runs = []
    for stream in ("face", "eeg"):
        assert run(shards[stream], stream) == 0
        runs += map(str, tmp_path.glob(f"{stream}/runs/{stream}/*"))
    assert fuse.main([*runs, "--output", str(tmp_path / "fused")]) == 0
    with open(tmp_path / "fused/fusion.csv") as file:
        ua = {line["who"]: float(line["ua"]) for line in csv.DictReader(file)}
    assert list(ua)[:2] == ["face (face)", "eeg (eeg)"] and "Monte Carlo" in ua
    assert ua["product"] >= min(ua["face (face)"], ua["eeg (eeg)"])
    assert "| Monte Carlo |" in capsys.readouterr().out


def test_any_streams_will_do_side_by_side(tmp_path, shards, run):
    said = "options: {hidden: 8, dropout: 0.0}"
    assert run(shards["face"], "speech", said=said) == 0
    together = "data.modalities=[face, speech]"
    assert run(shards["face"], "both", together, said=said) == 0
    found = {row.modalities for name in ("speech", "both") for row in read_rows(tmp_path / name)}
    assert found == {"speech", "face+speech"}


@pytest.mark.parametrize(
    ("settings", "said", "message"),
    [
        (
            ["data.modalities=[wavlm]"],
            OPTIONS,
            "data.modalities lists wavlm, which the shards have",
        ),
        ([], "head: m3er", "own_settings.eeg.head is m3er, which face_eeg does not have"),
        ([], "weights: new", "own_settings.eeg.weights is new, which face_eeg does not have"),
        ([], "options: {hiden: 3}", "options.hiden"),
        ([], "options: {dropout: 1}", "dropout"),
    ],
)
def test_what_it_cannot_be_told(shards, run, capsys, settings, said, message):
    assert run(shards["eeg"], "eeg", *settings, said=said) == 2
    assert message in capsys.readouterr().err


def test_shards_of_other_channels_are_no_one_corpus(clips, shards, run, write_shards, capsys):
    other = dataclasses.replace(SPEC, preprocessing="200Hz-window1s-Cz,Oz")
    renamed = [dataclasses.replace(clip, id=f"other-{clip.id}") for clip in eeg_of(clips)]
    more = write_shards(renamed, "other", {"eeg": other})
    assert run(shards["eeg"], "eeg", f"data.shards=[{shards['eeg']}, {more}]") == 2
    said = capsys.readouterr().err
    assert "eeg.preprocessing: found '200Hz-window1s-Cz,Oz', expected" in said


def test_a_clip_of_other_channels_is_refused_by_the_recognizer(tmp_path, clips, shards, run):
    assert run(shards["eeg"], "eeg") == 0
    recognizer = load_recognizer(next(tmp_path.glob("eeg/runs/eeg/*/recognizer")))
    mine = eeg_of(clips)[:2]
    other = {"eeg": dataclasses.replace(SPEC, preprocessing="200Hz-window1s-Cz,Oz")}
    with pytest.raises(SchemaError, match="found '200Hz-window1s-Cz,Oz', expected .*Fz,Pz"):
        recognizer.predict(mine, passport=other)
    for values_ND, message in (
        (np.zeros((3, 15), np.float32), "another feature passport than the recognizer's"),
        (np.full((3, 10), np.nan, np.float32), "not finite"),
    ):
        stream = Stream(values_ND=values_ND, seconds_N=SPEC.seconds(3))
        with pytest.raises(SchemaError, match=message):
            recognizer.predict([dataclasses.replace(mine[0], streams={"eeg": stream})])
    without = dataclasses.replace(mine[0], text="hm", words=["hm"], streams={})
    assert recognizer.predict([without]).sum() == pytest.approx(1)


def test_one_speaker_alone_is_not_dealt_into_folds(clips, run, write_shards, capsys):
    alone = [clip for clip in eeg_of(clips) if clip.meta["speaker"] == "0"]
    assert run(write_shards(alone, "alone", PASSPORTS["eeg"]), "eeg") == 2
    assert "too few for 3 folds" in capsys.readouterr().err


@pytest.mark.slow
def test_a_recognizer_of_faces_looks_at_a_video(tmp_path, clips, run, write_shards, root):
    """finetune.predict on a clip that ships, with the encoder that ships."""
    from finetune.predict import main as predict

    shards = write_shards(clips, "real", PASSPORT | load(Settings(), "cpu").passport)
    assert run(shards, "face") == 0
    recognizer = next(tmp_path.glob("face/runs/face/*/recognizer"))
    clip = root / "data_pipeline/assets/samples/1001_DFA_ANG_XX.flv"
    words = [str(clip), "--output", str(tmp_path / "seen"), f"recognizer={recognizer}"]
    words += ["streams={speech: false}", "transcriber=null", "workers=1", "min_confidence=0"]
    assert predict(words) == 0
    told = json.loads((tmp_path / "seen/timeline.json").read_text())
    judged = [u for u in told["utterances"] if u["emotion"]]
    assert judged and {u["emotion"] for u in judged} <= set(LABELS)
    assert all(u["modalities"] == ["face"] for u in judged)


def settings(command: str) -> list[str]:
    return [word for word in shlex.split(command) if "=" in word and not word.startswith("--")]


def test_the_config_and_the_table_give_the_same_commands(root):
    path = root / table.CONFIG
    text = path.read_text()
    lines = [line.removeprefix("#").strip() for line in text.splitlines() if line[:1] == "#"]
    assert lines[0] == f"accelerate launch finetune/run.py --config {table.CONFIG}"
    for command in table.data_commands("../shared/data"):
        assert command in lines
    _, eeg = table.run_commands()
    (mine,) = (line for line in lines if line.startswith("accelerate") and "[eeg]" in line)
    assert set(settings(mine)) <= set(settings(eeg))
    data = load_config(DataConfig, None, settings(table.data_commands("../shared/data")[-1]))
    assert tuple(data.extractors["eeg"]["channels"]) == CHANNELS and not data.opens_video
    for command in table.run_commands():
        config = load_config(FinetuneConfig, path, settings(command))
        assert tuple(config.data.labels) == table.CLASSES and config.seeds == table.SEEDS
        assert config.selection == "dev" and config.data.deal.folds == len(table.FOLDS)
        (name,) = config.settings
        assert config.setting(name).system == "face_eeg" and config.data.modalities == (name,)
        assert f"{config.output}/runs/{name}/fold0-seed1-*" in table.fuse_command(0, 1)


def test_the_config_trains_by_its_own_commands(tmp_path, shards, bert, root):
    """On toy clips, both of its settings."""
    path = root / table.CONFIG
    for stream, command in zip(("face", "eeg"), table.run_commands(), strict=True):
        changes = [f"data.shards=[{shards[stream]}]", f"output={tmp_path / stream}", "seeds=[1]"]
        changes += ["data.deal.folds=3", "folds=[0]", f"model.bert={bert}", "num_resamples=10"]
        changes += [
            f"own_settings.{stream}.plan.{said}" for said in ("num_steps=2", "warmup_steps=0")
        ]
        asked = [word for word in settings(command) if not word.startswith(("seeds", "output"))]
        asked = [word for word in asked if not word.startswith("data.shards")]
        assert main(["--config", str(path), *asked, *changes]) == 0
        assert {row.setting for row in read_rows(tmp_path / stream)} == {stream}


def test_the_page_pools_what_the_folds_decided(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert face_eeg(["table", "--publish"]) == 2
    assert "no fused runs in runs/face_eeg/fused" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    right = {"face (face)": 0.6, "eeg (eeg)": 0.5, "better alone": 0.6, "Monte Carlo": 0.8}
    said = {way: 0 for way in right}
    for fold in table.FOLDS:
        folder = tmp_path / f"runs/face_eeg/fused/fold{fold}-seed1"
        folder.mkdir(parents=True)
        with open(folder / "predictions.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["clip", "truth", *right])
            writer.writeheader()
            for number in range(48):
                truth = LABELS[number % 4]
                row = {w: truth if rng.random() < p else "" for w, p in right.items()}
                said = {way: said[way] + (row[way] == truth) for way in said}
                writer.writerow({"clip": number, "truth": truth, **row})
    assert face_eeg(["table", "--publish", "--output", str(tmp_path / "docs")]) == 0
    page = (tmp_path / "docs/face_eeg.md").read_text()
    for way, count in said.items():
        (line,) = (line for line in page.splitlines() if line.startswith(f"| {way} |"))
        assert f"| {100 * count / 240:.1f} [" in line
    assert "83.3 [69.8, 92.5] by the exact binomial interval" in page
    assert len([line for line in page.splitlines() if "| 48 |" in line]) == 5


def test_a_command_that_fails_ends_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "data_commands", lambda root: ["exit 3"])
    assert face_eeg(["table", "--data", str(tmp_path)]) == 2
    assert "this command failed: exit 3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        face_eeg(["table"])
    assert "--data is not given" in capsys.readouterr().err
