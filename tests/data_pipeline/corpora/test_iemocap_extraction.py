"""IEMOCAP from its tree to features: of two people in one picture each speaker's half is taken."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from iemocap_videos import BOTTOM, HEIGHT, SECONDS, TOP, WIDTH, Person, write_dialogue
from PIL import Image
from release_trees import iemocap_dialogue

from data_pipeline import extract
from data_pipeline.corpora.__main__ import main
from data_pipeline.report import data_report
from data_pipeline.shards import list_shards, read_shard

PEOPLE = {"F": "brbk7n.mpg", "M": "bbaf2n.mpg"}
DIALOGUES = ("Ses01F_impro01", "Ses01M_impro01")


@pytest.fixture(scope="module")
def people(shared_data: Path) -> dict[str, Person]:
    return {letter: Person(shared_data / "grid_multi/clips" / p) for letter, p in PEOPLE.items()}


@pytest.fixture(scope="module")
def extracted(people, tmp_path_factory) -> Path:
    """The folder that extraction made of the release at TREE/: two dialogues of two turns."""
    home = tmp_path_factory.mktemp("iemocap")
    turns = [("F000", "neu"), ("M000", "hap")]
    for name in DIALOGUES:
        iemocap_dialogue(home / "tree", name, turns, seconds=SECONDS)
        mate = {"F": "M", "M": "F"}[name[5]]
        write_dialogue(
            home / f"tree/Session1/dialog/avi/DivX/{name}.avi",
            [(people[name[5]], people[mate], people[turn[0]]) for turn, _ in turns],
        )
    assert main(["iemocap", str(home / "tree"), "--output", str(home / "clips.csv")]) == 0
    words = [f"clips={home}/clips.csv", f"output={home}/shards", "device=cpu", "workers=1"]
    assert extract.main([*words, "previews=4"]) == 0
    return home / "shards"


@pytest.mark.slow
@pytest.mark.distributed
def test_each_speaker_is_seen_in_his_own_half(extracted, people):
    samples = [sample for tar in list_shards(extracted) for sample in read_shard(tar)]
    assert {s.id: (s.meta["region"], s.meta["speaker"], s.meta["recording"]) for s in samples} == {
        f"{name}_{letter}000": (
            "left" if letter == name[5] else "right",
            f"Ses01{letter}",
            "Ses01",
        )
        for name in DIALOGUES
        for letter in "FM"
    }
    for sample in samples:
        letter = sample.id[-4]
        about = json.loads((extracted / f"previews/{sample.id}.json").read_text())
        assert about["outcome"] == "sample" and len(about["tracks"]) == 1
        for n, kept in enumerate(about["frames"]):
            shown = Image.open(extracted / f"previews/{sample.id}-{n}.jpg")
            assert shown.size == (WIDTH // 4, HEIGHT // 2)
            away = {who: distance(shown, people[who].half(kept["index"])) for who in people}
            other = next(who for who in people if who != letter)
            assert away[letter] < 6 and away[other] > 3 * away[letter]
        for x0, y0, x1, y1 in about["tracks"][0]["boxes"].values():
            assert 0 <= x0 < x1 <= WIDTH // 4 and TOP // 2 <= (y0 + y1) / 2 <= BOTTOM // 2
        assert len(sample.streams["face"]) == pytest.approx(10 * SECONDS, abs=3)


@pytest.mark.slow
@pytest.mark.distributed
def test_one_person_has_the_same_face_in_either_half(extracted):
    """His features where he is left are those where he is right, and not his mate's."""
    face = {
        sample.id: sample.streams["face"].values_ND.astype(np.float32).mean(axis=0)
        for tar in list_shards(extracted)
        for sample in read_shard(tar)
    }
    for letter, other in ("FM", "MF"):
        own = np.linalg.norm(
            face[f"Ses01F_impro01_{letter}000"] - face[f"Ses01M_impro01_{letter}000"]
        )
        mate = np.linalg.norm(
            face[f"Ses01F_impro01_{letter}000"] - face[f"Ses01M_impro01_{other}000"]
        )
        assert own < mate / 5


@pytest.mark.slow
@pytest.mark.distributed
def test_the_report_shows_the_half(extracted):
    captions = {preview.title: preview.caption for preview in data_report(extracted).previews}
    assert "region left" in captions["Ses01F_impro01_F000"]
    assert "region right" in captions["Ses01F_impro01_M000"]
    with open(extracted / "clips.csv", newline="") as file:
        assert [row["region"] for row in csv.DictReader(file)] == ["left", "right", "right", "left"]


def distance(shown: Image.Image, picture: np.ndarray) -> float:
    small = Image.fromarray(picture).resize(shown.size, Image.Resampling.BILINEAR)
    return float(np.abs(np.asarray(shown, np.float32) - np.asarray(small, np.float32)).mean())
