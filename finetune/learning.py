"""python -m finetune.learning [--output docs/results/learning.md]

What the ways to pretrain are worth that this project or its paper chose: several objectives in a
step or one, a task that is sometimes left out (dice) or never, spans of three masked frames or
single ones, packed rows or padded ones (which must not matter), real times or places of frames. On
the composed pool, by held-out masked words and by the prompt that is finetuned on a tenth of the
labels, and on GRID, by the masked words that the model names. It is a list of commands that a user
could give, and a page made of what they leave; each goes on where it was, so a study that was
stopped is given again. The unit is a pretraining: three seeds of each, from the same number of
clips. Hours of two CPU cores.

Needs runs/composed (configs/pretrain/composed.yaml) and runs/grid_s1
(configs/pretrain/pairing_grid.yaml). S seeds.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.command_line import command_parser, run_command, run_shell
from data_pipeline.errors import UserError
from data_pipeline.markdown import markdown_table
from data_pipeline.paths import new_file_argument
from finetune.benchmark import ABLATIONS

if TYPE_CHECKING:
    from finetune.compare.paired import Interval, PairedUnits

COMMAND = "python -m finetune.learning"
RUNS = Path("runs/learning")
SEEDS = (1, 2, 3)
STEPS = 400
"""Of the composed pool's pretrainings."""
BASE = "as it is"


@dataclass(frozen=True, kw_only=True)
class Way:
    """A pretraining that differs from the others by one choice."""

    told: str
    changes: str
    """To the config of pretraining."""


WAYS = {
    BASE: Way(told="all objectives in a step, dice, spans of 3, packed rows", changes=""),
    "one objective a step": Way(told="drawn by weight", changes="objectives.mixing=step"),
    "always masked": Way(told="without dice", changes=ABLATIONS["always_masked"]),
    "random frames": Way(told="half of them, one by one", changes=ABLATIONS["random_frames"]),
    "padded": Way(told="no packing", changes="data.packing=none"),
}
POSITIONS = {"composed": ("real times", "seconds"), "grid": ("places", "index")}
"""Where face and speech frames stand, other than each corpus's config has it."""
WORDS = ("preposition", "letter", "digit")


def ways_of(corpus: str) -> dict[str, Way]:
    name, positions = POSITIONS[corpus]
    told = "of frames, as positions"
    return WAYS | {name: Way(told=told, changes=f"model.positions={positions}")}


def folder_of(corpus: str, way: str) -> Path:
    return RUNS / corpus / way.replace(" ", "_")


def composed_commands(way: str) -> list[str]:
    """A pretraining of each seed, and three finetunings on it."""
    commands = []
    for seed in SEEDS:
        folder = folder_of("composed", way) / f"seed-{seed}"
        commands += [
            "bash launch/pretrain.sh --config configs/pretrain/composed.yaml "
            f"optim.steps={STEPS} optim.warmup_steps={STEPS // 10} run.validate_every={STEPS} "
            f"run.seed={seed} run.output={folder}/pretrain "
            f"{ways_of('composed')[way].changes}".strip(),
            "accelerate launch --quiet finetune/run.py --config "
            "configs/finetune/composed_settings.yaml 'settings=[pretrain_prompt]' label_share=0.1 "
            "'plans.pretrain_prompt={num_steps: 100, learning_rate: 2e-4, warmup_steps: 10}' "
            f"'seeds=[1, 2, 3]' judge_oracle=false model.checkpoint={folder}/pretrain "
            f"output={folder}/finetune",
        ]
    return commands


def grid_commands(way: str) -> list[str]:
    """A pretraining of each seed, and what it says of the held-out clips."""
    folder = folder_of("grid", way)
    changes = " ".join(f"pretrain.{change}" for change in ways_of("grid")[way].changes.split())
    return [
        "python -m pretrain.pairing --config configs/pretrain/pairing_grid.yaml "
        f"results={folder}/words pretrain.run.output={folder} 'seeds={list(SEEDS)}' "
        f"{changes}".strip()
    ]


def composed_scores(way: str) -> np.ndarray:
    """[S] UA of the prompt, the mean of its finetunings. Raises UserError where one is missing."""
    from finetune.runs.results import read_rows

    scores = []
    for seed in SEEDS:
        folder = folder_of("composed", way) / f"seed-{seed}/finetune"
        rows = read_rows(folder)
        if len(rows) < len(SEEDS):
            raise UserError(f"{folder} has {len(rows)} runs, expected {len(SEEDS)}; run {COMMAND}")
        scores.append(float(np.mean([row.ua for row in rows])))
    return np.array(scores)


def composed_words(way: str) -> np.ndarray:
    """[S] share of the held-out masked words that are named right, with all that a clip has.
    Raises UserError where it was not run."""
    scores = []
    for seed in SEEDS:
        path = folder_of("composed", way) / f"seed-{seed}/pretrain/validation.csv"
        found = {
            row["subset"]: float(row["word_accuracy"])
            for row in _read(path)
            if (row["step"], row["objective"]) == (str(STEPS), "wwmlm")
        }
        if not found:
            raise UserError(f"{path} has no step {STEPS}; run {COMMAND}")
        scores.append(found[max(found, key=lambda subset: subset.count("+"))])
    return np.array(scores)


def grid_scores(way: str, word: str, condition: str) -> np.ndarray:
    """[S] share of the words that are named right. Raises UserError where it was not run."""
    of_seed = {
        int(row["seed"]): float(row["accuracy"])
        for row in _read(folder_of("grid", way) / "words.csv")
        if (row["position"], row["condition"]) == (word, condition)
    }
    return np.array([of_seed[seed] for seed in SEEDS])


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"no {path}; run {COMMAND}")
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def page() -> str:
    """Of all that was run."""
    composed = ways_of("composed")
    parts = [
        HEAD,
        "## The composed pool: emotions by the prompt, a tenth of the labels",
        _table("composed", {"UA": {way: composed_scores(way) for way in composed}}),
        "## The composed pool: held-out masked words, with speech and face",
        _table("composed", {"words": {way: composed_words(way) for way in composed}}),
        "## GRID: masked words with the clip's own speech and face",
        _table(
            "grid",
            {w: {way: grid_scores(way, w, "true") for way in ways_of("grid")} for w in WORDS},
        ),
        "## GRID: masked letters, by what the model is given",
        _table(
            "grid",
            {
                shown: {way: grid_scores(way, "letter", name) for way in ways_of("grid")}
                for shown, name in (("speech", "speech only"), ("face", "face only"))
            },
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _table(corpus: str, scores: dict[str, dict[str, np.ndarray]]) -> str:
    """A line for each way; each score with its spread, and its distance to `as it is`."""
    from finetune.compare.paired import compare_units

    lines = []
    for way, about in ways_of(corpus).items():
        cells = []
        for of_way in scores.values():
            found = compare_units(of_way[way], of_way[BASE])
            cells.append(f"{100 * found.a.mean:.1f} ± {100 * of_way[way].std(ddof=1):.1f}")
            cells.append("" if way == BASE else _apart(found))
        lines.append((way, about.told, *cells))
    heads = [head for name in scores for head in (f"{name}, %", f"less `{BASE}`, points")]
    return markdown_table(("pretraining", "", *heads), lines)


def _apart(found: "PairedUnits") -> str:
    difference: Interval = found.difference
    ends = f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    p = "" if found.p_t is None else f", p {found.p_t:.2g}"
    return f"{100 * difference.mean:+.1f} {ends}{p}"


HEAD = f"""# What the choices of pretraining are worth

```sh
{COMMAND}
```

Three pretrainings of each kind, seeds 1 to 3, each of the same number of clips: {STEPS} steps of 32
on the composed pool (semi-synthetic, see `data_pipeline/corpora/composed.py`), 900 of 32 on GRID's
one speaker. ± is the deviation over pretrainings; differences are of the same seeds, with Student's
95 % interval and the paired t-test over these three, which can show only large effects. The
signed-rank test of three cannot fall below .25 and is not given."""


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="learning", go_on="the same command does what is missing")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        COMMAND,
        "What the ways to pretrain are worth: runs what is missing and writes the page.",
        f"{COMMAND} --output docs/results/learning.md",
    )
    parser.add_argument(
        "--publish", action="store_true", help="run nothing: the page of what there is"
    )
    parser.add_argument(
        "--output", type=new_file_argument, default=Path("docs/results/learning.md"), help="page"
    )
    args = parser.parse_args(argv)
    if not args.publish:
        for corpus, commands_of in (("grid", grid_commands), ("composed", composed_commands)):
            for way in ways_of(corpus):
                for command in commands_of(way):
                    run_shell(command, f"{way}: ")
    from finetune.runs.results import write_text

    write_text(args.output, page())
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
