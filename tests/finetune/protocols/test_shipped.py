"""The fold files that ship: made by their rules, fit for the adapters' tables, known by name."""

import re

import pytest
from release_trees import iemocap_dialogue, msp_improv_turn, read

from data_pipeline.corpora import emodb, iemocap, meld, msp_improv, ravdess
from data_pipeline.schema import ClipSample
from finetune.clips.labelled import LabelledClip
from finetune.protocols import ProtocolError, load_protocol, split_clips
from finetune.protocols.__main__ import main
from finetune.protocols.shipped import FOLDER, shipped_names
from finetune.protocols.shipped.rules import RULES

DIGESTS = {
    "composed-actor": "f36fc6ff017d",
    "cremad-actor": "df26c9581995",
    "emodb-speaker10": "7d34de489a63",
    "iemocap-session5": "b70a5c6a5cd1",
    "iemocap-speaker10": "1e22f4b36a1d",
    "meld-official": "cacc3d0f68ac",
    "msp-improv-speaker12": "ac85209296ad",
    "open-pool": "02c0a17afef6",
    "ravdess-actor": "48cc06ffb5a1",
}
"""A result names them: other folds want another version, and so another digest here."""


def labelled(rows: list[dict[str, str]]) -> list[LabelledClip]:
    """Clips as extraction would hand them on, without streams."""
    names = ("corpus", "speaker", "recording", "label")
    classes = sorted({row["label"] for row in rows})
    return [
        LabelledClip(
            sample=ClipSample(
                id=row.get("id", f"clip{n}"),
                text="hi",
                words=["hi"],
                meta={name: row[name] for name in names},
            ),
            label=classes.index(row["label"]),
        )
        for n, row in enumerate(rows)
    ]


@pytest.mark.parametrize("name", RULES)
def test_each_file_is_what_its_rule_makes(name):
    made = RULES[name]()
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == made.to_json(), (
        'python -c "from finetune.protocols.shipped.rules import write_all; write_all()"'
    )
    assert load_protocol(name) == made and made.name == name
    assert made.sha256[:12] == DIGESTS[name], "other folds: raise the version of the protocol"


def test_all_rules_ship_and_are_listed_with_their_digests(capsys):
    assert shipped_names() == sorted(RULES) == sorted(DIGESTS)
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, digest in DIGESTS.items():
        (line,) = [line for line in lines if line.startswith(f"| {name} ")]
        assert f"| {digest} |" in line and f"| {len(RULES[name]().folds)} |" in line


def test_every_speaker_is_tested_once_where_folds_go_round():
    for name, number in (("iemocap-speaker10", 10), ("iemocap-session5", 10), ("cremad-actor", 91)):
        tested = [unit for fold in load_protocol(name).folds for unit in fold.test]
        assert len(tested) == len(set(tested)) == number
    for fold in load_protocol("iemocap-session5").folds:
        sessions = [{unit[:-1] for unit in units} for units in (fold.train, fold.dev, fold.test)]
        assert [len(s) for s in sessions] == [3, 1, 1] and len(set.union(*sessions)) == 5
    for fold in load_protocol("ravdess-actor").folds:
        assert {int(unit[-2:]) % 2 for unit in fold.test} == {0, 1}


@pytest.mark.parametrize("by", ["session", "dialogue"])
@pytest.mark.parametrize("name", ["iemocap-speaker10", "iemocap-session5"])
def test_the_folds_of_iemocap_pass_the_guard(tmp_path, name, by):
    """With the adapter's recordings, which are sessions, and were they dialogues."""
    for session in range(1, 6):
        for letter in "FM":
            turns = [
                (f"{who}00{n}", label) for who in "FM" for n, label in enumerate(("neu", "sad"))
            ]
            iemocap_dialogue(tmp_path, f"Ses0{session}{letter}_impro01", turns)
    rows, _ = read(iemocap, tmp_path)
    if by == "dialogue":
        rows = [row | {"recording": row["id"].rpartition("_")[0]} for row in rows]
    protocol = load_protocol(name)
    for fold in range(len(protocol.folds)):
        splits = split_clips(labelled(rows), protocol, fold)
        assert splits.notes == []
        assert len(splits.train) + len(splits.dev) + len(splits.test) == len(rows) == 40


def test_the_folds_of_msp_improv_pass_the_guard(tmp_path):
    for session in range(1, 7):
        for letter in "FM":
            for turn, code in enumerate("NS"):
                name = f"MSP-IMPROV-S01A-{letter}0{session}-S-FM0{turn}"
                msp_improv_turn(tmp_path, name, code)
    rows, _ = read(msp_improv, tmp_path)
    protocol = load_protocol("msp-improv-speaker12")
    for fold in range(12):
        splits = split_clips(labelled(rows), protocol, fold)
        assert splits.notes == [] and (len(splits.train), len(splits.test)) == (20, 2)


def test_the_split_of_meld_covers_the_release(shared_data, tmp_path):
    for split, folder in meld.FOLDERS.items():
        table = (shared_data / f"text/meld/{split}_sent_emo.csv").read_bytes()
        (tmp_path / f"{split}_sent_emo.csv").write_bytes(table)
        (tmp_path / folder).mkdir()
        for match in re.finditer(rb"(?m),(\d+),(\d+),\d+,\d+,", table):
            dialogue, utterance = (int(number) for number in match.groups())
            (tmp_path / folder / f"dia{dialogue}_utt{utterance}.mp4").touch()
    rows, rejects = read(meld, tmp_path)
    splits = split_clips(labelled(rows), load_protocol("meld-official"), 0)
    assert rejects == []
    assert [len(splits.train), len(splits.dev), len(splits.test)] == [9989, 1109, 2610]
    (note,) = splits.notes
    assert note.startswith("speakers in two splits") and "mechanics, not accuracy" in note


@pytest.mark.parametrize(
    ("adapter", "folder", "name", "missing"),
    [
        (ravdess, "ravdess_audio", "ravdess-actor", set()),
        (emodb, "emodb", "emodb-speaker10", {8, 9}),  # dev and test are speaker 16
    ],
)
def test_the_real_files_fit_the_folds(shared_data, adapter, folder, name, missing):
    rows, _ = read(adapter, shared_data / folder)
    clips, protocol = labelled(rows), load_protocol(name)
    for fold in set(range(len(protocol.folds))) - missing:
        splits = split_clips(clips, protocol, fold)
        assert len(splits.train) + len(splits.dev) + len(splits.test) == len(rows)
        known = "listed have clips here|(test|dev) has no clip of"
        assert all(re.search(known, note) for note in splits.notes), splits.notes


@pytest.mark.parametrize(
    "given", ["iemocap-speker10", "iemocap-speker10.json", "runs/IEMOCAP-speaker10"]
)
def test_a_wrong_name_names_the_nearest_that_ships(given):
    with pytest.raises(ProtocolError, match="nearest that ships is iemocap-speaker10 of composed"):
        load_protocol(given)


def test_a_shipped_name_is_no_file_of_the_folder(tmp_path, monkeypatch):
    """A file of that name is told by its path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iemocap-speaker10").write_text("{}")
    assert load_protocol("iemocap-speaker10").name == "iemocap-speaker10"
    with pytest.raises(ProtocolError, match="is no protocol"):
        load_protocol("./iemocap-speaker10")
