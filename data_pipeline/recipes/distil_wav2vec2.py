"""How `wav2vec2_small` was made: a small wav2vec2 answers for the states of two Whispers.

    python -m data_pipeline.recipes.distil_wav2vec2 teach  --work WORK    # books of lessons, once
    python -m data_pipeline.recipes.distil_wav2vec2 train  --work WORK    # rerun to go on
    python -m data_pipeline.recipes.distil_wav2vec2 export --work WORK --out FOLDER

All run at 50 states a second. What the student hears is in `speech.lessons`, what it is in
`speech.student`. No label is read, emotion or word.

Shapes: B crops, T samples, S states, D width of the student, E numbers of the teachers' states.
"""

import csv
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.features.wav2vec2 import CARD_HASH
from data_pipeline.files.weights import ASSETS, sha256_of
from data_pipeline.recipes.speech.corpora import DISTILLED, read_corpus, read_sound
from data_pipeline.recipes.speech.lessons import READ, SHARES, TARGETS, Batch, Lessons, teach
from data_pipeline.recipes.speech.prosody import COLUMNS
from data_pipeline.recipes.speech.student import (
    Answers,
    Student,
    shipped,
    start_from,
    student_config,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run is made of; written beside its state, and a run goes on only with its own."""

    steps: int = 6000
    """Optimizer steps in all."""
    warmup_steps: int = 100
    decay_share: float = 0.4
    """The learning rate is flat, and falls to zero over this last share of the steps."""
    learning_rate: float = 7e-4
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    """The exported weights are this running mean of the trained ones."""
    batch_seconds: float = 24.0
    """Sound in one batch."""
    mask_share: float = 0.1
    """Share of a crop's states masked, in half of the crops."""
    start: str = "wav2vec2_small"
    """Whose weights it starts from: a name in the assets, another folder, or "" for random ones."""
    width: int = 256
    targets: tuple[str, ...] = ("tiny",)
    """Teacher states to answer for, of `speech.lessons.TARGETS`."""
    speeds: tuple[float, ...] = (1.0,)
    read_parts: int = 0
    """Books of what machines read."""
    read_share: float = 0.3
    """Their share of a batch, if there are any."""
    disturb: str = "plain"
    """How the student's sound is disturbed: a kind of `speech.disturb`."""
    moment_weight: float = 0.0
    """Weight of the loss of the moments' head."""
    prosody_weight: float = 0.0
    """Weight of the loss of the prosody's head."""
    kernel_weight: float = 0.0
    """Weight of `kernel_loss`; with it all crops of a batch are of one corpus."""
    own_weight: float = 0.0
    """Weight of `own_loss`, data2vec's: masked states answer for the running mean's own."""
    seed: int = 0

    @property
    def shares(self) -> dict[str, float]:
        """Of each corpus in a batch."""
        if not self.read_parts:
            return SHARES
        real = {name: share * (1 - self.read_share) for name, share in SHARES.items()}
        read = {f"{READ}{i}": self.read_share / self.read_parts for i in range(self.read_parts)}
        return real | read

    @property
    def widths(self) -> list[int]:
        return [TARGETS[name] for name in self.targets]


def state_loss(answer_BSE: torch.Tensor, target_BSE: torch.Tensor) -> tuple[torch.Tensor, float]:
    """L1 + (1 - cosine) of the states of one teacher, + L1 of their mean and deviation over the
    crop. Targets are standardized. Also returns the mean cosine, detached."""
    cosine = F.cosine_similarity(answer_BSE, target_BSE, dim=-1).mean()
    loss = F.l1_loss(answer_BSE, target_BSE) + 1 - cosine
    loss = loss + F.l1_loss(answer_BSE.mean(1), target_BSE.mean(1))
    loss = loss + F.l1_loss(answer_BSE.std(1), target_BSE.std(1))
    return loss, cosine.detach()


def prosody_loss(
    answer_BSP: torch.Tensor, target_BSP: torch.Tensor, voiced_BS: torch.Tensor
) -> torch.Tensor:
    """L1 of every column, that of the pitch over voiced states alone."""
    error_BSP = (answer_BSP - target_BSP).abs()
    pitch = COLUMNS.index("log_f0")
    pitch_loss = (error_BSP[..., pitch] * voiced_BS).sum() / voiced_BS.sum().clamp(min=1)
    others = [i for i in range(len(COLUMNS)) if i != pitch]
    return (pitch_loss + error_BSP[..., others].mean((0, 1)).sum()) / len(COLUMNS)


def kernel_loss(own_B2D: torch.Tensor, moment_BE2: torch.Tensor) -> torch.Tensor:
    """1 - the correlation of the inner products of all pairs of crops, by the student's moments and
    by the teachers'. A linear probe with a quadratic penalty sees its features through these
    products alone, so what teachers tell apart by little must not drown in the student either."""
    pairs = ~torch.eye(len(own_B2D), dtype=torch.bool)
    products = [
        (x @ x.T)[pairs] for x in (own_B2D - own_B2D.mean(0), moment_BE2 - moment_BE2.mean(0))
    ]
    own, teachers = (x - x.mean() for x in products)
    return 1 - F.cosine_similarity(own, teachers, dim=0)


def own_loss(
    own_BSD: torch.Tensor, target_BSD: torch.Tensor, mask_BS: torch.Tensor
) -> torch.Tensor:
    """Squared error at masked states, by the states' width; zero where none is masked."""
    error_BS = (own_BSD - target_BSD).square().mean(-1)
    return (error_BS * mask_BS).sum() / mask_BS.sum().clamp(min=1)


def losses(answers: Answers, batch: Batch, recipe: Recipe) -> dict[str, torch.Tensor]:
    """The parts of the loss, the weighted ones only where they have a weight, and the mean cosine
    with the first teacher."""
    pairs = zip(
        answers.state_BSE.split(recipe.widths, -1),
        batch.target_BSE.split(recipe.widths, -1),
        strict=True,
    )
    scored = [state_loss(answer, target) for answer, target in pairs]
    parts = {"state_loss": torch.stack([loss for loss, _ in scored]).mean()}
    if recipe.moment_weight:
        error = F.l1_loss(answers.moment_BE2, batch.moment_BE2)
        parts["moment_loss"] = recipe.moment_weight * error
    if recipe.prosody_weight:
        error = prosody_loss(answers.prosody_BSP, batch.prosody_BSP, batch.voiced_BS)
        parts["prosody_loss"] = recipe.prosody_weight * error
    if recipe.kernel_weight:
        error = kernel_loss(answers.own_B2D, batch.moment_BE2)
        parts["kernel_loss"] = recipe.kernel_weight * error
    return parts | {"cosine": scored[0][1]}


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm up, stay, fall to zero: a flat middle lets a run be made longer before it falls."""
    up = min(1.0, (step + 1) / recipe.warmup_steps)
    down = min(1.0, (recipe.steps - step) / (recipe.decay_share * recipe.steps))
    return recipe.learning_rate * up * down


def new_student(recipe: Recipe) -> Student:
    torch.manual_seed(recipe.seed)
    student = Student(student_config(recipe.width), sum(recipe.widths))
    if recipe.start:
        folder = Path(recipe.start) if Path(recipe.start).is_dir() else ASSETS / recipe.start
        start_from(student.encoder, load_file(folder / "model.safetensors"))
    return student


def train(work: Path, recipe: Recipe, lessons: Path, save_every: int, stop_at: int | None) -> None:
    """Train in `work` on the books in `lessons`, from the state there if there is one."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    student = new_student(recipe).train()
    parameters = list(student.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    own_mean = new_student(recipe).eval() if recipe.own_weight else None
    ema = {name: value.detach().clone() for name, value in student.state_dict().items()}
    first = 0
    state_path = work / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        check_recipe(recipe_of(state), recipe, state["step"])
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        ema, first = state["ema"], state["step"]
        log.info("going on from step %d", first)
    book = Lessons(
        lessons,
        recipe.shares,
        recipe.speeds,
        recipe.targets,
        recipe.disturb,
        together=recipe.kernel_weight > 0,
    )
    bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    last = min(recipe.steps, stop_at or recipe.steps)
    with open(work / "train.csv", "a", newline="") as file:
        table, started = csv.writer(file), time.process_time()
        for step in range(first, last):
            batch = book.batch(recipe.seed, step, recipe.batch_seconds, recipe.mask_share)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                answers = student(batch.sound_BT, batch.mask_BS)
                if own_mean is not None:
                    own_mean.load_state_dict(ema)
                    target_BSD = own_mean.own_states(batch.sound_BT)
            parts = losses(answers, batch, recipe)
            if own_mean is not None:
                loss = own_loss(answers.own_BSD, target_BSD, batch.mask_BS)
                parts["own_loss"] = recipe.own_weight * loss
            optimizer.zero_grad()
            sum(part for name, part in parts.items() if name.endswith("_loss")).backward()
            norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            keep = min(recipe.ema_decay, (step + 1) / (step + 10))
            with torch.no_grad():
                means = [ema[name] for name, _ in student.named_parameters()]
                torch._foreach_lerp_(means, parameters, 1 - keep)
            if step % 20 == 0:
                row = {"step": step} | {name: part.item() for name, part in parts.items()}
                row |= {"gradient_norm": norm.item(), "learning_rate": learning_rate(recipe, step)}
                row["cpu_seconds_per_step"] = (time.process_time() - started) / (step + 1 - first)
                if file.tell() == 0:
                    table.writerow(row)
                table.writerow([f"{value:.5g}" for value in row.values()])
                file.flush()
                log.info(" | ".join(f"{name} {value:.4g}" for name, value in row.items()))
            if (step + 1) % save_every == 0 or step + 1 == last:
                state = {"student": student.state_dict(), "ema": ema, "step": step + 1}
                state |= {"optimizer": optimizer.state_dict(), "recipe": asdict(recipe)}
                torch.save(state, state_path.with_suffix(".tmp"))
                os.replace(state_path.with_suffix(".tmp"), state_path)


def recipe_of(state: dict) -> Recipe:
    """The recipe that a state was trained by."""
    kept = {f.name: state["recipe"][f.name] for f in fields(Recipe)}
    return Recipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()})


def check_recipe(found: Recipe, wanted: Recipe, step: int) -> None:
    """A run may be given another batch, and other `steps` before its learning rate falls."""
    free = {"steps": 0, "batch_seconds": 0}
    falling = step > (1 - found.decay_share) * min(found.steps, wanted.steps)
    same = asdict(found) | free == asdict(wanted) | free
    if not same or (found.steps != wanted.steps and falling):
        raise ValueError(
            f"this run at step {step} was started with {found}, not {wanted}; go on with the first "
            "or take another --work folder"
        )


def averaged_student(work: Path) -> tuple[Student, dict]:
    """The student with its averaged weights, and the state it comes from."""
    state = torch.load(work / "state.pt", weights_only=True)
    recipe = recipe_of(state)
    student = Student(student_config(recipe.width), sum(recipe.widths)).eval()
    student.load_state_dict(state["ema"])
    return student, state


def heard_sounds(every: int = 1) -> Iterator[np.ndarray]:
    """The sound that the distillation may hear, one of `every`."""
    for name in DISTILLED:
        for utterance in [u for u in read_corpus(name) if not u.held_out][::every]:
            yield read_sound(utterance.path)


def export(work: Path, out: Path, every: int = 1) -> str:
    """Write the averaged encoder as a transformers folder in half precision; return its sha256, and
    put it into the model card if there is one."""
    student, state = averaged_student(work)
    save_encoder(shipped(student.encoder, heard_sounds(every)), out)
    digest = sha256_of(out / "model.safetensors")
    card = out / "README.md"
    if card.is_file():
        card.write_text(CARD_HASH.sub(f"weights_sha256: {digest}", card.read_text()))
    print(f"step {state['step']} of {state['recipe']['steps']}: {out}, weights_sha256: {digest}")
    return digest


def save_encoder(encoder: Wav2Vec2Model, out: Path) -> None:
    encoder.half().save_pretrained(out)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # save_pretrained leaves it to its owner alone


BEST = Recipe(
    steps=9000,
    width=384,
    targets=("tiny", "base3", "base4"),
    read_parts=2,
    read_share=0.2,
    disturb="varied",
    prosody_weight=1.0,
)
"""The recipe of the next weights; those that ship were made by the one of commit 3962995."""


def main(argv: list[str] | None = None) -> int:
    name = "python -m data_pipeline.recipes.distil_wav2vec2"
    parser = command_parser(name, __doc__.splitlines()[0], f"{name} train --work runs/distil")
    parser.add_argument("command", choices=("teach", "train", "export"))
    parser.add_argument("--work", type=Path, required=True, help="folder of books and checkpoints")
    parser.add_argument("--out", type=Path, help="export: folder to write")
    parser.add_argument("--steps", type=int, default=BEST.steps, help="train: steps in all")
    parser.add_argument("--stop-at", type=int, help="train: leave after this step; rerun to go on")
    parser.add_argument("--save-every", type=int, default=100, help="train: steps between states")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.command == "teach":
        torch.set_num_threads(1)
        for speed in BEST.speeds:
            teach(args.work, list(BEST.shares), speed)
    elif args.command == "train":
        recipe = replace(BEST, steps=args.steps)
        train(args.work, recipe, args.work, args.save_every, args.stop_at)
    else:
        if args.out is None:
            parser.error("export needs --out")
        export(args.work, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, None, name="distil_wav2vec2"))
