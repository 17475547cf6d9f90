"""Clips of a table with a column `eeg`: with nothing else to see or hear, and beside a sound."""

import csv
import json

import numpy as np
import pytest

from data_pipeline import doctor, extract
from data_pipeline.files.weights import ASSETS
from data_pipeline.shards import list_shards, load_passport, read_manifest, read_shard

pytest.importorskip("mne", reason="MNE is not installed: pip install -e .[eeg]")

EEG = "streams={face: false, speech: false, eeg: {channels: [Fz, Pz]}}"
ALONE = [EEG, "require=[eeg]", "speaker=none", "workers=1", "device=cpu"]
SOUND = next((ASSETS / "samples").glob("*.mp3"))


@pytest.fixture
def table(tmp_path):
    """Rows as (id, start, end, eeg): recordings lie below the table, and no video is there."""

    def write(*rows, video="session.mp4", rate=""):
        (tmp_path / "eeg").mkdir(exist_ok=True)
        signal_CT = 20 * np.random.default_rng(0).standard_normal((2, 2000))
        np.save(tmp_path / "eeg/good.npy", signal_CT)
        signal_CT[1, 400:900] = 0
        np.save(tmp_path / "eeg/flat.npy", signal_CT)
        np.save(tmp_path / "eeg/four.npy", np.concatenate([signal_CT, signal_CT]))
        lines = [f"{video},{start},{end},{name},{eeg},{rate}" for name, start, end, eeg in rows]
        path = tmp_path / "t.csv"
        path.write_text("\n".join(["video,start,end,id,eeg,eeg_rate", *lines]) + "\n")
        return path

    return write


def rejects(folder):
    with open(folder / "rejects.csv", newline="") as file:
        return {row["clip"]: (row["stage"], row["reason"]) for row in csv.DictReader(file)}


def test_a_clip_of_eeg_alone_is_a_sample_or_says_why_not(tmp_path, table):
    """Nothing else is opened: `video` names what a recording of the session would be."""
    good, out = "eeg/good.npy", tmp_path / "out"
    rows = [("a", 0, 4, good), ("b", 4, 7.5, good), ("whole", 0, "", good), ("short", 1, 1.3, good)]
    rows += [("flat", 1, 4, "eeg/flat.npy"), ("before", 0, 2, "eeg/flat.npy")]
    rows += [("four", 0, 2, "eeg/four.npy"), ("gone", 0, 2, "eeg/gone.npy"), ("none", 0, 2, "")]
    path = table(*rows, video=SOUND)
    assert extract.main([f"clips={path}", f"output={out}", *ALONE]) == 0
    assert rejects(out) == {
        "short": ("eeg", "eeg_too_short"),
        "flat": ("eeg", "eeg_flat"),
        "four": ("eeg", "eeg_channels"),
        "gone": ("eeg", "missing_eeg"),
        "none": ("eeg", "no_eeg"),
    }
    found = {sample.id: sample for tar in list_shards(out) for sample in read_shard(tar)}
    assert {name: len(sample.streams["eeg"]) for name, sample in found.items()} == {
        "a": 4,
        "b": 3,
        "whole": 10,
        "before": 2,
    }
    assert found["b"].meta["end"] == 7.5 and found["whole"].meta["end"] is None
    assert found["a"].meta["columns"]["eeg"] == "good.npy"
    spec = load_passport(out)["eeg"]
    assert spec.width == 10 and spec.preprocessing.endswith("microvolts-Fz,Pz")


def test_the_doctor_opens_no_video_where_none_is_wanted(tmp_path, table, capsys):
    path = table(("a", 0, 4, "eeg/good.npy"), video="t.csv")  # it is there, and is no video
    assert doctor.main([f"clips={path}", f"output={tmp_path / 'out'}", *ALONE]) == 0
    assert "none of 1 clips will be rejected" in capsys.readouterr().out


def test_where_it_is_not_required_its_absence_is_noted(tmp_path, table):
    path = table(("a", 0, 2, "eeg/good.npy"), ("four", 0, 2, "eeg/four.npy"), video=SOUND)
    words = ["streams={face: false, speech: false, fbank: {}, eeg: {channels: [Fz, Pz]}}"]
    words += ["require=[fbank]", "speaker=none", "workers=1", "device=cpu"]
    assert extract.main([f"clips={path}", f"output={tmp_path / 'out'}", *words]) == 0
    a, four = (sample for tar in list_shards(tmp_path / "out") for sample in read_shard(tar))
    assert set(a.streams) == {"fbank", "eeg"} and "notes" not in a.meta
    assert set(four.streams) == {"fbank"}
    (note,) = four.meta["notes"]
    assert note.startswith("no eeg, eeg_channels: four.npy is [4, 2000], expected [2, samples]")


def test_it_is_added_to_a_finished_extraction(tmp_path, table, capsys):
    rows = [("a", 0, 2, "eeg/good.npy"), ("gone", 0, 2, "eeg/gone.npy")]
    path, out = table(*rows, video=SOUND), tmp_path / "out"
    words = ["streams={face: false, speech: false, fbank: {}}", "require=[fbank]", "speaker=none"]
    assert extract.main([f"clips={path}", f"output={out}", *words, "workers=1", "device=cpu"]) == 0
    add = ["add=[eeg]", f"output={out}", "workers=1", "device=cpu"]
    assert extract.main(add) == 2
    assert "channels is []; expected names of electrodes" in capsys.readouterr().err
    assert extract.main([*add, "streams.eeg.channels=[Fz, Pz]"]) == 0
    assert "eeg: samples 1 + rejects 1" in capsys.readouterr().out
    (reject,) = read_manifest(out / "000000.eeg.json").rejects
    assert reject["reason"] == "missing_eeg"
    one, _ = read_shard(list_shards(out)[0], streams=["eeg"])
    assert len(one.streams["eeg"]) == 2


def test_files_of_another_rate_are_rejects(tmp_path, table):
    path, out = table(("a", 0, 2, "eeg/good.npy"), video=SOUND, rate=128), tmp_path / "out"
    extract.main([f"clips={path}", f"output={out}", *ALONE])
    assert rejects(out) == {"a": ("eeg", "eeg_rate")}
    told = json.loads((out / "summary.json").read_text())
    assert told["reasons"] == {"eeg_rate": 1}
