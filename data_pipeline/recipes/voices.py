"""From which distance on two voices are two people: conversations drawn from single utterances.

    python -m data_pipeline.recipes.voices ../shared/data --output docs/results/voices.md

Utterances whose speaker is known (RAVDESS, EmoDB: acted, strong emotions; GRID: plain) are drawn
into conversations of one to three people, told apart by `data_pipeline.speaker.voices`, and held
against the truth: adjusted Rand index (1 is right, 0 is chance) and people too many or too few.
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from data_pipeline.files.atomic import atomic_file
from data_pipeline.markdown import markdown_table
from data_pipeline.media.clip_media import open_clip
from data_pipeline.paths import new_file_argument, path_argument
from data_pipeline.recipes.gatherings import gatherings
from data_pipeline.schema import Clip
from data_pipeline.speaker.voice import voice_activity
from data_pipeline.speaker.voices import FARTHEST, embed_voices, load_voice_encoder, tell_apart

CORPORA = {
    "RAVDESS": ("ravdess_audio", "actor", 200),
    "EmoDB": ("emodb", "speaker", 100),
    "GRID": ("grid_multi", "person_by_eye", 8),
}
"""Folder, the column that names who speaks, and how many utterances."""
DISTANCES = (0.20, 0.24, 0.28, 0.32, 0.36, 0.40, 0.44)
CONVERSATIONS, MOST_PEOPLE, MOST_UTTERANCES = 100, 3, 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Voices:
    """N utterances of a corpus."""

    vectors: list[np.ndarray]
    seconds: list[float]
    people: list[str]


def read_voices(folder: Path, column: str, count: int, seed: int) -> Voices:
    """Of `count` utterances, drawn. Raises UserError for a corpus that is not there."""
    table = folder / "metadata.csv"
    if not table.is_file():
        raise UserError(f"no {table}; expected the corpus there, with a column {column}")
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
    encoder = load_voice_encoder()
    found = Voices(vectors=[], seconds=[], people=[])
    for row in tqdm([rows[n] for n in drawn], desc=folder.name, disable=None):
        sound_T = open_clip(Clip(id="voice", video=str(folder / row["file"]))).sound_T
        spans = [] if sound_T is None else voice_activity(sound_T).spans
        if not spans:
            continue
        whole = (spans[0][0], spans[-1][1])
        (vector,) = embed_voices(encoder, sound_T, [whole])
        if vector is not None:
            found.vectors.append(vector)
            found.seconds.append(whole[1] - whole[0])
            found.people.append(row[column])
    return found


def conversations(voices: Voices, seed: int) -> Iterator[list[int]]:
    """Utterances of one to MOST_PEOPLE people, in a drawn order."""
    most = {"most_people": MOST_PEOPLE, "most_pieces": MOST_UTTERANCES}
    return gatherings(voices.people, count=CONVERSATIONS, seed=seed, **most)


def judge(voices: Voices, farthest: float, seed: int) -> tuple[float, float]:
    """Mean adjusted Rand index, and mean of people found less people there."""
    from sklearn.metrics import adjusted_rand_score

    scores, surplus = [], []
    for drawn in conversations(voices, seed):
        truth = [voices.people[n] for n in drawn]
        vectors, seconds = ([kind[n] for n in drawn] for kind in (voices.vectors, voices.seconds))
        found = tell_apart(vectors, seconds, farthest)
        scores.append(adjusted_rand_score(truth, found))
        surplus.append(len(set(found)) - len(set(truth)))
    return float(np.mean(scores)), float(np.mean(surplus))


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="voices")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.recipes.voices",
        "From which distance on two voices are two people.",
        "python -m data_pipeline.recipes.voices ../shared/data --output docs/results/voices.md",
    )
    parser.add_argument("data", type=path_argument, help="folder of the corpora")
    parser.add_argument("--output", type=new_file_argument, required=True, help="page to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    found = {
        name: read_voices(args.data / folder, column, count, args.seed)
        for name, (folder, column, count) in CORPORA.items()
    }
    rows = []
    for farthest in DISTANCES:
        cells = [judge(voices, farthest, args.seed) for voices in found.values()]
        mark = " (as it is)" if farthest == FARTHEST else ""
        rows.append((f"{farthest:.2f}{mark}", *(f"{ari:.2f}, {n:+.1f}" for ari, n in cells)))
    names = [f"{name}, {len(set(v.people))} people" for name, v in found.items()]
    page = "\n".join(
        [
            "# Voices told apart",
            "",
            "    python -m data_pipeline.recipes.voices ../shared/data "
            "--output docs/results/voices.md",
            "",
            f"{CONVERSATIONS} conversations of one to {MOST_PEOPLE} people, up to "
            f"{MOST_UTTERANCES} utterances, drawn with seed {args.seed}: adjusted Rand index (1 is "
            "right, 0 is chance), and people too many or too few, by the cosine distance from "
            "which on two voices are two people.",
            "",
            markdown_table(("distance", *names), rows),
            "",
        ]
    )
    with atomic_file(args.output) as file:
        file.write(page.encode())
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
