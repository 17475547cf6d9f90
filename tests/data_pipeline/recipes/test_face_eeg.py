"""The made set of faces and EEG: whose pictures are whose, and what the made signals hold."""

import csv
from collections import Counter

import numpy as np
import pytest

from data_pipeline.features.eeg import BANDS, Settings, differential_entropy, load
from data_pipeline.features.extractors import Evidence
from data_pipeline.recipes import face_eeg
from data_pipeline.table.clips import load_clips


@pytest.fixture(scope="module")
def people(shared_data):
    return face_eeg.clips_of(shared_data)


def test_people_share_no_picture_and_have_as_many_clips_of_each_class(people):
    owner: dict[str, str] = {}
    for person, rows in people.items():
        assert Counter(row["label"] for row in rows) == dict.fromkeys(face_eeg.CLASSES, 4)
        for row in rows:
            split, *images = row["images"].split()
            assert face_eeg.FRAMES[0] <= len(images) <= face_eeg.FRAMES[1]
            assert len(set(images)) <= face_eeg.IMAGES[1]
            assert row["face_emotion"] in (row["label"], "neutral")
            for image in images:
                assert owner.setdefault(f"{split} {image}", person) == person
    assert len(people) == 15


def test_its_clips_follow_on_each_other_in_the_recording_of_their_person(people):
    for person, rows in people.items():
        assert {(row["speaker"], row["eeg"]) for row in rows} == {(person, f"eeg/{person}.edf")}
        assert [float(row["start"]) for row in rows] == [4.0 * n for n in range(16)]
        assert all(float(row["end"]) - float(row["start"]) == 4.0 for row in rows)


def test_made_noise_has_the_power_that_was_asked_for_in_each_band():
    """Through the very filters of the stream; at the edges of abutting bands some leaks over."""
    rng = np.random.default_rng(0)
    power_CB = np.exp(rng.normal(3, 0.7, size=(3, len(BANDS))))
    signal_CT = face_eeg.noise(power_CB, 120 * face_eeg.RATE, rng)
    (found_D,) = differential_entropy(signal_CT, face_eeg.RATE, signal_CT.shape[1])
    asked_CB = 0.5 * np.log(2 * np.pi * np.e * power_CB)
    assert found_D.reshape(power_CB.shape) == pytest.approx(asked_CB, abs=0.25)


def test_an_emotion_adds_its_effect_and_a_person_is_the_same_again():
    labels = [label for label in face_eeg.EFFECTS for _ in range(500)]
    power_NCB = face_eeg.powers(labels, "person01")
    assert np.array_equal(power_NCB, face_eeg.powers(labels, "person01"))
    assert not np.array_equal(power_NCB, face_eeg.powers(labels, "person02"))
    mean_ECB = np.log(power_NCB).reshape(4, 500, *power_NCB.shape[1:]).mean(1)
    effects = list(face_eeg.EFFECTS.values())
    for a, b in ((0, 1), (2, 3)):
        expected_CB = np.zeros(power_NCB.shape[1:])
        for sign, effect in ((1, effects[a]), (-1, effects[b])):
            for band, channels in effect.items():
                at_C = [face_eeg.CHANNELS.index(name) for name in channels]
                expected_CB[at_C, list(BANDS).index(band)] += sign * face_eeg.EFFECT
        assert mean_ECB[a] - mean_ECB[b] == pytest.approx(expected_CB, abs=0.12)


def test_a_recording_holds_what_was_made(tmp_path):
    """By way of EDF, the table and the stream."""
    pytest.importorskip("mne", reason="MNE is not installed: pip install -e .[eeg]")
    path, labels = tmp_path / "eeg/person03.edf", ["sad", "happy"]
    face_eeg.write_recording(path, labels)
    first = path.read_bytes()
    face_eeg.write_recording(path, labels)
    assert path.read_bytes() == first
    (tmp_path / "clips.csv").write_text(
        "video,eeg,start,end,label\nv,eeg/person03.edf,0,4,sad\nv,eeg/person03.edf,4,8,happy\n"
    )
    extractor = load(Settings(channels=face_eeg.CHANNELS), "cpu")
    clips = load_clips(tmp_path / "clips.csv", [])
    for clip, power_CB in zip(clips, face_eeg.powers(labels, "person03"), strict=True):
        values_ND = extractor(Evidence(clip=clip))["eeg"].values_ND
        asked_D = 0.5 * np.log(2 * np.pi * np.e * power_CB).reshape(-1)
        assert values_ND.shape == (4, 80)
        assert np.corrcoef(values_ND.mean(0), asked_D)[0, 1] > 0.95


def test_the_command_writes_the_table_and_a_recording_for_each_person(
    tmp_path, shared_data, capsys
):
    pytest.importorskip("mne", reason="MNE is not installed: pip install -e .[eeg]")
    assert face_eeg.main([str(shared_data), "--output", str(tmp_path / "set")]) == 0
    assert "240 clips of 15 people" in capsys.readouterr().out
    with open(tmp_path / "set/clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 240 and all((tmp_path / "set" / row["eeg"]).is_file() for row in rows)
    assert face_eeg.main([str(tmp_path), "--output", str(tmp_path / "other")]) == 2
    assert "no " in capsys.readouterr().err and not (tmp_path / "other").exists()
