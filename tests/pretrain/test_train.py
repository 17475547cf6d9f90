"""Whole runs of a small model, by the command line that users type."""

import copy
import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import BertConfig

from data_pipeline.files.weights import sha256_of
from data_pipeline.shards import list_shards, read_manifest, write_shard
from pretrain.build import build_model
from pretrain.checkpoint.folder import load_checkpoint
from pretrain.checkpoint.integrity import CheckpointError, write_digests
from pretrain.cli import main
from pretrain.data.seen import SeenClips
from pretrain.objectives import OBJECTIVES
from pretrain.output import held_output
from pretrain.runtime import RuntimeSettings, seed_everything, start

GRADIENT = ("grad_norm", "grad_norm_max", "clipped_share")
LOSSES = ("step", "split", "loss", *OBJECTIVES, "word_accuracy", *GRADIENT, "packing")


@pytest.fixture
def arguments(root, small, toy_folder):
    """(output, overrides) -> the command line of a run of tiny.yaml, shrunken."""

    def arguments(output: Path, *overrides: str, config: str = "tiny.yaml") -> list[str]:
        return [
            "--config",
            str(root / "configs/pretrain" / config),
            *small,
            f"data.shards=[{toy_folder}]",
            f"run.output={output}",
            "run.device=cpu",
            "run.log_every=1",
            "run.checkpoint_every=4",
            "engine.kind=torch",
            *overrides,
        ]

    return arguments


SHORT = ("optim.steps=12", "optim.warmup_steps=2", "run.validate_every=6")


def rows(output: Path) -> list[dict[str, str]]:
    """What metrics.csv has, less what a clock or the memory tells."""
    with open(output / "metrics.csv", newline="") as file:
        return [{name: row[name] for name in LOSSES} for row in csv.DictReader(file)]


def held_out(output: Path) -> str:
    return (output / "validation.csv").read_text()


def of(output: Path, split: str) -> list[dict[str, str]]:
    return [row for row in rows(output) if row["split"] == split]


def test_a_run_learns_and_leaves_what_it_promises(arguments, tmp_path, capsys):
    faster = "optim.peak_learning_rate=3e-3"
    assert main(arguments(tmp_path, *SHORT, faster)) == 0
    train, held_out = of(tmp_path, "train"), of(tmp_path, "validation")
    assert [int(row["step"]) for row in train] == list(range(1, 13))
    assert [int(row["step"]) for row in held_out] == [0, 6, 12]
    # The words come from 17; the features are noise, which nobody can foresee.
    assert float(held_out[-1]["wwmlm"]) < float(held_out[0]["wwmlm"]) - 0.2
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.folder.name == "step-000012"
    assert checkpoint.passport["speech"].name == "toy_speech"
    provenance = json.loads((checkpoint.folder / "provenance.json").read_text())
    assert provenance["step"] == 12 and len(provenance["clips_sha256"]) == 64
    assert checkpoint.provenance == provenance
    assert provenance["shards_sha256"] == {
        folder: [sha256_of(tar) for tar in sorted(Path(folder).glob("*.tar"))]
        for folder in checkpoint.config.data.shards
    }
    (folder,) = checkpoint.config.data.shards
    manifests = [read_manifest(tar.with_suffix(".json")) for tar in list_shards(folder)]
    clips = [pair for m in manifests for pair in zip(m.samples, m.digests, strict=True)]
    seen = SeenClips.load(checkpoint.folder).among(clips)
    assert (len(clips), len(seen.same), seen.named_alike) == (40, 32, frozenset())
    out = capsys.readouterr().out
    assert "32 clips in 4 shards to train on; 8 clips of 8 video files held out" in out
    assert "step 12 | loss" in out and "clips/s" in out


def test_without_faces_all_that_is_lost_is_told_with_the_one_override(arguments, tmp_path, capsys):
    """And that override, typed as it is told, trains on the rest."""
    passport = {"speech": toys.passport()["speech"]}
    clips = [toys.numbered(number, face=False) for number in range(40)]
    shards = tmp_path / "shards"
    shards.mkdir()
    for index in range(4):
        write_shard(shards, index, clips[index::4], [], passport, {}, f"toy-{index}")
    voices = arguments(tmp_path / "run", f"data.shards=[{shards}]", *SHORT)
    assert main(voices) == 2
    message = capsys.readouterr().err
    assert "span_mvfr and span_mvfc_kl need face, but the shards hold none" in message
    override = "objectives.weights={span_mvfr: 0, span_mvfc_kl: 0}"
    assert message.rstrip().endswith(f"'{override}'")
    assert main([*voices, override]) == 0
    assert all(row["wwmlm"] and not row["span_mvfr"] for row in of(tmp_path / "run", "validation"))
    assert main([*voices, override, "data.limits.text=0", "data.limits.speech=0"]) == 2
    assert "no objective is left" in capsys.readouterr().err


def test_faces_that_the_passport_names_but_no_clip_has(arguments, tmp_path, capsys):
    """As of an extraction with require=[speech] of sound alone."""
    clips = [toys.numbered(number, face=False) for number in range(40)]
    shards = toys.write_shards(tmp_path / "shards", clips, 4)
    faces = ("objectives.weights={wwmlm: 0, span_mafr: 0}", "objectives.mixing=step")
    assert main(arguments(tmp_path / "run", f"data.shards=[{shards}]", *SHORT, *faces)) == 2
    message = capsys.readouterr().err
    assert "to train without face: 'objectives.weights={span_mvfr: 0, span_mvfc_kl: 0}'" in message


def test_one_shard_in_two_places_is_refused(arguments, toy_folder, tmp_path, capsys):
    """One folder by two names, or a copy of it; to train on, or to train on and hold out."""
    copy = shutil.copytree(toy_folder, tmp_path / "copy")
    (tmp_path / "link").symlink_to(toy_folder)
    same = f"{toy_folder}/000000.tar and {copy}/000000.tar are the same shard"
    for other, message in ((copy, same), (tmp_path / "link", "one folder, so its clips would")):
        for change in (f"data.shards=[{toy_folder}, {other}]", f"data.validation_shards=[{other}]"):
            assert main(arguments(tmp_path / "run", change, *SHORT)) == 2
            assert message in capsys.readouterr().err


def test_shards_without_samples_are_not_taken_for_one(arguments, tmp_path):
    """Their files are the same, byte for byte: nothing."""
    shards = toys.write_shards(tmp_path / "shards", [toys.numbered(n) for n in range(40)], 4)
    for index in (4, 5):
        write_shard(shards, index, [], [], toys.passport(), {}, f"toy-{index}")
    run = arguments(tmp_path / "run", f"data.shards=[{shards}]", *SHORT, "optim.steps=4")
    assert main(run) == 0


def test_the_output_of_another_stage_is_left_as_it_is(arguments, tmp_path, capsys):
    """An extraction's config.yaml, without which it could never go on."""
    (tmp_path / "passport.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("clips: my/videos\n")
    assert main(arguments(tmp_path, *SHORT)) == 2
    assert f"{tmp_path} is the output of extraction" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == "clips: my/videos\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "passport.json"]


def test_started_again_after_its_end_a_run_changes_nothing(arguments, tmp_path):
    assert main(arguments(tmp_path, *SHORT)) == 0
    before = rows(tmp_path)
    assert main(arguments(tmp_path, *SHORT)) == 0
    assert rows(tmp_path) == before


def test_the_loss_of_a_step_is_the_weighted_mean_of_its_objectives(arguments, tmp_path):
    assert main(arguments(tmp_path, "optim.steps=3", "optim.warmup_steps=0")) == 0
    for row in rows(tmp_path):
        if all(row[task] for task in OBJECTIVES):
            expected = sum(
                share * float(row[task])
                for share, task in zip((0.4, 0.2, 0.2, 0.2), OBJECTIVES, strict=True)
            )
            assert float(row["loss"]) == pytest.approx(expected, rel=1e-5)


def test_the_rate_of_a_step_is_that_of_its_own_number(arguments, tmp_path):
    """Up to 4e-3 in 2 steps and down to nothing at the sixth, worked out by hand."""
    length = ("optim.steps=6", "optim.warmup_steps=2", "optim.peak_learning_rate=4e-3")
    assert main(arguments(tmp_path, *length, "optim.floor_learning_rate=5e-4")) == 0
    with open(tmp_path / "metrics.csv", newline="") as file:
        train = [row for row in csv.DictReader(file) if row["split"] == "train"]
    found = [float(row["learning_rate"]) for row in train]
    assert found == pytest.approx([2e-3, 4e-3, 3e-3, 2e-3, 1e-3, 5e-4], rel=1e-12)


def test_the_settings_of_optim_reach_the_optimizer_and_the_clip(arguments, tmp_path, monkeypatch):
    steps, clips = [], []
    step, clip = torch.optim.AdamW.step, torch.nn.utils.clip_grad_norm_

    def counted_step(self, *rest):
        steps.append([{**group, "params": None} for group in self.param_groups])
        return step(self, *rest)

    def counted_clip(parameters, max_norm, *rest, **more):
        clips.append(max_norm)
        return clip(parameters, max_norm, *rest, **more)

    monkeypatch.setattr("torch.optim.AdamW.step", counted_step)
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", counted_clip)
    own = ["optim.betas=[0.5, 0.75]", "optim.eps=1e-3", "optim.weight_decay=0.25"]
    length = ("optim.steps=2", "optim.warmup_steps=1", "optim.peak_learning_rate=2e-3")
    assert main(arguments(tmp_path, *length, *own, "optim.clip_norm=0.5")) == 0
    assert clips == [0.5, 0.5] and len(steps) == 2
    decayed, spared = steps[0]
    assert (decayed["betas"], decayed["eps"], decayed["lr"]) == ((0.5, 0.75), 1e-3, 2e-3)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.25, 0.0)


def test_a_step_that_asks_for_no_word_adds_nothing(arguments, tmp_path):
    """As the official code may, with force_word off: not 0 / 0."""
    asked = ("masking.force_word=false", "masking.ratios.wwmlm=1e-9")
    for mixing in ("step", "clip"):
        only = (
            "objectives.weights={span_mvfr: 0, span_mvfc_kl: 0, span_mafr: 0}",
            f"objectives.mixing={mixing}",
        )
        length = ("optim.steps=2", "optim.warmup_steps=1", "data.validation_share=0")
        assert main(arguments(tmp_path / mixing, *length, *only, *asked)) == 0
        assert [(row["loss"], row["wwmlm"]) for row in rows(tmp_path / mixing)] == [("0.0", "")] * 2


def test_mixing_by_step_shows_one_objective_a_step(arguments, tmp_path):
    assert main(arguments(tmp_path, *SHORT, "objectives.mixing=step")) == 0
    for row in of(tmp_path, "train"):
        seen = [task for task in OBJECTIVES if row[task]]
        assert len(seen) == 1
        assert float(row["loss"]) == pytest.approx(float(row[seen[0]]), rel=1e-6)


def test_joined_and_padded_passes_train_alike(arguments, tmp_path):
    """However a step is cut: three passes, one, and padded."""
    ways = {
        "rows": ("data.micro_batch_tokens=300", "data.limits={text: 30, face: 20, speech: 30}"),
        "one row": ("data.limits={text: 30, face: 20, speech: 30}",),
        "padded": ("data.packing=none", "data.limits={text: 30, face: 20, speech: 30}"),
    }
    found = []
    for name, settings in ways.items():
        assert main(arguments(tmp_path / name, *SHORT, "model.dropout=0", *settings)) == 0
        losses = [[row[n] or "nan" for n in ("loss", *OBJECTIVES)] for row in rows(tmp_path / name)]
        found.append([list(map(float, row)) for row in losses])
    expected = [pytest.approx(row, rel=1e-4, nan_ok=True) for row in found[-1]]
    assert found[0] == expected and found[1] == expected


def test_a_pass_too_short_for_a_clip_is_told(arguments, tmp_path, capsys):
    assert main(arguments(tmp_path, *SHORT, "data.micro_batch_tokens=100")) == 2
    assert "a clip may have 132 tokens" in capsys.readouterr().err


def test_resume_at_step_8_gives_the_same_losses_to_the_bit(arguments, tmp_path):
    """With dropout, micro-batches, and the loader's thread ahead of the loop."""
    cut = "data.micro_batch_clips=6"
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert main(arguments(straight, *SHORT, cut)) == 0
    assert main(arguments(resumed, *SHORT, cut)) == 0
    (resumed / "checkpoints/latest").write_text("step-000008\n")
    assert main(arguments(resumed, *SHORT, cut)) == 0
    assert rows(resumed) == rows(straight)
    assert held_out(resumed) == held_out(straight)
    assert len(rows(straight)) == 15


def test_a_line_that_a_stop_cuts_is_the_same_to_the_bit(arguments, tmp_path):
    """The checkpoint of step 8 lies inside the line of steps 6 to 10."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert main(arguments(straight, *SHORT, "run.log_every=5")) == 0
    shutil.copytree(straight, resumed)
    (resumed / "checkpoints/latest").write_text("step-000008\n")
    assert main(arguments(resumed, *SHORT, "run.log_every=5")) == 0
    assert rows(resumed) == rows(straight)
    assert [row["step"] for row in of(straight, "train")] == ["5", "10", "12"]


def test_a_line_tells_the_mean_norm_the_largest_and_how_many_were_clipped(arguments, tmp_path):
    assert main(arguments(tmp_path / "each", *SHORT)) == 0
    norms = [float(row["grad_norm"]) for row in of(tmp_path / "each", "train")]
    between = sorted(norms)[4]  # eight of twelve are longer, or seven
    clip = f"optim.clip_norm={between}"
    assert main(arguments(tmp_path / "twelve", *SHORT, clip, "run.log_every=12")) == 0
    assert main(arguments(tmp_path / "clipped", *SHORT, clip)) == 0
    each = of(tmp_path / "clipped", "train")
    (line,) = of(tmp_path / "twelve", "train")
    norms = [float(row["grad_norm"]) for row in each]
    assert [row["grad_norm_max"] for row in each] == [row["grad_norm"] for row in each]
    assert float(line["grad_norm"]) == pytest.approx(sum(norms) / 12)
    assert float(line["grad_norm_max"]) == max(norms)
    assert float(line["clipped_share"]) == sum(norm > between for norm in norms) / 12
    assert 0 < float(line["clipped_share"]) < 1


def test_padding_shows_in_the_line(arguments, tmp_path):
    few = ("optim.steps=2", "optim.warmup_steps=1")
    for packing in ("rows", "none"):
        assert main(arguments(tmp_path / packing, *few, f"data.packing={packing}")) == 0
    joined, padded = (of(tmp_path / packing, "train")[0] for packing in ("rows", "none"))
    assert float(joined["packing"]) == 1 and 0.3 < float(padded["packing"]) < 1


def test_a_tracker_that_is_not_there_is_told_before_anything_starts(
    arguments, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    assert main(arguments(tmp_path / "run", *SHORT, "run.trackers=[wandb]")) == 2
    assert "`python -m pip install wandb`" in capsys.readouterr().err
    assert not (tmp_path / "run/metrics.csv").exists()


def test_a_checkpoint_of_the_time_of_the_tensorboard_switch_goes_on(arguments, tmp_path):
    assert main(arguments(tmp_path, *SHORT, "optim.steps=4")) == 0
    saved = tmp_path / "checkpoints/step-000004"
    config = (saved / "pretrain.yaml").read_text()
    assert "  trackers: []\n" in config
    (saved / "pretrain.yaml").write_text(
        config.replace("  trackers: []\n", "  tensorboard: true\n")
    )
    write_digests(saved)
    assert load_checkpoint(saved).config.run.trackers == ("tensorboard",)
    assert main(arguments(tmp_path, *SHORT)) == 0
    assert [row["step"] for row in of(tmp_path, "train")][-1] == "12"


def test_a_validation_that_is_due_as_it_is_asked_to_stop_comes_at_the_next_start(
    arguments, tmp_path, monkeypatch
):
    """Once, also where that start is killed before it saves."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert main(arguments(straight, *SHORT)) == 0
    calls = iter([None] * 5 + ["SIGTERM"] * 2)
    monkeypatch.setattr("pretrain.train.asked_to_stop", lambda: next(calls))
    assert main(arguments(stopped, *SHORT)) == 75
    monkeypatch.undo()
    assert (stopped / "checkpoints/latest").read_text() == "step-000006\n"
    assert rows(stopped) == rows(straight)[:7] and rows(straight)[7]["split"] == "validation"

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pretrain.train.learning_rate", killed)
    assert main(arguments(stopped, *SHORT)) == 130
    monkeypatch.undo()
    assert rows(stopped) == rows(straight)[:8]
    assert main(arguments(stopped, *SHORT)) == 0
    assert rows(stopped) == rows(straight)


@pytest.mark.slow
def test_killed_at_any_step_and_rerun_the_losses_are_equal_to_the_bit(root, arguments, tmp_path):
    """SIGKILL at three moments, no warning, the same command each time."""
    length = ("optim.steps=24", "optim.warmup_steps=2", "run.validate_every=10")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert main(arguments(straight, *length)) == 0
    command = [sys.executable, "-m", "pretrain.cli", *arguments(killed, *length)]
    for step in (6, 13, 19):
        process = subprocess.Popen(
            command, cwd=root, stdout=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if (killed / "metrics.csv").exists():
                last = (killed / "metrics.csv").read_text().splitlines()[-1].split(",")[0]
                if last.isdigit() and int(last) >= step:
                    break
            time.sleep(0.01)
        assert process.poll() is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert main(arguments(killed, *length)) == 0
    assert rows(killed) == rows(straight)
    assert len(of(straight, "train")) == 24


def test_metrics_half_written_by_a_killed_run_are_dropped(arguments, tmp_path):
    assert main(arguments(tmp_path, *SHORT)) == 0
    expected = rows(tmp_path)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("13,train,4.5")
    assert main(arguments(tmp_path, *SHORT)) == 0
    assert rows(tmp_path) == expected


@pytest.mark.slow
def test_the_reference_takes_a_step_on_a_shrunken_width(arguments, tmp_path):
    """All of the paper's run but width, depth and length: 640 clips in one pass, not compiled. The
    last step's rate is the floor, so the first of two must move the weights."""
    length = ("optim.steps=2", "optim.warmup_steps=0", "run.checkpoint_every=1")
    length += ("engine.compile=false",)
    assert main(arguments(tmp_path, *length, "run.seed=5", config="reference.yaml")) == 0
    assert len(of(tmp_path, "train")) == 2
    trained = load_checkpoint(tmp_path)
    assert trained.config.data.batch_clips == 640
    seed_everything(5)
    fresh, _ = build_model(trained.config.model, trained.passport)
    name = "encoder.layer.1.output.dense.weight"
    moved = (trained.model.get_parameter(name) - fresh.get_parameter(name)).abs().max()
    assert moved.item() == pytest.approx(
        2.5e-5, rel=0.1
    )  # AdamW's first update: the rate, half the peak


def test_tensorboard_on_request(arguments, tmp_path):
    few = ("optim.steps=2", "optim.warmup_steps=0", "run.trackers=[tensorboard]")
    assert main(arguments(tmp_path, *few)) == 0
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = board.Scalars("train/loss")
    assert [event.step for event in losses] == [1, 2]
    written = [float(row["loss"]) for row in of(tmp_path, "train")]
    assert [event.value for event in losses] == pytest.approx(written)


def test_bf16_trains(arguments, tmp_path):
    few = ("optim.steps=2", "optim.warmup_steps=0")
    assert main(arguments(tmp_path / "a", *few)) == 0
    assert main(arguments(tmp_path / "b", *few, "run.precision=bf16")) == 0
    a, b = (float(of(tmp_path / name, "train")[0]["loss"]) for name in "ab")
    assert a == pytest.approx(b, rel=0.02) and a != b


def test_without_faces_the_other_objectives_go_on(arguments, tmp_path):
    clips = [toys.numbered(n, face=False) for n in range(16)]
    folder = toys.write_shards(tmp_path / "s", clips, 2)
    few = ("optim.steps=2", "optim.warmup_steps=0", f"data.shards=[{folder}]")
    assert main(arguments(tmp_path / "run", *few)) == 0
    assert {row["span_mvfr"] for row in rows(tmp_path / "run")} == {""}


def test_features_so_large_that_they_outweigh_the_rest_are_told(arguments, tmp_path, capsys):
    few = ("optim.steps=1", "optim.warmup_steps=0")
    assert main(arguments(tmp_path / "usual", *few)) == 0
    assert "outweigh" not in capsys.readouterr().out
    clips = [toys.numbered(n) for n in range(16)]
    for clip in clips:
        clip.streams["speech"].values_ND[:] *= 4
    folder = toys.write_shards(tmp_path / "s", clips, 2)
    assert main(arguments(tmp_path / "run", *few, f"data.shards=[{folder}]")) == 0
    told = capsys.readouterr().out
    assert "speech features have a mean square of 1" in told and "span_mafr will outweigh" in told


def test_a_loss_that_is_no_number_stops_before_a_checkpoint(arguments, tmp_path, capsys):
    few = ("optim.steps=8", "optim.warmup_steps=0")
    assert main(arguments(tmp_path, *few, "optim.peak_learning_rate=1e30")) == 2
    told = capsys.readouterr().err
    assert "the loss is nan at step" in told
    assert "no checkpoint yet, so the run starts anew" in told
    assert not (tmp_path / "checkpoints/latest").exists()


def test_a_clip_whose_loss_is_no_number_is_named(arguments, tmp_path, capsys):
    """With its step, the second of an epoch or the first, though the log asks six steps later."""
    clips = [toys.numbered(n) for n in range(32)]
    clips[7].streams["face_probs"].values_ND[:] = 0  # no posterior at all
    folder = toys.write_shards(tmp_path / "s", clips, 4)
    few = ("optim.steps=8", "optim.warmup_steps=0", "run.log_every=8", "data.micro_batch_clips=2")
    alone = "objectives.weights={wwmlm: 0, span_mvfr: 0, span_mafr: 0}"
    every = (f"data.shards=[{folder}]", "data.validation_share=0", alone)
    assert main(arguments(tmp_path / "run", *few, *every)) == 2
    told = capsys.readouterr().err
    named = re.search(r"the loss is nan at step [12], in 1 of its 8 passes; (.*?);", told)
    assert clips[7].id in named.group(1) and named.group(1).count(", ") == 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim.stepz=3"], ["optim.stepz", "optim.steps"]),
        (["data.shards=[no/where]"], ["no folder no/where", "make demo", "extract"]),
        (["data.num_lanes=48", "data.batch_clips=48"], ["32 training clips", "num_lanes=48"]),
        (
            ["data.limits.face=0"],
            ["span_mvfr and span_mvfc_kl need face", "data.limits.face=0 leaves it out"],
        ),
        (["model.num_heads=5"], ["model.width=24", "model.num_heads=5"]),
        (["model.text_checkpoint=./no/bert"], ["no folder ./no/bert"]),
        (["model.text_checkpoint=no/such-bert"], ["no/such-bert", "hf download", "FOLDER"]),
        (["run.device=cuda"], ["device=cuda, but torch sees no GPU"]),
    ],
)
def test_bad_input_costs_one_message_and_exit_code_2(
    arguments, tmp_path, capsys, overrides, words, monkeypatch
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(arguments(tmp_path, *SHORT, *overrides)) == 2
    told = capsys.readouterr().err
    assert told.startswith("pretrain: ") and "Traceback" not in told
    for word in words:
        assert word in told


def test_a_text_checkpoint_without_a_tokenizer_is_told(arguments, tmp_path, capsys):
    folder = tmp_path / "bert"
    folder.mkdir()
    bert = BertConfig(hidden_size=24, num_attention_heads=2, intermediate_size=48)
    for text in (None, bert.to_json_string(), '{"a": 1}'):  # no config, one alone, junk
        if text is not None:
            (folder / "config.json").write_text(text)
        assert main(arguments(tmp_path / "run", f"model.text_checkpoint={folder}")) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"pretrain: model.text_checkpoint={folder} holds no tokenizer")
        assert "vocab.txt" in told and "Traceback" not in told


def test_a_tokenizer_with_more_pieces_than_its_bert_is_told_before_the_first_step(
    arguments, bert_tokenizer, tmp_path, capsys
):
    """Such as one that got new tokens; the first text that has one would end the run."""
    folder = tmp_path / "bert"
    larger = copy.deepcopy(bert_tokenizer)
    larger.add_tokens(["flumph", "gorp"])
    larger.save_pretrained(str(folder))
    (folder / "config.json").write_text(BertConfig(vocab_size=30522).to_json_string())
    assert main(arguments(tmp_path / "run", f"model.text_checkpoint={folder}")) == 2
    told = capsys.readouterr().err
    assert f"the tokenizer of {folder} knows 30524 pieces, its model 30522" in told
    assert "resize_token_embeddings" in told and not (tmp_path / "run/metrics.csv").exists()


def test_a_full_disk_is_one_message_and_the_same_command_goes_on(arguments, tmp_path, capsys):
    few = ("optim.steps=8", "optim.warmup_steps=0")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert main(arguments(tmp_path, "optim.steps=4", "optim.warmup_steps=0")) == 0
    capsys.readouterr()
    try:
        for num_bytes, words in [
            (4 * 10**6, f"cannot save step-000008 in {tmp_path}/checkpoints: File too large ("),
            (20, f"cannot read or write {tmp_path}: File too large; run.output must"),
        ]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
            assert main(arguments(tmp_path, *few)) == 2
            told = capsys.readouterr().err
            assert told.startswith(f"pretrain: {words}") and told.count("\n") == 1
            assert "the same command goes on from" in told.lower()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert main(arguments(tmp_path, *few)) == 0
    assert [int(row["step"]) for row in of(tmp_path, "train")] == list(range(1, 9))


def test_shards_of_another_passport_are_refused_on_resume(arguments, tmp_path, capsys):
    few = ("optim.steps=4", "optim.warmup_steps=0")
    assert main(arguments(tmp_path / "run", *few)) == 0
    path = tmp_path / "run/checkpoints/step-000004/passport.json"
    path.write_text(path.read_text().replace('"pooling": 3', '"pooling": 4'))
    write_digests(path.parent)
    assert main(arguments(tmp_path / "run", *few)) == 2
    told = capsys.readouterr().err
    assert "speech.pooling: found 3, expected 4" in told


def test_changed_settings_are_told_on_resume(arguments, tmp_path, capsys):
    assert main(arguments(tmp_path, "optim.steps=4", "optim.warmup_steps=0")) == 0
    assert main(arguments(tmp_path, "optim.steps=6", "optim.warmup_steps=0")) == 0
    assert "optim.steps 4 -> 6" in capsys.readouterr().out
    assert len(of(tmp_path, "train")) == 6


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("num_heads=4", "num_heads 2 -> 4"),
        ("positions=seconds", "positions index -> seconds"),
        ("own_type=false", "own_type True -> False"),
        ("centered=[speech]", "centered () -> ('speech',)"),
    ],
)
def test_another_model_of_the_same_shapes_is_refused_on_resume(
    arguments, tmp_path, capsys, changed, told
):
    few = ("optim.steps=2", "optim.warmup_steps=0", "model.own_type=true")
    assert main(arguments(tmp_path, *few)) == 0
    assert main(arguments(tmp_path, *few, f"model.{changed}")) == 2
    assert f"another model: model.{told}; set it back" in capsys.readouterr().err
    assert main(arguments(tmp_path, *few, "model.attention=plain", "model.dropout=0.2")) == 0
    assert "model.dropout 0.1 -> 0.2" in capsys.readouterr().out


def test_a_run_that_is_past_its_steps_is_told(arguments, tmp_path, capsys):
    assert main(arguments(tmp_path, "optim.steps=4", "optim.warmup_steps=0")) == 0
    before = rows(tmp_path)
    assert main(arguments(tmp_path, "optim.steps=2", "optim.warmup_steps=0")) == 2
    assert "step-000004 is at step 4, past optim.steps=2" in capsys.readouterr().err
    assert rows(tmp_path) == before


def test_tars_without_a_manifest_are_told(arguments, tmp_path, capsys):
    folder = toys.write_shards(tmp_path / "s", [toys.numbered(n) for n in range(32)], 4)
    (folder / "000003.json").unlink()
    few = ("optim.steps=1", "optim.warmup_steps=0", f"data.shards=[{folder}]")
    assert main(arguments(tmp_path / "run", *few)) == 0
    told = f"1 of 4 tars in {folder} has no manifest and is left out; run the same extraction again"
    assert told in capsys.readouterr().out


def test_weights_that_diverged_in_the_last_update_reach_no_checkpoint(arguments, tmp_path, capsys):
    """The loss of a step is that of the weights before its update."""
    few = ("optim.warmup_steps=0", "run.checkpoint_every=1", "run.validate_every=99")
    assert main(arguments(tmp_path, "optim.steps=3", *few)) == 0
    wild = ("optim.steps=9", "optim.peak_learning_rate=1e38")
    assert main(arguments(tmp_path, *few, *wild, "optim.weight_decay=1e9")) == 2
    told = capsys.readouterr().err
    assert "a weight is no finite number at step 4; lower optim.peak_learning_rate=1e+38" in told
    assert f"goes on from {tmp_path}/checkpoints/step-000003; should that end here again" in told
    assert f"older checkpoint (step-000002) into {tmp_path}/checkpoints/latest" in told
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["latest", "step-000002", "step-000003"]


def test_clips_that_are_passed_over_are_told_once_with_their_number_and_the_setting(
    arguments, tmp_path, capsys
):
    clips = [toys.numbered(n, text="" if n % 4 else " ".join(["bin"] * 9)) for n in range(32)]
    shards = toys.write_shards(tmp_path / "shards", clips, 4)
    few = (f"data.shards=[{shards}]", "data.limits.text=8", "data.validation_share=0")
    assert main(arguments(tmp_path / "run", *SHORT, *few)) == 0
    (told,) = [x for x in capsys.readouterr().out.splitlines() if "text_too_long" in x]
    count, drawn = map(int, re.search(r"(\d+) of (\d+) clips drawn so far", told).groups())
    assert drawn >= 32 and 0.15 < count / drawn < 0.4  # every fourth clip
    assert "data.limits.text=8 (null: as many" in told


def test_ctrl_c_is_one_line(arguments, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pretrain.train.Training.run", interrupted)
    assert main(arguments(tmp_path)) == 130
    told = capsys.readouterr().err
    assert told == "pretrain: interrupted; the same command goes on from the last checkpoint\n"


def test_a_checkpoint_with_a_file_cut_is_told_whichever_file_it_is(arguments, tmp_path, capsys):
    few = ("optim.steps=4", "optim.warmup_steps=0")
    assert main(arguments(tmp_path, *few)) == 0
    folder = tmp_path / "checkpoints/step-000004"
    state = ["state/adamw.pt", "state/rng-00000.pt", "state/progress.json"]
    model = ["config.json", "model.safetensors", "tokenizer.json"]
    for name in ("passport.json", *state, *model):
        whole = (folder / name).read_bytes()
        for part in (b"", whole[: len(whole) // 2], b"[1, 2]\xff"):
            (folder / name).write_bytes(part)
            capsys.readouterr()
            assert main(arguments(tmp_path, *few)) == 2
            told = capsys.readouterr().err
            assert told.startswith("pretrain: ") and name in told and "Traceback" not in told
            assert "there is no older checkpoint" in told
            if name in model:
                with pytest.raises(CheckpointError, match=f"{name} was cut or altered"):
                    load_checkpoint(folder)
        (folder / name).write_bytes(whole)
    assert main(arguments(tmp_path, *few)) == 0


def test_a_second_run_into_the_same_folder_is_refused(arguments, tmp_path, capsys):
    few = ("optim.steps=2", "optim.warmup_steps=0")
    with held_output(tmp_path, start(RuntimeSettings(device="cpu"))):
        assert main(arguments(tmp_path, *few)) == 2
        told = capsys.readouterr().err
        assert f"another run (pid {os.getpid()} on " in told and f"writing to {tmp_path};" in told
        assert "another run.output" in told
        assert not (tmp_path / "metrics.csv").exists()
    assert main(arguments(tmp_path, *few)) == 0


def test_an_output_that_cannot_be_a_folder_is_told_before_any_work(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(arguments(tmp_path / "file/run", "data.shards=[no/where]")) == 2
    told = capsys.readouterr().err
    assert told.startswith("pretrain: run.output=") and "cannot be written to" in told


def test_an_output_that_is_read_only_is_told(arguments, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.touch", full)  # a user root may write anywhere
    assert main(arguments(tmp_path)) == 2
    assert "No space left on device; give a folder that can" in capsys.readouterr().err


def test_a_pass_that_does_not_fit_the_gpu_is_told(arguments, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.88 GiB. GPU 0 has")

    monkeypatch.setattr("pretrain.train.Training._loss", full)
    assert main(arguments(tmp_path, *SHORT, "data.micro_batch_tokens=700")) == 2
    told = capsys.readouterr().err
    assert "pretrain: CUDA out of memory, in passes of at most" in told
    assert "and 700 tokens: halve data.micro_batch_tokens" in told


def test_ranks_other_than_0_tell_their_own_errors_a_little_later(
    arguments, tmp_path, capsys, monkeypatch
):
    """One after the other, so that the first has ended the others before they speak."""
    waited = []
    monkeypatch.setattr("pretrain.cli.time.sleep", waited.append)
    for rank in (1, 3):
        monkeypatch.setenv("RANK", str(rank))  # and no WORLD_SIZE: an environment of no launcher
        assert main(arguments(tmp_path)) == 2
        assert capsys.readouterr().err.startswith(f"[rank {rank}] pretrain: the environment has")
    assert waited == [5.0, 15.0]
