"""What each idea gives alone: the same few steps from the same weights with the same seed.

    python -m data_pipeline.recipes.speech.ideas --work WORK    # adds the rows that ideas.csv lacks
    python -m data_pipeline.recipes.speech.ideas --layers       # teacher_layers.csv

A row is the baseline with one thing changed; the first is the encoder that all start from. They are
scored on the speakers that the distillation hears, so that nothing is chosen on those reported:
UAR by folds of RAVDESS's actors 1 to 18 and of EmoDB's first seven speakers, and R2 of pitch and
energy on actors 15 to 18 of a map fitted on the others.
"""

import csv
import logging
import shutil
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.features.wav2vec2 import SpeechEncoder, load_speech_encoder
from data_pipeline.recipes.distil_wav2vec2 import Recipe, export, train
from data_pipeline.recipes.speech.corpora import Utterance, read_corpus, read_sound
from data_pipeline.recipes.speech.probes import EMOTIONAL, RESULTS, fold_uar, moments
from data_pipeline.recipes.speech.readout import prosody_r2, sampled
from data_pipeline.recipes.speech.teachers import Teacher, base, tiny_en

BASELINE = Recipe(steps=300, warmup_steps=30, ema_decay=0.98)
IDEAS = {
    "baseline": BASELINE,
    "moments": replace(BASELINE, moment_weight=1.0),
    "middle layers": replace(BASELINE, targets=("tiny", "base3", "base4")),
    "width 384": replace(BASELINE, width=384),
    "middle layers, kernel": replace(
        BASELINE, targets=("tiny", "base3", "base4"), kernel_weight=1.0
    ),
    "width 320": replace(BASELINE, width=320),
    "prosody": replace(BASELINE, prosody_weight=1.0),
    "variety": replace(BASELINE, disturb="varied"),
    "words": replace(BASELINE, read_parts=2),
    "last layers": replace(BASELINE, targets=("tiny", "base")),
    "own targets": replace(BASELINE, own_weight=1.0, mask_share=0.4),
    "start anew": replace(BASELINE, start=""),
}
"""A name, and the recipe: the baseline but for one setting."""
INNER_TEST = ("15", "16", "17", "18")
"""RAVDESS actors that pitch and energy are read on."""
INNER_SOUNDS = 240
EXPORT_EVERY = 8
"""The last norm is set on one of so many sounds."""


def heard_of(corpus: str) -> list[Utterance]:
    return [u for u in read_corpus(corpus) if not u.held_out]


def inner_uar(heard: list[Utterance], x_ND: np.ndarray) -> tuple[float, float]:
    """Mean and spread over three deals of the folds."""
    y_N, speaker_N = (np.array([getattr(u, key) for u in heard]) for key in ("label", "speaker"))
    values = fold_uar(x_ND, y_N, speaker_N, strength=0.1)
    return statistics.mean(values), statistics.stdev(values)


def inner_scores(encoder: SpeechEncoder) -> Iterator[tuple[str, float, float]]:
    """Name, mean and spread of each score."""
    for corpus in EMOTIONAL:
        heard = heard_of(corpus)
        x_ND = np.stack([moments(encoder(read_sound(u.path))) for u in heard])
        yield f"{corpus} UAR", *inner_uar(heard, x_ND)
    chosen = sampled(heard_of("ravdess"), INNER_SOUNDS)
    sounds, tested = [read_sound(u.path) for u in chosen], [u.speaker in INNER_TEST for u in chosen]
    for name, (value, _) in prosody_r2(encoder, encoder.spec.rate_hz, sounds, tested).items():
        yield f"{name} R2", value, 0.0


def write_layers(path: Path) -> None:
    """The UAR of every layer of both teachers; the last is the last layer behind the norm."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["teacher", "layer", "corpus", "UAR", "spread"])
        for name, data in (("Whisper tiny.en", tiny_en()), ("Whisper base", base())):
            teacher = Teacher(data)
            for corpus in EMOTIONAL:
                heard = heard_of(corpus)
                rows = [[moments(h) for h in teacher.layers(read_sound(u.path))] for u in heard]
                for layer, x_ND in enumerate(map(np.stack, zip(*rows, strict=True)), start=1):
                    mean, spread = inner_uar(heard, x_ND)
                    table.writerow([name, layer, corpus, f"{mean:.4f}", f"{spread:.4f}"])
                    file.flush()


def tried(work: Path, name: str, start: str) -> SpeechEncoder:
    """The encoder of one idea, trained from `start` and exported in a folder of its own."""
    run = work / "ideas" / name.replace(" ", "_")
    recipe = IDEAS[name]
    recipe = replace(recipe, start=start if recipe.start else "")
    train(run, recipe, work, save_every=50, stop_at=None)
    shutil.rmtree(run / "encoder", ignore_errors=True)
    export(run, run / "encoder", EXPORT_EVERY)
    return load_speech_encoder(str(run / "encoder"), pooling=1)


def main(argv: list[str] | None = None) -> int:
    name = "python -m data_pipeline.recipes.speech.ideas"
    parser = command_parser(name, __doc__.splitlines()[0], f"{name} --work runs/distil")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--work", type=Path, help="folder of the books")
    what.add_argument("--layers", action="store_true", help="score the teachers' layers")
    parser.add_argument(
        "--start", default=BASELINE.start, help="name or folder of the first weights"
    )
    parser.add_argument("--only", nargs="+", choices=tuple(IDEAS), help="try these alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of ideas.csv")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    if args.layers:
        write_layers(args.out / "teacher_layers.csv")
        return 0
    path = args.out / "ideas.csv"
    done = set()
    if path.exists():
        with open(path, newline="") as file:
            done = {row["idea"] for row in csv.DictReader(file)}
    for name in ["start", *(args.only or IDEAS)]:
        if name in done:
            continue
        if name == "start":
            encoder = load_speech_encoder(args.start, pooling=1)
        else:
            encoder = tried(args.work, name, args.start)
        scores = list(inner_scores(encoder))
        cells = {title: f"{mean:.4f}" for title, mean, _ in scores}
        cells |= {f"{title} spread": f"{x:.4f}" for title, _, x in scores if x}
        with open(path, "a", newline="") as file:
            table = csv.DictWriter(file, ["idea", *cells])
            if file.tell() == 0:
                table.writeheader()
            table.writerow({"idea": name} | cells)
        print(name, cells, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, None, name="speech.ideas"))
