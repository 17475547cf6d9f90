"""A head that the package has never heard of: registered here, prepared, trained, saved, loaded."""

import csv
import itertools
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys

from data_pipeline.config import Positive
from finetune.heads import Head, HeadOutput, head_named, register
from finetune.recognizer import load_recognizer
from finetune.run import main
from finetune.runs.results import read_rows

from .conftest import make_clips

PREPARED = []


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    small: Positive = 1.0


@register("toy_contrast")
class ToyContrast(Head):
    """Weighted cross-entropy of the mean speech state, and a contrastive loss over the batch."""

    Settings = ToySettings

    def __init__(self, width, num_classes, small):
        super().__init__()
        self.small = small
        self.score = torch.nn.Linear(width, num_classes)
        self.register_buffer("weight_C", torch.ones(num_classes))

    @classmethod
    def build(cls, parts):
        return cls(parts.width, len(parts.classes), parts.settings.small)

    def prepare(self, train):
        counts = np.bincount([clip.label for clip in train.clips], minlength=len(self.weight_C))
        self.weight_C = torch.tensor(len(train.clips) / counts.clip(1), dtype=torch.float32)
        PREPARED.append(len(train.clips))

    def forward(self, encoded, batch, label_N):
        real_NS1 = batch.frames["speech"].real_NF[..., None]
        speech_NH = (encoded["speech"] * real_NS1).sum(1) / real_NS1.sum(1).clamp(min=1)
        scores_NC = self.score(speech_NH).float()
        loss = F.cross_entropy(scores_NC, label_N, self.weight_C, reduction="sum")
        return HeadOutput(
            scores_NC=scores_NC,
            losses={"weighted": loss, "small": self.small * scores_NC.square().sum()},
            shared={"speech_NH": F.normalize(speech_NH)},
        )

    def batch_losses(self, shared, label_B, mine):
        alike_NB = shared["speech_NH"][mine] @ shared["speech_NH"].T
        same_NB = (label_B[mine, None] == label_B).float()
        loss = F.binary_cross_entropy_with_logits(alike_NB, same_NB, reduction="sum")
        return {"contrast": loss / len(label_B)}


def test_a_head_from_outside_is_prepared_trained_saved_and_loaded(
    tmp_path, write_shards, checkpoint
):
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    PREPARED.clear()
    plan = "{num_steps: 16, learning_rate: 1e-2, sampler: balanced}"
    arguments = [
        *(f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", "folds=[0]", *toys.FAST),
        f"own_settings.mine={{weights: checkpoint, head: toy_contrast, plan: {plan}, "
        "options: {small: 0.5}}",
        *("settings=[mine]", f"output={tmp_path / 'out'}"),
    ]
    assert main(arguments) == 0
    (row,) = read_rows(tmp_path / "out")
    assert (row.setting, row.head, PREPARED) == ("mine", "toy_contrast", [8])
    (folder,) = tmp_path.glob("out/runs/mine/*")
    with open(folder / "curve.csv") as file:
        first, last = itertools.islice(csv.DictReader(file), 2)
    names = ("train_weighted", "train_small", "train_contrast")
    assert float(first["train_loss"]) == pytest.approx(sum(float(first[name]) for name in names))
    assert float(last["train_weighted"]) < float(first["train_weighted"])
    assert json.loads((folder / "recognizer/recognizer.json").read_text())["options"] == {
        "small": 0.5
    }
    recognizer = load_recognizer(folder / "recognizer")
    samples = {sample.id: sample for sample in recognizer.read(shards)}
    with open(folder / "predictions.csv") as file:
        for line in csv.DictReader(file):
            (found_C,) = recognizer.predict([samples[line["clip"]]])
            expected = [float(line[f"p_{name}"]) for name in recognizer.classes]
            assert found_C.tolist() == pytest.approx(expected, abs=1e-6)


def test_weights_head_and_plan_are_free(tmp_path, write_shards, checkpoint, bert):
    """The prompt on BERT's own weights, which has no name of its own."""
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    arguments = [
        *(f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", f"model.bert={bert}"),
        *("folds=[0]", *toys.FAST, f"output={tmp_path / 'out'}", "settings=[bert_prompt, direct]"),
        "own_settings.bert_prompt={weights: bert, head: prompt, plan: {num_steps: 4}}",
    ]
    assert main(arguments) == 0
    rows = {row.setting: row for row in read_rows(tmp_path / "out")}
    assert (rows["bert_prompt"].head, rows["bert_prompt"].checkpoint_sha256) == ("prompt", "")
    assert rows["direct"].head == "linear"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("own_settings.mine={head: nowhere}", "setting mine: no head 'nowhere'; expected the name"),
        ("own_settings.mine={hed: linear}", "own_settings.mine.hed"),
        ("own_settings.direct={head: prompt}", "none of direct"),
        (
            "own_settings.mine={head: toy_contrast, options: {smal: 1}}",
            "there is no setting 'own_settings.mine.options.smal'; the nearest is "
            "'own_settings.mine.options.small'",
        ),
        (
            "own_settings.mine={head: toy_contrast, options: {small: 0}}",
            "mine.options.small: Input",
        ),
        ("own_settings.mine={options: {small: 1}}", "own_settings.mine.options.small"),
    ],
)
def test_a_setting_that_cannot_be_is_told(
    tmp_path, write_shards, checkpoint, capsys, change, message
):
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    arguments = [f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", "settings=[mine]"]
    assert main([*arguments, *toys.FAST, f"output={tmp_path / 'out'}", change]) == 2
    assert message in capsys.readouterr().err


def test_a_name_is_one_head_alone():
    with pytest.raises(ValueError, match="there is a head 'linear' already"):
        head_named("linear") and register("linear")(ToyContrast)
