"""EmoDB, on trees of its layout."""

import pytest
from release_trees import (
    read,
    touch,
)

from data_pipeline.corpora import emodb


def test_emodb_names_tell_everything():
    row = emodb.describe("03a01Fa")
    assert row["text"] == "Der Lappen liegt auf dem Eisschrank."
    assert (row["speaker"], row["recording"], row["label"]) == ("03", "03", "happiness")
    for name, what in (
        ("04a01Fa", "speaker 04"),
        ("03a03Fa", "sentence a03"),
        ("03a01Xa", "emoti"),
    ):
        with pytest.raises(ValueError, match=f"no {what}"):
            emodb.describe(name)


def test_emodb_loses_nothing(tmp_path, caplog):
    touch(tmp_path, *(f"wav/{speaker}a01Wa.wav" for speaker in emodb.SPEAKERS[:9]))
    touch(tmp_path, "wav/._03a01Wa.wav", "wav/03a01Wa.opus", "wav/hello.wav")
    rows, rejects = read(emodb, tmp_path)
    assert len(rows) == 9 and not caplog.text
    assert rejects == [("wav/03a01Wa.wav", "duplicate_id"), ("wav/hello.wav", "bad_name")]
    touch(tmp_path, "wav/16a01Wa.wav")
    read(emodb, tmp_path)
    told = "EmoDB: other counts than in the release: anger 10 (published: 127), boredom 0"
    assert told in caplog.text
