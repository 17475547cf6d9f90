"""Trains DenseNetFER on the FER+ vote distributions. The loop is on this page.

Built for one CPU core: the whole data set lies in memory as bytes, a batch is augmented as one
tensor, faces are small first and full-sized last, convolutions run in bfloat16, and the state is
saved after every epoch, so that a killed run goes on where it stood.
"""

import csv
import dataclasses
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from data_pipeline.corpora._ferplus import FerSplit, counted, read_split, usable, vote_distribution
from data_pipeline.features.dense_block import fused_forward
from data_pipeline.features.densenet import DenseNetFER, normalize_faces
from data_pipeline.schema import EXPRESSIONS

JUDGED_FACES = 32  # at once


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe. What ships was made with these defaults."""

    minutes: float = 80.0
    """Training time to spend, over all runs that share a folder. Rate and size of the face follow
    the share of it that has passed, so a slow or busy machine still ends with a full descent."""
    sizes: tuple[tuple[float, int], ...] = ((0.0, 32), (0.5, 40), (0.78, 48))
    """(share of the time from which, side of the face in pixels); a small face costs its area."""
    batch_size: int = 64
    lap_steps: int = 440
    """Steps between two saved states: an epoch."""
    learning_rate: float = 3e-3
    """Of AdamW, at its highest."""
    weight_decay: float = 0.05
    """Not on norms and biases."""
    warmup_steps: int = 200
    decay_from: float = 0.3
    """Share of the time after which the rate goes down to zero in a straight line."""
    sampling_power: float = 0.5
    """An image is drawn as (share of its class) ** -power: 0 is as it comes, 1 evens classes."""
    ema_steps: float = 300.0
    """Steps over which the averaged weights forget; they alone are evaluated and kept."""
    erase_probability: float = 0.25
    score_from: float = 0.8
    """Share of the time after which every lap is scored on valid."""
    seed: int = 0

    def size_at(self, progress: float) -> int:
        return [size for start, size in self.sizes if start <= progress][-1]

    def rate_at(self, step: int, progress: float) -> float:
        """Learning rate: warm-up, plateau, straight line to zero."""
        down = (1 - progress) / (1 - self.decay_from)
        return self.learning_rate * max(0.0, min(1.0, (step + 1) / self.warmup_steps, down))


def augment(
    images_NHW: torch.Tensor, size: int, erase_probability: float, generator: torch.Generator
) -> torch.Tensor:
    """Random flip, shift, scale, rotation, stretch, gain, gamma and erasing.

    Grey bytes [N, 48, 48] to normalised [N, 1, size, size]. One sampling does the geometry and
    the change of size.
    """
    n = len(images_NHW)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    angle = uniform(-12, 12) * (math.pi / 180)
    zoom, stretch = torch.exp(uniform(-0.14, 0.14)), torch.exp(uniform(-0.08, 0.08))
    sx, sy = flip * zoom * stretch, zoom / stretch
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta_N23 = torch.stack(
        [
            torch.stack([cos * sx, -sin * sy, uniform(-0.11, 0.11)], 1),
            torch.stack([sin * sx, cos * sy, uniform(-0.11, 0.11)], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta_N23, [n, 1, size, size], align_corners=False)
    x_NHW = F.grid_sample(
        images_NHW.float().unsqueeze(1), grid, padding_mode="border", align_corners=False
    ).squeeze(1)
    # Clipping is what tells a strong light or a dark room from the mere scale normalisation undoes.
    # Around black a gain is light, for half of the faces; around mid-grey it is contrast.
    gain = torch.exp(uniform(-0.6, 0.6)).view(-1, 1, 1)
    pivot, offset = uniform(-128, 128).clamp(min=0).view(-1, 1, 1), uniform(-20, 20).view(-1, 1, 1)
    gamma = torch.exp(uniform(-0.3, 0.3)).view(-1, 1, 1)
    x_NHW = ((x_NHW - pivot) * gain + pivot + offset).clamp(0, 255)
    x_NHW = 255 * (x_NHW / 255).clamp(min=1e-4) ** gamma
    x_N1HW = normalize_faces(x_NHW)

    side = uniform(0.15, 0.4) * size
    aspect = torch.exp(uniform(-0.5, 0.5))
    center_y, center_x = uniform(0, size), uniform(0, size)
    erased = uniform(0, 1) < erase_probability
    at = torch.arange(size) + 0.5
    in_y = (at - center_y[:, None]).abs() < (side * aspect / 2)[:, None]
    in_x = (at - center_x[:, None]).abs() < (side / aspect / 2)[:, None]
    hole_NHW = in_y[:, :, None] & in_x[:, None, :] & erased[:, None, None]
    return x_N1HW.masked_fill(hole_NHW.unsqueeze(1), 0.0)


def sampling_weights(targets_N8: np.ndarray, power: float) -> torch.Tensor:
    """[N] chance to be drawn: the mean over an image's votes of (class share) ** -power."""
    share_8 = targets_N8.mean(0)
    return torch.from_numpy(targets_N8 @ share_8**-power)


@torch.no_grad()
def predict(model: nn.Module, images_NHW: np.ndarray) -> np.ndarray:
    """Logits [N, 8] of grey bytes [N, 48, 48], without augmentation: float32, by bfloat16."""
    model.eval()
    logits = []
    for start in range(0, len(images_NHW), JUDGED_FACES):
        x = normalize_faces(torch.from_numpy(images_NHW[start : start + JUDGED_FACES]))
        with torch.autocast("cpu", torch.bfloat16):
            logits.append(model(x.contiguous(memory_format=torch.channels_last))[1].float())
    return torch.cat(logits).numpy()


def scores(logits_N8: np.ndarray, split: FerSplit) -> dict[str, float]:
    """Accuracy over 8 classes and mean recall over the 7 without contempt, on counted images."""
    rows = counted(split.votes_N10)
    truth = vote_distribution(split.votes_N10[rows]).argmax(1)
    guess = logits_N8[rows].argmax(1)
    recalls = [(guess[truth == c] == c).mean() for c in range(len(EXPRESSIONS) - 1)]
    return {"accuracy": float((guess == truth).mean()), "uar7": float(np.mean(recalls))}


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)


@dataclass(frozen=True, kw_only=True)
class Lap:
    """A row of laps.csv."""

    lap: int
    accuracy: float | None
    """On valid, over 8 classes; None where the lap was not scored."""
    uar7: float | None


def read_laps(run: Path) -> list[Lap]:
    """The laps of a run, in order."""
    laps = []
    with (run / "laps.csv").open(newline="") as file:
        for row in csv.reader(file):
            accuracy, recall = map(float, row[5:7]) if len(row) == 7 else (None, None)
            laps.append(Lap(lap=int(row[0]), accuracy=accuracy, uar7=recall))
    return laps


def train(config: TrainConfig, data: str | Path, out: str | Path) -> None:
    """Train until the minutes are spent, or go on with the run that lies in `out`.

    Leaves out/state.pt, out/laps.csv, and every lap's averaged weights as out/lap_NNN.pt, for the
    choice on valid.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n")
    split, valid = read_split(data, "train"), read_split(data, "valid")
    split, valid = split.select(usable(split.votes_N10)), valid.select(counted(valid.votes_N10))
    images = torch.from_numpy(split.images_NHW)
    targets = torch.from_numpy(vote_distribution(split.votes_N10))
    weights = sampling_weights(targets.numpy(), config.sampling_power)

    torch.manual_seed(config.seed)
    model = DenseNetFER().to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        model,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(1 - 1 / config.ema_steps),
        use_buffers=True,
    )
    optimizer = build_optimizer(model, config)
    lap, seconds = 0, 0.0
    state_path = out / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        lap, seconds = state["lap"], state["seconds"]
        print(f"going on after lap {lap} of {state_path}", flush=True)

    while seconds < 60 * config.minutes:
        generator = torch.Generator().manual_seed(config.seed * 100_003 + lap)
        draws = config.lap_steps * config.batch_size
        order = torch.multinomial(weights, draws, True, generator=generator)
        size = config.size_at(seconds / (60 * config.minutes))
        model.train()
        started, loss_sum = time.perf_counter(), torch.zeros(())
        for step, rows in enumerate(order.view(config.lap_steps, -1)):
            progress = (seconds + time.perf_counter() - started) / (60 * config.minutes)
            if progress >= 1:
                break
            rate = config.rate_at(lap * config.lap_steps + step, progress)
            for group in optimizer.param_groups:
                group["lr"] = rate
            x = augment(images[rows], size, config.erase_probability, generator)
            loss = F.cross_entropy(fused_forward(model, x)[1], targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(model)
            loss_sum += loss.detach()
            if step % 50 == 0:
                faces = (step + 1) * config.batch_size / (time.perf_counter() - started)
                print(
                    f"lap {lap + 1} step {step} | {progress:.1%} of the time | {size} px | "
                    f"rate {rate:.5f} | loss {loss_sum.item() / (step + 1):.4f} | "
                    f"{faces:.0f} faces/s",
                    flush=True,
                )
        lap += 1
        spent = time.perf_counter() - started
        seconds += spent
        row = {
            "lap": lap,
            "minutes": round(seconds / 60, 2),
            "size": size,
            "faces_per_s": round((step + 1) * config.batch_size / spent, 1),
            "loss": round(loss_sum.item() / (step + 1), 5),
        }
        torch.save(average.module.state_dict(), out / f"lap_{lap:03d}.pt")
        state = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lap": lap,
            "seconds": seconds,
        }
        torch.save(state, out / "state.tmp")
        os.replace(out / "state.tmp", state_path)
        if seconds >= 60 * config.minutes * config.score_from:
            row |= scores(predict(average.module, valid.images_NHW), valid)
        print(json.dumps(row), flush=True)
        with (out / "laps.csv").open("a", newline="") as file:
            csv.writer(file).writerow(row.values())
