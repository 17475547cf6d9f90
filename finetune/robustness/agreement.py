"""python -m finetune.robustness.agreement RUN/recognizer --shards FOLDER --output FOLDER

What M3ER's modality check can tell on clips that it was not fitted on. For each two streams: how
well they agree where both are the clip's own, where one is another clip's, and where one is noisy;
and the area under the ROC curve of telling the second and third from the first by the agreement. At
.5 the check guesses, whatever its threshold is.

Writes agreement.csv and agreement.md, means over the recognizers given.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.markdown import markdown_table
from data_pipeline.paths import path_argument
from data_pipeline.schema import ClipSample
from finetune.heads.modality_check import Agreement
from finetune.recognizer import Recognizer, load_recognizer
from finetune.robustness.arguments import add_recognizers
from finetune.robustness.judge import RobustnessError, noisy_of, read_clips
from finetune.runs.results import write_csv, write_text

Pair = tuple[str, str]
RATIO = 0.01
"""Signal to noise of power, as in M3ER's protocol."""


def agreements(recognizer: Recognizer, samples: Sequence[ClipSample]) -> dict[Pair, np.ndarray]:
    """Each two streams to [N], what the recognizer's check finds in each clip; NaN for a clip that
    has not both.

    Raises RobustnessError for a recognizer without a check.
    """
    network = getattr(recognizer, "classifier", None)
    checks = [m for m in network.modules() if isinstance(m, Agreement)] if network else []
    if not checks:
        raise RobustnessError(
            "the recognizer has no modality check; expected one of head m3er, of three streams, "
            "with options.check=true"
        )
    found: dict[Pair, list[np.ndarray]] = defaultdict(list)

    def keep(_: Any, asked: tuple[Any, Pair], said_N: torch.Tensor) -> None:
        found[asked[1]].append(said_N.float().cpu().numpy())

    handle = checks[0].register_forward_hook(keep)
    try:
        recognizer.predict(samples)
    finally:
        handle.remove()
    has = {pair: np.array([all(map(s.has, pair)) for s in samples]) for pair in found}
    return {
        pair: np.where(has[pair], np.concatenate(parts), np.nan) for pair, parts in found.items()
    }


def another_clips(
    samples: Sequence[ClipSample], stream: str, rng: np.random.Generator
) -> list[ClipSample]:
    """The clips, each of those that have that stream, or a text, with another one's of them."""
    there = [n for n, sample in enumerate(samples) if sample.has(stream)]
    moved = rng.permutation(there)
    given = list(samples)
    for n, source in zip(moved, np.roll(moved, 1), strict=True):  # one circle: nobody keeps its own
        other = samples[source]
        given[n] = (
            replace(samples[n], text=other.text, words=other.words)
            if stream == "text"
            else replace(samples[n], streams=samples[n].streams | {stream: other.streams[stream]})
        )
    return given


def measure(recognizer: Recognizer, samples: Sequence[ClipSample], seed: int) -> list[dict]:
    """A line for each pair, stream of it and change of that stream."""
    rng = np.random.default_rng(seed)
    own = agreements(recognizer, samples)
    lines = []
    for stream in dict.fromkeys(name for pair in own for name in pair):
        changes = {"another clip's": another_clips(samples, stream, rng)}
        if stream != "text":
            changes["noisy"] = [noisy_of(s, stream, RATIO, (seed, 0), share=1.0) for s in samples]
        for change, changed in changes.items():
            for pair, now_N in agreements(recognizer, changed).items():
                if stream in pair:
                    lines.append(_line(pair, stream, change, own[pair], now_N))
    return lines


def _line(pair: Pair, stream: str, change: str, own_N: np.ndarray, now_N: np.ndarray) -> dict:
    own_N, now_N = own_N[~np.isnan(own_N)], now_N[~np.isnan(now_N)]
    if len(own_N) < 2:
        raise RobustnessError(
            f"{len(own_N)} of the clips have both {' and '.join(pair)}; expected two or more, to "
            "exchange their streams"
        )
    changed_2N = np.repeat([0, 1], (len(own_N), len(now_N)))
    return {
        "pair": " and ".join(pair),
        "changed": stream,
        "change": change,
        "own": float(own_N.mean()),
        "own_sd": float(own_N.std(ddof=1)),
        "now": float(now_N.mean()),
        "auc": float(roc_auc_score(changed_2N, -np.concatenate([own_N, now_N]))),
        "num_clips": len(own_N),
    }


def write(folder: Path, lines: list[dict]) -> str:
    """Write both files; the Markdown."""
    write_csv(folder / "agreement.csv", list(lines[0]), lines)
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for line in lines:
        groups[line["pair"], line["changed"], line["change"]].append(line)
    rows = []
    for (pair, changed, change), group in groups.items():
        own, spread, now = (np.mean([x[n] for x in group]) for n in ("own", "own_sd", "now"))
        auc = [x["auc"] for x in group]
        over = f" ± {np.std(auc, ddof=1):.3f}" if len(auc) > 1 else ""
        rows.append(
            (pair, f"{changed} {change}", f"{own:.2f} ± {spread:.2f}", f"{now:.2f}",
             f"{np.mean(auc):.3f}{over}")
        )  # fmt: skip
    told = (
        "Correlation of two streams of a clip as the check sees it, over clips that it was not "
        f"fitted on; noise has {1 / RATIO:.0f} times the power of the stream."
    )
    head = ("Streams", "Change", "Agreement before, ± over clips", "After", "AUC")
    text = f"# Agreement\n\n{told}\n\n{markdown_table(head, rows)}\n"
    write_text(folder / "agreement.md", text)
    return text


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for recognizers without a check, with one message that says so."""
    return run_command(_main, argv, name="finetune.robustness.agreement")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    found = command_parser(
        "python -m finetune.robustness.agreement",
        "What M3ER's modality check can tell on clips that it was not fitted on.",
        "python -m finetune.robustness.agreement runs/finetune/runs/m3er/*/recognizer\n"
        "      --shards runs/mine/shards --output runs/finetune/agreement",
    )
    add_recognizers(found)
    found.add_argument("--seed", type=int, default=0, metavar="N", help="of noise and exchanges")
    found.add_argument("--output", type=path_argument, required=True, metavar="FOLDER")
    return found


def _main(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    lines = []
    for folder in args.recognizers:
        recognizer = load_recognizer(folder)
        samples = read_clips(folder, recognizer, args.shards).samples
        own = measure(recognizer, samples, args.seed)
        lines += [{"recognizer": str(folder)} | line for line in own]
    print(write(args.output, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
