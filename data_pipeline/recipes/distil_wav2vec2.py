"""How `assets/wav2vec2_small` was made: a small wav2vec2 answers for the states of Whisper tiny.en.

    python -m data_pipeline.recipes.distil_wav2vec2 teach  --work WORK    # teacher states, once
    python -m data_pipeline.recipes.distil_wav2vec2 train  --work WORK    # rerun to go on
    python -m data_pipeline.recipes.distil_wav2vec2 export --work WORK --out FOLDER
    python -m data_pipeline.recipes.distil_wav2vec2 agree  --work WORK    # with the teacher

Both run at 50 states a second. The student answers for the teacher's states through a linear head
that is thrown away afterwards; what it hears is in `speech_lessons`. No label is read.

Shapes: B crops, T samples, S states, D width of the student, E width of the teacher.
"""

import csv
import logging
import math
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.features.wav2vec2 import CARD_HASH, cut_above
from data_pipeline.files.weights import sha256_of
from data_pipeline.recipes.speech_corpora import DISTILLED, read_corpus, read_sound
from data_pipeline.recipes.speech_lessons import (
    SPEEDS,
    TEACHER_SECONDS,
    TEACHER_WIDTH,
    Lessons,
    Teacher,
    normalized,
    teach,
)
from data_pipeline.schema import SAMPLE_RATE

log = logging.getLogger(__name__)

FEATURE_LAYER = 4
"""Hidden state that the shipped encoder ends with; the last layer bends towards the teacher's own
coordinates."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run is made of; written beside its state, and a run goes on only with its own."""

    steps: int = 9000
    """Optimizer steps in all."""
    warmup_steps: int = 300
    decay_share: float = 0.3
    """The learning rate is flat, and falls to zero over this last share of the steps."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    """The exported weights are this running mean of the trained ones."""
    plain_steps: int = 1000
    """Steps at unchanged speed before the other speeds join."""
    batch_seconds: float = 24.0
    """Sound in one batch."""
    mask_share: float = 0.1
    """Share of a crop's states masked, in half of the crops."""
    seed: int = 0


def student_config() -> Wav2Vec2Config:
    """The shape that ships. Early layers are narrow (they run at 3,200 Hz and set the cost), norms
    are per position, so that a state does not depend on padding or on the rest of a batch. The
    feature is taken below the top: the last layers bend towards the teacher's own coordinates."""
    return Wav2Vec2Config(
        feature_layer=4,
        hidden_size=256,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=768,
        conv_dim=(48, 64, 96, 128, 192, 224, 256),
        conv_bias=True,
        feat_extract_norm="layer",
        feat_extract_activation="relu",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=32,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.05,
    )


class ChannelsLastFeatureEncoder(Wav2Vec2FeatureEncoder):
    """The same convolutions with channels last: two matrix products each, and no transposes around
    the norms. A training step costs 0.7 of the plain module's; parameters have the same names."""

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        x_BTC = input_values[..., None]
        for layer in self.conv_layers:
            weight = layer.conv.weight
            out, channels, kernel = weight.shape
            stride = layer.conv.stride[0]
            states = (x_BTC.shape[1] - kernel) // stride + 1
            rows = states + math.ceil(kernel / stride) - 1
            x_BTC = F.pad(x_BTC, (0, 0, 0, max(0, rows * stride - x_BTC.shape[1])))
            row_BRC = x_BTC[:, : rows * stride].reshape(len(x_BTC), rows, stride * channels)
            weight = weight.permute(0, 2, 1).reshape(out, kernel * channels)
            y = F.linear(row_BRC[:, :states], weight[:, : stride * channels], layer.conv.bias)
            if rows > states:  # kernel in (stride, 2 * stride]: the rest lies in the next row
                rest = (kernel - stride) * channels
                y = y + F.linear(row_BRC[:, 1:, :rest], weight[:, stride * channels :])
            x_BTC = layer.activation(layer.layer_norm(y))
        return x_BTC.transpose(1, 2)


class Student(nn.Module):
    """The encoder and the head that answers for the teacher's states."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        config._attn_implementation = "eager"  # 3x faster backward in bf16 on CPU than SDPA
        self.encoder = Wav2Vec2Model(config)
        fast = ChannelsLastFeatureEncoder(config)
        fast.load_state_dict(self.encoder.feature_extractor.state_dict())
        self.encoder.feature_extractor = fast
        self.head = nn.Linear(config.hidden_size, TEACHER_WIDTH)

    def forward(self, sound_BT: torch.Tensor, mask_BS: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(self.encoder(sound_BT, mask_time_indices=mask_BS).last_hidden_state)


def distil_loss(answer_BSE: torch.Tensor, target_BSE: torch.Tensor) -> tuple[torch.Tensor, float]:
    """L1 + (1 - cosine) of the states, + L1 of their mean and deviation over the crop: what a
    linear probe reads. Targets are standardized. Also returns the mean cosine, detached."""
    cosine = F.cosine_similarity(answer_BSE, target_BSE, dim=-1).mean()
    loss = F.l1_loss(answer_BSE, target_BSE) + 1 - cosine
    loss = loss + F.l1_loss(answer_BSE.mean(1), target_BSE.mean(1))
    loss = loss + F.l1_loss(answer_BSE.std(1), target_BSE.std(1))
    return loss, cosine.detach()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm up, stay, fall to zero: a flat middle lets a run be made longer before it falls."""
    up = min(1.0, (step + 1) / recipe.warmup_steps)
    down = min(1.0, (recipe.steps - step) / (recipe.decay_share * recipe.steps))
    return recipe.learning_rate * up * down


def train(work: Path, recipe: Recipe, save_every: int, stop_at: int | None) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    student = Student(student_config()).train()
    parameters = list(student.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    ema = {name: value.detach().clone() for name, value in student.state_dict().items()}
    first = 0
    state_path = work / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        ema, first = state["ema"], state["step"]
        check_recipe(Recipe(**state["recipe"]), recipe, first)
        log.info("going on from step %d", first)
    lessons = Lessons(work, SPEEDS[:1] if first < recipe.plain_steps else SPEEDS)
    bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with open(work / "train.csv", "a", newline="") as file:
        table = csv.writer(file)
        started = time.monotonic()
        for step in range(first, min(recipe.steps, stop_at or recipe.steps)):
            if step == recipe.plain_steps:
                lessons = Lessons(work)
            sound_BT, target_BSE, mask_BS = lessons.batch(
                recipe.seed, step, recipe.batch_seconds, recipe.mask_share
            )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                answer_BSE = student(sound_BT, mask_BS).float()
            loss, cosine = distil_loss(answer_BSE, target_BSE)
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            keep = min(recipe.ema_decay, (step + 1) / (step + 10))
            with torch.no_grad():
                means = [ema[name] for name, _ in student.named_parameters()]
                torch._foreach_lerp_(means, parameters, 1 - keep)
            if step % 20 == 0:
                rate = (time.monotonic() - started) / (step + 1 - first)
                row = [step, loss.item(), cosine.item(), norm.item(), learning_rate(recipe, step)]
                table.writerow([f"{x:.5g}" for x in [*row, rate]])
                file.flush()
                log.info("step %d | loss %.4f | cosine %.4f | norm %.2f | lr %.1e", *row)
            if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
                state = {"student": student.state_dict(), "ema": ema, "step": step + 1}
                state |= {"optimizer": optimizer.state_dict(), "recipe": asdict(recipe)}
                torch.save(state, state_path.with_suffix(".tmp"))
                os.replace(state_path.with_suffix(".tmp"), state_path)


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


def averaged_student(work: Path) -> tuple[Student, dict[str, object]]:
    """The student with its averaged weights, and the state it comes from."""
    state = torch.load(work / "state.pt", weights_only=True)
    student = Student(student_config()).eval()
    student.load_state_dict(state["ema"])
    return student, state


def shipped(encoder: Wav2Vec2Model, sounds: Iterable[np.ndarray]) -> Wav2Vec2Model:
    """The encoder up to FEATURE_LAYER, its final norm set so that over `sounds` every number of a
    state has mean 0 and deviation 1.

    The stream between layers has a few numbers many times as large as the rest. As features they
    would outweigh all else in the loss of SpanMAFR, and a model learned nothing from them.
    """
    small = Wav2Vec2Model(student_config())
    small.load_state_dict(encoder.state_dict())
    cut_above(small, FEATURE_LAYER)
    small.config.num_hidden_layers = FEATURE_LAYER
    norm = nn.LayerNorm(small.config.hidden_size, eps=small.config.layer_norm_eps)
    small.encoder.layer_norm = norm
    small.eval()
    with torch.inference_mode():
        states = [small(torch.from_numpy(normalized(x))[None]).last_hidden_state for x in sounds]
        std_D, mean_D = torch.std_mean(torch.cat(states, 1)[0], 0)
    with torch.no_grad():
        norm.weight.copy_(1 / std_D)
        norm.bias.copy_(-mean_D / std_D)
    return small


def export(work: Path, out: Path) -> str:
    """Write the averaged encoder as a transformers folder in half precision; return its sha256, and
    put it into the model card if there is one."""
    student, state = averaged_student(work)
    sounds = (read_sound(u.path) for name in DISTILLED for u in read_corpus(name) if not u.held_out)
    shipped(student.encoder, sounds).half().save_pretrained(out)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(out)
    weights = out / "model.safetensors"
    weights.chmod(0o644)  # save_pretrained leaves it to its owner alone
    digest = sha256_of(weights)
    card = out / "README.md"
    if card.is_file():
        card.write_text(CARD_HASH.sub(f"weights_sha256: {digest}", card.read_text()))
    print(f"step {state['step']} of {state['recipe']['steps']}: {out}, weights_sha256: {digest}")
    return digest


@torch.inference_mode()
def agreement(student: Student, lessons: Lessons, teacher: Teacher, sound_T: np.ndarray) -> float:
    """Mean cosine of the student's answers and the teacher's standardized states, undisturbed."""
    target_SE = torch.from_numpy((teacher(sound_T) - lessons.mean_E) / lessons.std_E)
    answer_SE = student(torch.from_numpy(normalized(sound_T))[None])[0]
    return F.cosine_similarity(answer_SE, target_SE, dim=-1).mean().item()


def agree(work: Path, num_sounds: int = 40) -> None:
    """Print how well the student answers for the teacher on voices it heard and on others."""
    student, _ = averaged_student(work)
    lessons, teacher = Lessons(work, SPEEDS[:1]), Teacher()
    for name in ("ravdess", "emodb", "grid", "talking_heads"):
        for unheard in (False, True):
            chosen = [
                u for u in read_corpus(name) if (u.held_out or name not in DISTILLED) == unheard
            ]
            most = TEACHER_SECONDS * SAMPLE_RATE
            picked = chosen[:: max(1, len(chosen) // num_sounds)]
            cosines = [
                agreement(student, lessons, teacher, read_sound(u.path)[:most]) for u in picked
            ]
            if cosines:
                kind = "unheard" if unheard else "heard"
                print(f"{name:14} {kind:8} {len(cosines):3} sounds  cosine {np.mean(cosines):.3f}")


def main(argv: list[str] | None = None) -> int:
    name = "python -m data_pipeline.recipes.distil_wav2vec2"
    parser = command_parser(name, __doc__.splitlines()[0], f"{name} train --work runs/distil")
    parser.add_argument("command", choices=("teach", "train", "export", "agree"))
    parser.add_argument("--work", type=Path, required=True, help="folder of states and checkpoints")
    parser.add_argument("--out", type=Path, help="export: folder to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="train: steps in all")
    parser.add_argument(
        "--batch-seconds", type=float, default=Recipe.batch_seconds, help="train: sound in a batch"
    )
    parser.add_argument("--stop-at", type=int, help="train: leave after this step; rerun to go on")
    parser.add_argument("--save-every", type=int, default=100, help="train: steps between states")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.command == "teach":
        teach(args.work)
    elif args.command == "train":
        recipe = Recipe(steps=args.steps, batch_seconds=args.batch_seconds)
        train(args.work, recipe, args.save_every, args.stop_at)
    elif args.command == "agree":
        agree(args.work)
    else:
        if args.out is None:
            parser.error("export needs --out")
        export(args.work, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, None, name="distil_wav2vec2"))
