"""python -m finetune.systems.face_eeg table --data FOLDER

What fusing faces and EEG is worth on the made set (data_pipeline.recipes.face_eeg), of people that
nobody learned from. It is a list of commands that a user could give, and a page made of what they
leave; what is there already is not run again. Some ten minutes of one CPU core.

W ways to decide, N clips.
"""

import csv
import shlex
from pathlib import Path

import numpy as np

from data_pipeline.command_line import command_parser, run_shell
from data_pipeline.errors import UserError
from data_pipeline.files.atomic import atomic_file
from data_pipeline.markdown import markdown_table
from data_pipeline.paths import path_argument

COMMAND = "python -m finetune.systems.face_eeg table"
RUNS = "runs/face_eeg"
CONFIG = "configs/finetune/face_eeg.yaml"
CLASSES = ("neutral", "sad", "fear", "happy")
CHANNELS = "Fp1, Fp2, F7, F3, Fz, F4, F8, T7, C3, Cz, C4, T8, P3, Pz, P4, Oz"
FOLDS, SEEDS = range(5), (1, 2, 3, 4, 5)
NUM_RESAMPLES = 5000
BETTER = "better alone"
PAPERS = 40, 48
"""Right, of how many clips: what the paper's 83.33 % may come from, 3 people with 16 clips each."""


def data_commands(root: Path) -> list[str]:
    """From open data to shards of faces and of made EEG."""
    table = f"{RUNS}/clips.csv"
    return [
        f"python -m data_pipeline.recipes.face_eeg {shlex.quote(str(root))} --output {RUNS}",
        f"python -m data_pipeline.recipes.compose {table} --output {RUNS}/faces",
        f"python -m data_pipeline.extract clips={table} output={RUNS}/waves 'streams={{face: "
        f"false, speech: false, eeg: {{channels: [{CHANNELS}]}}}}' 'require=[eeg]' speaker=none",
    ]


def run_commands() -> list[str]:
    """A recognizer of faces and one of EEG, for each fold and seed."""
    launch = f"accelerate launch --quiet finetune/run.py --config {CONFIG}"
    seeds = f"'seeds={list(SEEDS)}'"
    return [
        f"{launch} {seeds}",
        f"{launch} 'settings=[eeg]' 'data.modalities=[eeg]' 'data.shards=[{RUNS}/waves]' "
        f"output={RUNS}/eeg {seeds}",
    ]


def fuse_command(fold: int, seed: int) -> str:
    """The two of a fold, decided together."""
    runs = (f"{RUNS}/{name}/runs/{name}/fold{fold}-seed{seed}-*" for name in ("face", "eeg"))
    return f"python -m finetune.fuse {' '.join(runs)} --output {_fused(fold, seed)}"


def _fused(fold: int, seed: int) -> str:
    return f"{RUNS}/fused/fold{fold}-seed{seed}"


def main(argv: list[str]) -> int:
    """Run all that is missing, and write the page."""
    parser = command_parser(
        COMMAND,
        "What fusing faces and EEG is worth on the made set: runs what is missing and writes\n"
        "docs/results/face_eeg.md.",
        f"{COMMAND} --data ../shared/data",
    )
    parser.add_argument("--data", type=path_argument, help="folder with ferplus/")
    parser.add_argument(
        "--publish", action="store_true", help="run nothing: the page of what there is"
    )
    parser.add_argument("--output", type=path_argument, default=Path("docs/results"), help="folder")
    args = parser.parse_args(argv)
    if not args.publish:
        if args.data is None:
            parser.error("--data is not given; expected a folder with ferplus/, or --publish")
        steps = [] if Path(RUNS, "waves/summary.json").is_file() else data_commands(args.data)
        steps += run_commands()
        steps += [
            fuse_command(fold, seed)
            for seed in SEEDS
            for fold in FOLDS
            if not Path(_fused(fold, seed), "predictions.csv").is_file()
        ]
        for command in steps:
            run_shell(command)
    print(publish(args.output))
    return 0


def publish(output: Path) -> Path:
    """Write the page of all that is there. Raises UserError where a fold of seed 1 is missing."""
    by_seed = [found for seed in SEEDS if (found := read_decisions(seed)) is not None]
    if not by_seed or read_decisions(SEEDS[0]) is None:
        raise UserError(f"no fused runs in {RUNS}/fused; give --data, without --publish")
    output.mkdir(parents=True, exist_ok=True)
    page = output / "face_eeg.md"
    with atomic_file(page) as file:
        file.write(("\n\n".join([_HEAD, *_parts(by_seed)]) + "\n").encode())
    return page


Decisions = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]
"""Fold and truth of the clips [N], and what each way decides of them [N]."""


def read_decisions(seed: int) -> Decisions | None:
    """The test clips of all folds, each decided by what its own fold's dev clips taught; None
    where a fold is missing."""
    paths = [Path(_fused(fold, seed), "predictions.csv") for fold in FOLDS]
    if not all(path.is_file() for path in paths):
        return None
    rows: list[tuple[int, dict[str, str]]] = []
    for fold, path in zip(FOLDS, paths, strict=True):
        with open(path, newline="", encoding="utf-8") as file:
            rows += [(fold, row) for row in csv.DictReader(file)]
    names = (*CLASSES, "")  # an abstention is no class

    def column(name: str) -> np.ndarray:
        return np.array([names.index(row[name]) for _, row in rows])

    ways = [name for name in rows[0][1] if name not in ("clip", "truth")]
    return np.array([fold for fold, _ in rows]), column("truth"), {way: column(way) for way in ways}


def _parts(by_seed: list[Decisions]) -> list[str]:
    from finetune.compare.paired import compare_clips  # with scipy
    from finetune.metrics import score

    fold_N, truth_N, said = by_seed[0]
    lines = []
    for way, decision_N in said.items():
        scores = score(truth_N, decision_N, len(CLASSES), num_resamples=NUM_RESAMPLES)
        beside = compare_clips(truth_N, decision_N, said[BETTER])
        of_seeds = [100 * score(t_N, s[way], len(CLASSES)).ua for _, t_N, s in by_seed]
        lines.append(
            (
                way,
                _interval(scores.ua, scores.ua_interval),
                _interval(beside.ua.mean, (beside.ua.low, beside.ua.high), "+.1f"),
                f"{beside.p_mcnemar:.2g}",
                f"{np.mean(of_seeds):.1f} ± {np.std(of_seeds, ddof=1):.1f}"
                if len(of_seeds) > 1
                else "",
            )
        )
    header = ("who", "UA, seed 1", "UA above the better alone", "p", f"UA, {len(by_seed)} seeds")
    told = (
        f"Shares in %, of {len(truth_N)} test clips of {len(FOLDS)} folds; 95 % bootstrap "
        "intervals over clips. p is McNemar's against the better alone, which dev clips of each "
        "fold chose. Clips of one person are no independent draws: the intervals are rather narrow."
    )
    return [told, markdown_table(header, lines), _at_48(fold_N, truth_N, said)]


def _at_48(fold_N: np.ndarray, truth_N: np.ndarray, said: dict[str, np.ndarray]) -> str:
    """What one fold alone would have let one say."""
    from scipy.stats import binomtest

    from finetune.metrics import score

    lines, widths = [], []
    for fold in FOLDS:
        of_fold_N = fold_N == fold
        cells = []
        for decision_N in said.values():
            found = score(
                truth_N[of_fold_N],
                decision_N[of_fold_N],
                len(CLASSES),
                num_resamples=NUM_RESAMPLES,
            )
            cells.append(_interval(found.ua, found.ua_interval))
            widths.append(100 * (found.ua_interval[1] - found.ua_interval[0]))
        lines.append((fold, int(of_fold_N.sum()), *cells))
    right, clips = PAPERS
    exact = binomtest(right, clips).proportion_ci(method="exact")
    return (
        f"## What {clips} clips can say\n\n"
        + markdown_table(("fold", "clips", *said), lines)
        + "\n\nOne fold has as many clips as the paper's own recordings, 3 people with 16 each. "
        f"Its intervals are {np.mean(widths):.0f} points wide in the mean. The paper's 83.33 % "
        f"would be {right} of {clips}, if those are what it was measured on: "
        f"{_interval(right / clips, (exact.low, exact.high))} by the exact binomial interval. Ten "
        "points between two ways to fuse are no difference on so few clips."
    )


def _interval(value: float, ends: tuple[float, float], form: str = ".1f") -> str:
    return f"{100 * value:{form}} [{100 * ends[0]:{form}}, {100 * ends[1]:{form}}]"


_HEAD = f"""# Faces and EEG, decided together

A classifier of faces and one of EEG decide together by Monte Carlo over their confusion matrices
on dev, 10,000 draws, a Dirichlet prior, the most frequent class (`finetune/fusion.py`); beside it
the plain product of their posteriors, the weighted sum, and the better one of the two alone. The
idea is that of Tan, Sun, Duan, Sole-Casals and Caiafa (Biomedical Signal Processing and Control
70, 2021, 103029), whose formula, classifiers and data are not published: what stands here is our
reading, on other data, and nothing to compare with their 83.33 %.

```sh
{COMMAND} --data ../shared/data
```

**What is real**: the pictures, FER+ faces that the DenseNet which ships did not learn its weights
from, as `face` features; the classifiers, folds, dev-chosen steps and fusion, which are those of
any other data. **What is made**: the EEG, noise whose power in five bands at 16 channels depends
on the emotion, on the person and on chance; the people, who are a name; and that face and EEG
have nothing in common but the emotion (`data_pipeline/recipes/face_eeg.py`).

Monte Carlo reads decisions alone: where the two disagree it follows the one whose matrix on dev
speaks for itself, and with 48 dev clips, twelve of a class, neither says much. Product and sum also
read how sure each is.

The figures say that the path runs from an EDF file to a decision, that strangers are judged, and
how the ways to fuse compare where two channels err independently, which is the best case for any
of them. They do not say how well EEG, or faces, tell emotions: how often each is right was chosen
with the sizes of the effects."""
