"""The composed benchmark, on a small tree of the three corpora that the test builds."""

import csv
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from data_pipeline.corpora import composed
from data_pipeline.corpora.__main__ import main as corpora
from data_pipeline.corpora._ferplus import read_split
from data_pipeline.recipes.compose import main as compose
from data_pipeline.schema import EXPRESSIONS
from data_pipeline.shards import list_shards, load_passport, read_shard

SPOKEN = ("angry", "happy", "neutral", "calm", "sad", "fearful")
IMAGES_OF_A_CLASS = 96


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("open_data")
    _ravdess(root / "ravdess_audio")
    _ferplus(root / "ferplus")
    _meld(root / "text" / "meld")
    return root


def _ravdess(folder: Path) -> None:
    folder.mkdir()
    rows = []
    for actor in range(1, 23):
        for number, emotion in enumerate(SPOKEN):
            file = f"{actor:02d}-{emotion}.wav"
            tone = np.sin(np.arange(8_000) * (0.02 + 0.01 * number))
            soundfile.write(folder / file, 0.1 * tone, 16_000)
            rows.append({"file": file, "actor": actor, "emotion": emotion})
    _write(folder / "metadata.csv", rows)


def _ferplus(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        pngs, votes = [], []
        for number in range(IMAGES_OF_A_CLASS * len(EXPRESSIONS)):
            png = io.BytesIO()
            # Every third image is in all splits, and once more in its own.
            own = rng if number % 3 else np.random.default_rng(number // 6)
            picture = own.integers(0, 256, (48, 48), dtype=np.uint8)
            Image.fromarray(picture).save(png, format="PNG")
            pngs.append(png.getvalue())
            votes.append(np.zeros(10, np.uint8))
            votes[-1][number // IMAGES_OF_A_CLASS] = 9
        np.savez(
            folder / f"ferplus_{split}.npz",
            blob=np.frombuffer(b"".join(pngs), np.uint8),
            offsets=np.cumsum([0, *map(len, pngs)]),
            votes=np.stack(votes),
            columns=np.array([*EXPRESSIONS, "unknown", "NF"]),
        )


def _meld(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        mark = {"train": "!", "dev": "?!", "test": "\u2026"}[split]
        rows = [{"Utterance": f"The very same words everywhere{mark}", "Emotion": "joy"}]
        for emotion in ("anger", "joy", "neutral", "sadness", "fear"):
            rows.append({"Utterance": "Short", "Emotion": emotion})
            rows += [
                {"Utterance": f"a {split} sentence, {emotion} {i}", "Emotion": emotion}
                for i in range(5)
            ]
        _write(folder / f"{split}_sent_emo.csv", rows)


def _write(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def rows(tree) -> list[dict[str, str]]:
    rejects: list = []
    rows = composed.clips(tree, rejects.append)
    assert not rejects
    return rows


def items(rows: list[dict[str, str]], split: str, ferplus: Path) -> dict[str, set]:
    """The source items of a split, by kind: of images the pixels, of sentences the words."""
    pixels = {name: read_split(ferplus, name).images_NHW for name in ("train", "valid", "test")}
    mine = [row for row in rows if row["split"] == split]
    images = [row["images"].split() for row in mine]
    return {
        "actor": {row["speaker"] for row in mine},
        "sound": {row["video"] for row in mine},
        "sentence": {re.sub(r"[^a-z0-9 ]", "", row["text"].lower()) for row in mine},
        "image": {pixels[name][int(row)].tobytes() for name, *drawn in images for row in drawn},
    }


def test_no_source_item_crosses_the_splits(rows, tree):
    """Though the files repeat images and sentences."""
    no_crossing(rows, tree)


def test_no_source_item_of_the_real_files_crosses_the_splits(shared_data):
    rows = composed.clips(shared_data, pytest.fail)
    assert Counter(row["split"] for row in rows) == {
        "pool": 14 * 256,
        "train": 14 * 128,
        "dev": 4 * 96,
        "test": 4 * 128,
    }
    no_crossing(rows, shared_data)


def no_crossing(rows, tree) -> None:
    of_split = {s: items(rows, s, tree / "ferplus") for s in ("pool", "train", "dev", "test")}
    for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
        for kind in of_split[a]:
            assert not of_split[a][kind] & of_split[b][kind], f"{kind} of {a} and {b}"
    for other in ("train", "dev", "test"):
        assert not of_split["pool"]["image"] & of_split[other]["image"]


def test_what_a_clip_shows_is_its_label_or_neutral(rows):
    pool = [row for row in rows if row["split"] == "pool"]
    assert {row["label"] for row in pool} == {""}, "pretraining gets no label"
    labelled = [row for row in rows if row["split"] != "pool"]
    counts = Counter(row["label"] for row in labelled)
    assert len(set(counts.values())) == 1 and set(counts) == set(composed.CLASSES)
    for row in labelled:
        assert {row["voice_emotion"], row["face_emotion"]} <= {row["label"], "neutral"}
        spoken = Path(row["video"]).stem.partition("-")[2]
        assert spoken in composed.CLASSES[row["voice_emotion"]][0]
        shown = {EXPRESSIONS[int(i) // IMAGES_OF_A_CLASS] for i in row["images"].split()[1:]}
        assert shown == {composed.CLASSES[row["face_emotion"]][1]}
        assert f", {composed.CLASSES[row['label']][2]} " in row["text"]
        drawn = row["images"].split()[1:]
        assert len(set(drawn)) == len(drawn) and 8 <= len(drawn) <= 20
    felt = [row for row in labelled if row["label"] != "neutral"]
    shows = np.mean([row["voice_emotion"] != "neutral" for row in felt])
    assert shows == pytest.approx(composed.VOICE_SHOWS, abs=0.05)


def test_the_same_seed_gives_the_same_table(rows, tree):
    assert composed.clips(tree, pytest.fail) == rows


def test_shards_hold_the_features_of_the_drawn_items(tree, tmp_path, capsys):
    table = tmp_path / "composed.csv"
    assert corpora(["composed", str(tree), "--output", str(table)]) == 0
    with open(table, newline="", encoding="utf-8") as file:
        few = [row for row in csv.DictReader(file) if row["id"].endswith("-000")]
    _write(table, few)
    output = tmp_path / "composed"
    command = [str(table), "--ferplus", str(tree / "ferplus"), "--output", str(output)]
    assert compose([*command, "--streams", "{fbank: {mel_bins: 20}, sentence: }"]) == 0
    assert "14 clips in " in capsys.readouterr().out
    samples = {
        sample.id: sample
        for folder in ("pool", "labelled")
        for tar in list_shards(output / folder)
        for sample in read_shard(tar)
    }
    assert list(samples) == [row["id"] for row in few]
    passport = load_passport(output / "labelled")
    for row in few:
        sample = samples[row["id"]]
        sample.check(passport)
        assert len(sample.streams["face"]) == len(row["images"].split()) - 1
        assert sample.streams["fbank"].values_ND.shape == (48, 20)  # 0.5 s, 25 ms every 10 ms
        (sentence_D,) = sample.streams["sentence"].values_ND
        assert np.linalg.norm(sentence_D.astype(float)) == pytest.approx(1, abs=1e-3)
        assert (sample.text, sample.meta["label"]) == (row["text"], row["label"] or None)


def test_a_sound_that_is_gone_is_a_reject(tree, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("ferplus", "text"):
        (copy / name).symlink_to(tree / name)
    (copy / "ravdess_audio").mkdir()
    for file in (tree / "ravdess_audio").iterdir():
        if file.name != "20-calm.wav":
            (copy / "ravdess_audio" / file.name).symlink_to(file)
    rejects: list = []
    composed.clips(copy, rejects.append)
    assert [(reject.clip, reject.reason) for reject in rejects] == [("20-calm.wav", "missing_file")]


def test_an_actor_without_a_class_is_one_message(tree, tmp_path, capsys):
    for name in ("ferplus", "text"):
        (tmp_path / name).symlink_to(tree / name)
    (tmp_path / "ravdess_audio").mkdir()
    for file in (tree / "ravdess_audio").iterdir():
        if file.name != "20-angry.wav":
            (tmp_path / "ravdess_audio" / file.name).symlink_to(file)
    assert corpora(["composed", str(tmp_path), "--output", str(tmp_path / "table.csv")]) == 2
    assert "actor20 has no sound of anger; expected" in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["ravdess_audio/metadata.csv", "text/meld/dev_sent_emo.csv"])
def test_a_folder_of_something_else_is_one_message(tree, tmp_path, gone, capsys):
    for name in ("ravdess_audio", "ferplus", "text"):
        if not gone.startswith(name):
            (tmp_path / name).symlink_to(tree / name)
    output = str(tmp_path / "table.csv")
    assert corpora(["composed", str(tmp_path), "--output", output]) == 2
    assert "expected a folder with ravdess_audio/metadata.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("fbank", "expected names with settings"),
        ("{fbank: {mel: 3}}", "mel"),
        ("{crops: {}}", "a composed clip has a sound and words to make streams of"),
        ("{nowhere: {}}", "cannot import data_pipeline.features.nowhere"),
        ("{a: ", "no YAML"),
    ],
)
def test_streams_that_cannot_be_made_are_one_message(tree, tmp_path, capsys, told, message):
    command = [str(tmp_path / "t.csv"), "--ferplus", str(tree / "ferplus")]
    assert compose([*command, "--output", str(tmp_path / "out"), "--streams", told]) == 2
    assert message in capsys.readouterr().err


def test_a_table_of_another_kind_is_one_message(tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("video,text\nclip.mp4,hello\n")
    (tmp_path / "clip.mp4").write_bytes(b"")
    assert compose([str(table), "--output", str(tmp_path / "out")]) == 2
    assert "data_pipeline.corpora composed" in capsys.readouterr().err
