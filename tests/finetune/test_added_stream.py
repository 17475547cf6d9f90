"""A stream that was added to finished shards is one more modality of finetuning, by its name."""

import dataclasses

import numpy as np
import toys

from finetune.recognizer import load_recognizer
from finetune.run import main
from finetune.runs.results import read_rows

from .conftest import make_clips

SPEC = dataclasses.replace(
    toys.passport()["speech"], name="toy_fbank", weights_sha256="", rate_hz=50.0, width=5
)


def add_fbank(folder, clips):
    """Of every clip but the first, beside its shard."""
    rng = np.random.default_rng(0)

    def values_of(clip) -> np.ndarray | None:
        return None if clip.id == clips[0].id else rng.standard_normal((9, 5)).astype(np.float16)

    toys.add_stream(folder, SPEC, values_of)


def test_an_added_stream_is_read_judged_and_recognized(tmp_path, write_shards, bert):
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    shards = write_shards(clips)
    add_fbank(shards, clips)
    arguments = [
        *(f"data.shards=[{shards}]", "model.checkpoint=null", f"model.bert={bert}", "folds=[0]"),
        *("settings=[bert_direct]", "data.modalities=[text, fbank]", *toys.FAST),
        *("plans.bert_direct.num_steps=4", f"output={tmp_path / 'out'}"),
    ]
    assert main(arguments) == 0
    (row,) = read_rows(tmp_path / "out")
    assert row.modalities == "text+fbank"
    (folder,) = tmp_path.glob("out/runs/*/*/recognizer")
    recognizer = load_recognizer(folder)
    assert {"fbank", "face", "speech"} == recognizer.passport.keys()
    samples = list(recognizer.read(shards))
    assert [sample.has("fbank") for sample in samples] == [False] + [True] * 23
    bare = [sample.only(("text",)) for sample in samples]
    both_NC, text_NC = recognizer.predict(samples), recognizer.predict(bare)
    differs = np.abs(both_NC - text_NC).max(1) > 1e-6
    assert not differs[0] and differs[1:].all()
