"""Stage 1: speakers are told apart; a run that was stopped ends as one that never was."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune.systems.speech_resnet import speakers
from finetune.systems.speech_resnet.__main__ import main
from finetune.systems.speech_resnet.trunk import Trunk
from pretrain.checkpoint.folder import find_checkpoint

from .conftest import SPEC, make_voices

SMALL = ["shape.width=4", "shape.stem_stride=2", "embedding=16", "batch_size=12", "device=cpu"]
SMALL += ["learning_rate=1e-2", "warmup_steps=0"]


def pretrain(shards, output, *settings):
    words = ["pretrain", f"shards=[{shards}]", f"output={output}", *SMALL, *settings]
    return main(words)


@pytest.mark.parametrize("loss", ["additive_margin", "softmax"])
def test_speakers_are_told_apart(tmp_path, write_voices, loss):
    shards = write_voices(make_voices(num_speakers=4, per_speaker=15))
    out = tmp_path / "out"
    change = ["steps=100", "save_every_steps=50", f"loss={loss}", "held_out_share=0.2"]
    assert pretrain(shards, out, *change) == 0
    with open(out / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["50", "100"]
    assert float(rows[-1]["held_out_accuracy"]) > 0.5  # chance is 0.25
    assert rows[-1]["held_out_clips"] == "12"
    trunk = Trunk.load(out)
    assert trunk.speakers == ("toy/0", "toy/1", "toy/2", "toy/3")
    assert trunk.passport == {"fbank": SPEC}
    assert trunk.provenance["corpora"] == ["toy"]
    told = (trunk.folder / "README.md").read_text()
    assert "to tell 4 speakers by 48 clips" in told


def test_a_stopped_run_ends_with_the_weights_of_one_that_never_was(
    tmp_path, write_voices, monkeypatch, capsys
):
    shards = write_voices(make_voices(num_speakers=3, per_speaker=8))
    change = ["steps=9", "save_every_steps=3", "dropout=0.3"]
    assert pretrain(shards, tmp_path / "whole", *change) == 0
    save = speakers._save

    def stop(root, step, *rest):
        save(root, step, *rest)
        if step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(speakers, "_save", stop)
    assert pretrain(shards, tmp_path / "parts", *change) == 130
    monkeypatch.setattr(speakers, "_save", save)
    assert pretrain(shards, tmp_path / "parts", *change) == 0
    assert "goes on after step 6" in capsys.readouterr().out
    whole, parts = (
        load_file(find_checkpoint(tmp_path / name) / "model.safetensors")
        for name in ("whole", "parts")
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    for name in ("whole", "parts"):
        lines = (tmp_path / name / "metrics.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["step", "3", "6", "9"]
        kept = sorted(path.name for path in (tmp_path / name / "checkpoints").glob("step-*"))
        assert kept == ["step-000006", "step-000009"]


@pytest.mark.parametrize(
    ("voices", "settings", "message"),
    [
        (
            dict(num_speakers=1, per_speaker=9),
            [],
            "speakers to tell apart: toy/0; at least two are needed",
        ),
        (dict(num_speakers=3, per_speaker=2), [], "3 speakers have fewer than min_clips=4"),
        (
            dict(num_speakers=2, per_speaker=6),
            ["leave_out=[toy/1]"],
            "speakers to tell apart: toy/0; at least two are needed",
        ),
        (dict(num_speakers=2, per_speaker=6), ["leave_out=[toy/7]"], "leave_out names toy/7"),
        (dict(num_speakers=2, per_speaker=6), ["stream=wavlm"], "no stream wavlm; add it to them"),
        (dict(num_speakers=2, per_speaker=6), ["shape.widht=4"], "widht"),
    ],
)
def test_clips_that_cannot_teach_it_are_told(
    tmp_path, write_voices, capsys, voices, settings, message
):
    assert pretrain(write_voices(make_voices(**voices)), tmp_path / "out", *settings) == 2
    assert message in capsys.readouterr().err


def test_clips_without_speaker_or_stream_are_counted(tmp_path, write_voices, capsys):
    clips = make_voices(num_speakers=3, per_speaker=8)
    clips[0] = dataclasses.replace(clips[0], meta={**clips[0].meta, "speaker": None})
    clips[1] = dataclasses.replace(clips[1], text="no sound", words=["no", "sound"], streams={})
    assert pretrain(write_voices(clips), tmp_path / "out", "steps=2") == 0
    told = capsys.readouterr().out
    assert "1 clips name no speaker: left out" in told
    assert "1 clips lack fbank: left out" in told


def test_another_config_or_altered_weights_are_no_way_on(tmp_path, write_voices, capsys):
    shards, out = write_voices(make_voices(num_speakers=3, per_speaker=8)), tmp_path / "out"
    assert pretrain(shards, out, "steps=2") == 0
    assert pretrain(shards, out, "steps=2", "margin=0.5") == 2
    assert "margin: 0.2 is now margin: 0.5" in capsys.readouterr().err
    weights = find_checkpoint(out) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert pretrain(shards, out, "steps=2") == 2
    assert "model.safetensors was cut or altered" in capsys.readouterr().err


def test_a_word_that_is_no_command_is_told(capsys):
    for words, told in ((["train"], "invalid choice: 'train'"), ([], "required: command")):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2 and told in capsys.readouterr().err


def test_the_clips_that_it_read_are_kept(tmp_path, write_voices):
    clips = make_voices(num_speakers=3, per_speaker=8)
    shards = write_voices(clips)
    assert pretrain(shards, tmp_path / "out", "steps=1", "leave_out=[toy/2]") == 0
    seen = load_file(find_checkpoint(tmp_path / "out") / "clips.safetensors")
    # One of ten is held out: of eight clips of each speaker none.
    assert len(np.unique(seen["ids_N"].view(torch.int64).numpy())) == 14
