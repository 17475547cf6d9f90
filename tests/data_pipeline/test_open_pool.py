"""The open pool of the real files: what may cross the splits, what a clip has, what is heard."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.corpora import open_pool
from data_pipeline.corpora._ferplus import read_split
from data_pipeline.recipes.compose import Composer, disturbed
from data_pipeline.schema import Clip

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def rows(shared_data) -> list[dict[str, str]]:
    rejects: list = []
    rows = open_pool.clips(shared_data, rejects.append)
    assert {r.reason for r in rejects} == {"repeated_images"}, "three lines, one a split"
    assert "133 of its 1548 images" in {r.clip: r.detail for r in rejects}["ferplus_test.npz"]
    return rows


def items(rows: list[dict[str, str]], split: str, pixels: dict[str, np.ndarray]) -> dict[str, set]:
    """The source items of a split, by kind: of images the pixels, of sentences the words."""
    mine = [row for row in rows if row["split"] == split]
    drawn = {(r["images"].split()[0], int(n)) for r in mine for n in r["images"].split()[1:]}
    heard = [row for row in mine if row["sound"] != "none"]
    return {
        "speaker": {row["speaker"] for row in heard if row["corpus"] == "open_pool"},
        "sound": {row["video"] for row in heard},
        "sentence": {open_pool.letters_of(row["text"]) for row in mine} - {""},
        "image": {pixels[name][row].tobytes() for name, row in drawn},
    }


def test_no_source_item_crosses_the_splits(rows, shared_data):
    names = ("train", "valid", "test")
    pixels = {name: read_split(shared_data / "ferplus", name).images_NHW for name in names}
    of = {split: items(rows, split, pixels) for split in ("pool", *SPLITS)}
    for kind in of["train"]:
        for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
            assert not of[a][kind] & of[b][kind], f"{kind} of {a} and {b}"
        for other in ("dev", "test"):
            assert not of["pool"][kind] & of[other][kind], f"{kind} of pool and {other}"


def test_what_is_held_out_is_in_test_alone(rows):
    speakers = {
        split: {r["speaker"] for r in rows if r["split"] == split and r["corpus"] == "open_pool"}
        for split in ("pool", *SPLITS)
    }
    held_out = {f"ravdess-{n}" for n in range(19, 23)} | {"emodb-14", "emodb-15"}
    assert speakers["test"] == held_out
    assert not (speakers["pool"] | speakers["train"] | speakers["dev"]) & held_out
    everyone = set().union(*speakers.values())
    assert "ravdess-01" not in everyone, "he speaks in the video that is shown"
    assert not any("cremad" in row["video"] or "ravdess_video" in row["video"] for row in rows)


def test_every_clip_shows_its_label_and_has_what_is_said_of_it(rows):
    shown = {"voice": "sound", "face": "images", "text": "text"}
    for row in rows:
        assert (row["label"] == "") == (row["split"] == "pool")
        if row["corpus"] != "open_pool":
            has = [row["sound"] != "none", bool(row["images"]), bool(row["text"])]
            assert sum(has) == 1
            continue
        there = [c for c, column in shown.items() if row[column] not in ("", "none")]
        assert len(there) >= (2 if row["split"] in ("pool", "train") else 3)
        if row["label"]:
            emotions = {row[f"{channel}_emotion"] for channel in there}
            assert row["label"] in emotions <= {row["label"], "neutral"}
    composed = [r for r in rows if r["corpus"] == "open_pool" and r["split"] != "pool"]
    for split in SPLITS:
        counts = Counter(row["label"] for row in composed if row["split"] == split)
        assert set(counts) == set(open_pool.CLASSES) and len(set(counts.values())) == 1


def test_voices_are_disturbed_to_learn_from_alone(rows):
    for split in ("dev", "test"):
        assert {row["sound"] for row in rows if row["split"] == split} == {"clean", "none"}
    assert {r["sound"] for r in rows if r["split"] == "train"} == {"none", *open_pool.SOUNDS}


def test_the_same_seed_gives_the_same_table(rows, shared_data: Path):
    assert open_pool.clips(shared_data, lambda _: None) == rows


def test_a_disturbed_sound_is_another_one_of_nearly_its_length_and_level():
    sound_T = np.sin(np.arange(32_000) * 0.05).astype(np.float32)
    for seed in range(8):
        heard_T = disturbed(sound_T, np.random.default_rng(seed))
        assert heard_T.dtype == np.float32
        assert 0.87 < len(heard_T) / len(sound_T) < 1.15
        level = 20 * np.log10(heard_T.std() / sound_T.std())
        assert abs(level) < 3.5
        again_T = disturbed(sound_T, np.random.default_rng(seed))
        np.testing.assert_array_equal(heard_T, again_T)


def test_a_clip_has_what_its_row_has_and_a_disturbed_voice_is_moved(shared_data):
    composer = Composer(shared_data / "ferplus")
    folder = shared_data / "ravdess_audio/opus/Actor_02"
    first, other = sorted(folder.glob("*.opus"))[:2]
    silent = composer.sample(Clip(id="a", video=str(first), text="Hello."), "", "none")
    assert not silent.streams and silent.words == ["Hello."]
    clean = [composer.sample(Clip(id="b", video=str(path)), "") for path in (first, other)]
    heard = composer.sample(Clip(id="c", video=str(first)), "", "1")
    assert heard.streams.keys() == {"speech"}
    heard.check(composer.passport)
    assert len(heard.streams["speech"]) != len(clean[0].streams["speech"])
    means = [c.streams["speech"].values_ND.astype(np.float32).mean(0) for c in (*clean, heard)]
    assert np.abs(means[2] - means[0]).max() > 0.05
    again = composer.sample(Clip(id="d", video=str(first)), "")
    assert again.streams["speech"] is clean[0].streams["speech"], "each sound is encoded once"
