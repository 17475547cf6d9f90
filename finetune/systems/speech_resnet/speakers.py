"""Stage 1: the trunk learns to tell speakers, from any shards that name them.

One process. What a step draws (order, masks, dropout) depends on the seed and on the step's number
alone, so a run that was stopped and given again ends with the weights of one that never was.

Shapes: N clips, S speakers, E width of the segment level.
"""

import csv
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from data_pipeline.config import dump_config
from data_pipeline.files.atomic import atomic_file
from data_pipeline.schema import passport_to_json
from finetune.card import CORPORA, NOT_STATED
from finetune.clips.labelled import LabelledClip
from finetune.systems.speech_resnet.augment import SpecAugment
from finetune.systems.speech_resnet.batch import FrameReader, Spectrograms, collate
from finetune.systems.speech_resnet.config import SpeakerConfig
from finetune.systems.speech_resnet.network import SegmentLayer, SpeechResNet
from finetune.systems.speech_resnet.trunk import (
    KIND,
    newest_checkpoint,
    read_json,
    write_checkpoint,
    write_json,
)
from finetune.systems.speech_resnet.voices import Voices, read_voices
from finetune.training.sampling import balanced_batches
from pretrain.checkpoint.integrity import WEIGHTS, CheckpointError
from pretrain.engine.state import read_state, write_state
from pretrain.optim import build_adamw, learning_rate
from pretrain.output import held_output
from pretrain.runtime import LaunchError, Runtime, git_commit

COLUMNS = ("step", "loss", "learning_rate", "held_out_accuracy", "held_out_clips")


class SpeakerClassifier(nn.Module):
    """The trunk, a segment-level layer, and a vector for each speaker."""

    def __init__(self, trunk: SpeechResNet, num_speakers: int, config: SpeakerConfig) -> None:
        super().__init__()
        self.trunk = trunk
        self.segment = SegmentLayer(trunk.pooled_width, config.embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.speakers = nn.Linear(config.embedding, num_speakers)
        self.has_margin = config.loss == "additive_margin"
        self.margin, self.scale = config.margin, config.scale

    def forward(self, batch: Spectrograms, speaker_N: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [N, S]; where `speaker_N` is given, with the margin off the true one."""
        segment_NE = self.dropout(self.segment(self.trunk.encode(batch)))
        if not self.has_margin:
            return self.speakers(F.relu(segment_NE))
        return additive_margin(
            segment_NE, self.speakers.weight, speaker_N, margin=self.margin, scale=self.scale
        )


def additive_margin(
    segment_NE: torch.Tensor,
    weight_SE: torch.Tensor,
    speaker_N: torch.Tensor | None,
    *,
    margin: float,
    scale: float,
) -> torch.Tensor:
    """scale (cos - margin [s = true]), [N, S]: Wang et al. 2018, equation 6."""
    cosine_NS = F.linear(F.normalize(segment_NE), F.normalize(weight_SE))
    if speaker_N is not None:
        cosine_NS = cosine_NS - margin * F.one_hot(speaker_N, len(weight_SE))
    return scale * cosine_NS


def pretrain(config: SpeakerConfig, runtime: Runtime) -> Path:
    """Train, or go on; the folder of the run.

    Raises UserError for clips that cannot be used, CheckpointError for a folder that was altered or
    is of another config.
    """
    if runtime.world_size > 1:
        raise LaunchError(
            f"{runtime.world_size} processes; this stage runs in one: python -m "
            "finetune.systems.speech_resnet pretrain ..."
        )
    output = Path(config.output)
    with held_output(output, runtime):
        voices = read_voices(config)
        for note in voices.notes:
            runtime.log.info(note)
        _check_config(output, config)
        return _train(config, voices, output / "checkpoints", runtime)


def _train(config: SpeakerConfig, voices: Voices, root: Path, runtime: Runtime) -> Path:
    mel_bins = voices.passport[config.stream].width
    reader = FrameReader(stream=config.stream, mel_bins=mel_bins)
    torch.manual_seed(config.seed)
    trunk = SpeechResNet(mel_bins=mel_bins, **asdict(config.shape))
    trunk.augment = None if config.augment is None else SpecAugment(config.augment)
    model = SpeakerClassifier(trunk, len(voices.speakers), config).to(runtime.device)
    optimizer = build_adamw(model, weight_decay=config.weight_decay)
    done = _go_on(root, model, optimizer, voices, runtime)
    label_N = np.array([clip.label for clip in voices.train])
    batch_size = min(config.batch_size, len(label_N))
    batches = itertools.islice(balanced_batches(label_N, batch_size, config.seed), done, None)
    loss_sum, num_losses = torch.zeros((), device=runtime.device), 0
    for step in range(done + 1, config.steps + 1):
        rate = learning_rate(
            step, peak=config.learning_rate, warmup=config.warmup_steps, total=config.steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        index_B = next(batches)
        batch = collate([reader(voices.train[i].sample) for i in index_B]).to(runtime.device)
        speaker_B = torch.from_numpy(label_N[index_B]).to(runtime.device)
        torch.manual_seed(int(np.random.SeedSequence((config.seed, step)).generate_state(1)[0]))
        model.train()
        loss = F.cross_entropy(model(batch, speaker_B), speaker_B)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss_sum, num_losses = loss_sum + loss.detach(), num_losses + 1
        if step < config.steps and step % config.save_every_steps:
            continue
        mean = float(loss_sum) / num_losses
        if not np.isfinite(mean):
            raise CheckpointError(
                f"the loss is {mean} at step {step}; lower learning_rate={config.learning_rate:g}, "
                "and give the command again: it goes on from the checkpoint before"
            )
        loss_sum, num_losses = torch.zeros_like(loss_sum), 0
        accuracy = identified(model, voices.held_out, reader, batch_size, runtime.device)
        row = dict(zip(COLUMNS, (step, mean, rate, accuracy, len(voices.held_out)), strict=True))
        _save(root, step, model, optimizer, voices, config, row)
        told = "" if accuracy is None else f" | held out: {accuracy:.3f} identified"
        runtime.log.info(f"step {step} | loss {mean:.3f}{told}")
    return root.parent


@torch.no_grad()
def identified(
    model: SpeakerClassifier,
    clips: Sequence[LabelledClip],
    reader: FrameReader,
    batch_size: int,
    device: torch.device,
) -> float | None:
    """Share of `clips` whose speaker is told; None for no clips."""
    model.eval()
    right = 0
    for start in range(0, len(clips), batch_size):
        part = clips[start : start + batch_size]
        said = model(collate([reader(clip.sample) for clip in part]).to(device)).argmax(1).cpu()
        right += int((said == torch.tensor([clip.label for clip in part])).sum())
    return right / len(clips) if clips else None


def _go_on(
    root: Path,
    model: SpeakerClassifier,
    optimizer: torch.optim.Optimizer,
    voices: Voices,
    runtime: Runtime,
) -> int:
    """Put the newest checkpoint into the parts; its step, 0 for a new run."""
    folder = newest_checkpoint(root)
    if folder is None:
        return 0
    told = read_json(folder / "provenance.json")
    if told["shards_sha256"] != voices.shards_sha256:
        raise CheckpointError(
            f"{folder} learned from other shards than these; give those again, or another output"
        )
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
        optimizer.load_state_dict(read_state(folder / "state/adamw.pt"))
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"cannot go on from {folder}: {error}") from error
    runtime.log.info(f"goes on after step {told['step']}")
    return told["step"]


def _check_config(output: Path, config: SpeakerConfig) -> None:
    """A run goes on by the config that it began with; where it is saved and how often is free."""
    path, text = output / "speakers.yaml", dump_config(config)
    free = ("device:", "save_every_steps:", "output:")

    def fixed(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith(free)]

    before = path.read_text(encoding="utf-8") if path.is_file() else text
    changed = [
        f"{was.strip()} is now {now.strip()}"
        for was, now in itertools.zip_longest(fixed(before), fixed(text), fillvalue="")
        if was != now
    ]
    if changed:
        raise CheckpointError(
            f"{output} was begun by another config: {'; '.join(changed[:3])}; give the same one, "
            "or another output"
        )
    with atomic_file(path) as file:
        file.write(text.encode())


def _save(
    root: Path,
    step: int,
    model: SpeakerClassifier,
    optimizer: torch.optim.Optimizer,
    voices: Voices,
    config: SpeakerConfig,
    row: dict[str, float | None],
) -> None:
    """The checkpoint, and its line in metrics.csv."""

    def write(folder: Path) -> None:
        weights = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        about = {"system": KIND, "stream": config.stream, "shape": model.trunk.shape}
        write_json(folder / "config.json", about | {"speakers": voices.speakers})
        write_json(folder / "passport.json", passport_to_json(voices.passport))
        provenance = {
            "step": step,
            "git_commit": git_commit(),
            "corpora": voices.corpora,
            "shards_sha256": voices.shards_sha256,
            "metrics": row,
        }
        write_json(folder / "provenance.json", provenance)
        (folder / "speakers.yaml").write_text(dump_config(config), encoding="utf-8")
        voices.seen.save(folder)
        (folder / "README.md").write_text(_card(voices, row), encoding="utf-8")
        (folder / "state").mkdir()
        write_state(optimizer.state_dict(), folder / "state/adamw.pt")

    write_checkpoint(root, step, write)
    path = root.parent / "metrics.csv"
    lines = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            lines = [line for line in csv.DictReader(file) if int(line["step"]) < step]
    with atomic_file(path) as file:
        text = [",".join(COLUMNS)]
        text += [
            ",".join("" if line[c] is None else str(line[c]) for c in COLUMNS)
            for line in (*lines, row)
        ]
        file.write(("\n".join(text) + "\n").encode())


def _card(voices: Voices, row: dict[str, float | None]) -> str:
    accuracy = row["held_out_accuracy"]
    told = (
        "No clip was held out."
        if accuracy is None
        else f"Of {len(voices.held_out)} held-out clips of the same speakers it tells the speaker "
        f"in {accuracy:.1%}."
    )
    terms = "\n".join(
        f"- corpus {name}: {CORPORA.get(name, NOT_STATED)}" for name in voices.corpora
    )
    return (
        f"# Trunk of a speaker identification\n\nResNet34 with statistics pooling, trained for "
        f"{row['step']} steps to tell {len(voices.speakers)} speakers by {len(voices.train)} clips."
        f" {told}\n\nUse it as `options.trunk` of a setting whose system is `{KIND}`.\n\n"
        f"## Terms\n\nThe code is under Apache-2.0; what it learned from has terms that hold:\n\n"
        f"{terms}\n\nSpeakers: {json.dumps(voices.speakers)}\n"
    )
