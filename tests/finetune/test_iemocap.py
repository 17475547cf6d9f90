"""IEMOCAP from its tree to a table of results, by the commands that a user gives."""

from pathlib import Path

import pytest
from iemocap_videos import Person, write_dialogue
from release_trees import iemocap_dialogue

from data_pipeline import extract
from data_pipeline.corpora.__main__ import main as corpora
from finetune.run import main
from finetune.runs.results import read_rows

SECONDS = 1.4
PARTS = {"neu": 0.2, "sad": 1.6}
"""Where in a clip of GRID, three seconds long, the utterance of each label begins."""


@pytest.fixture(scope="module")
def shards(shared_data: Path, tmp_path_factory) -> Path:
    """Five sessions of two people who say two things each, extracted."""
    home = tmp_path_factory.mktemp("iemocap")
    talkers = sorted((shared_data / "grid_multi/clips").glob("*.mpg"))
    talkers += sorted((shared_data / "grid_s1/clips").iterdir())[: 10 - len(talkers)]
    for session in range(5):
        name = f"Ses0{session + 1}F_impro01"
        turns = [(f"{who}00{n}", label) for n, label in enumerate(PARTS) for who in "FM"]
        people = {
            (who, label): Person(talkers[2 * session + k], start, SECONDS)
            for k, who in enumerate("FM")
            for label, start in PARTS.items()
        }
        iemocap_dialogue(home / "tree", name, turns, seconds=SECONDS)
        said = home / f"tree/Session{session + 1}/dialog/transcriptions/{name}.txt"
        text = said.read_text().replace("Words of M", "I am not M").replace("Words", "The jacket")
        said.write_text(text)  # of the few words that the toy BERT knows
        write_dialogue(
            home / f"tree/Session{session + 1}/dialog/avi/DivX/{name}.avi",
            [(people["F", la], people["M", la], people[turn[0], la]) for turn, la in turns],
        )
    assert corpora(["iemocap", str(home / "tree"), "--output", str(home / "clips.csv")]) == 0
    words = [f"clips={home}/clips.csv", f"output={home}/shards", "device=cpu", "workers=2"]
    assert extract.main([*words, "speaker=any_face"]) == 0
    return home / "shards"


@pytest.mark.slow
@pytest.mark.distributed
def test_prompt_foal_net_and_m3er_run_the_ten_folds_on_what_was_extracted(tmp_path, shards, bert):
    plan = "plan: {num_steps: 2}"
    words = [f"data.shards=[{shards}]", f"output={tmp_path}/out", "data.protocol=iemocap-speaker10"]
    words += ["model.checkpoint=null", f"model.bert={bert}", "seeds=[1]"]
    words += ["data.labels={neutral: [neu], sad: [sad]}", "settings=[prompt, foal_net, m3er]"]
    words += [
        f"own_settings.prompt={{weights: bert, head: prompt, {plan}}}",
        f"own_settings.foal_net={{weights: features, head: foal_net, {plan}, "
        "options: {num_heads: 2}}",
        f"own_settings.m3er={{weights: features, head: m3er, {plan}, options: {{dimensions: 3}}}}",
    ]
    assert main([*words, "eval_every_steps=1", "num_resamples=10", "save_recognizers=false"]) == 0
    rows = read_rows(tmp_path / "out")
    assert [(row.head, row.fold) for row in rows] == [
        (head, fold) for head in ("foal_net", "m3er", "prompt") for fold in range(10)
    ]
    for row in rows:
        assert (row.corpus, row.protocol) == ("iemocap", "iemocap-speaker10 v1")
        assert (row.num_train, row.num_dev, row.num_test) == (16, 2, 2)
        assert not row.shared_speakers
    assert "10 folds x 1 seed" in (tmp_path / "out/table.md").read_text()
