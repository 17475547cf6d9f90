"""python -m finetune.systems.unimse table --data FOLDER

What UniMSE's parts are worth on the composed benchmark (data_pipeline/corpora/composed.py). It is
a list of commands that a user could give, and a page made of what they leave; each goes on where it
was, so a table that was stopped is given again. It goes seed by seed, all settings of one before
the next, and the page is written after each. About a quarter of an hour of one CPU core.
"""

import csv
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.command_line import command_parser, run_shell
from data_pipeline.errors import UserError
from data_pipeline.files.atomic import atomic_file
from data_pipeline.paths import path_argument

if TYPE_CHECKING:
    from finetune.runs.results import ResultsRow

COMMAND = "python -m finetune.systems.unimse table"
RUNS = "runs/composed"
RESULTS = f"{RUNS}/unimse"
CONFIG = "configs/finetune/composed_unimse.yaml"
SEEDS = (1, 2, 3)
PAIRS = (
    ("adapters", "text"),
    ("contrast", "adapters"),
    ("light_contrast", "adapters"),
    ("adapters", "official"),
    ("universal", "adapters"),
)
"""Which are compared, the one expected to be better first."""
ASKED = "universal"
"""Whose answers are read word for word, of the first seed."""


def shard_commands(data: Path) -> list[str]:
    """From open data to shards. `data`: ravdess_audio/, ferplus/ and text/ lie in it."""
    root = shlex.quote(str(data))
    return [
        f"python -m data_pipeline.corpora composed {root} --output {RUNS}.csv",
        f"python -m data_pipeline.recipes.compose {RUNS}.csv --ferplus {root}/ferplus "
        f"--output {RUNS}",
    ]


def finetune_command(data: Path, seeds: tuple[int, ...]) -> str:
    """All settings of these seeds."""
    where = f"own_settings.{ASKED}.options.sources"
    tables = (
        f"{where}.meld.table={data}/text/meld/train_sent_emo.csv",
        f"{where}.emorynlp.table={data}/text/emorynlp/emorynlp_train_final.csv",
    )
    return (
        f"accelerate launch --quiet finetune/run.py --config {CONFIG} "
        f"{' '.join(map(shlex.quote, tables))} output={RESULTS} 'seeds={list(seeds)}'"
    )


def answers_command() -> str:
    """What one recognizer answers, in the run that there is of it."""
    return (
        f"python -m finetune.systems.unimse answers {RESULTS}/runs/{ASKED}/fold0-seed{SEEDS[0]}-* "
        f"--shards {RUNS}/labelled --output {RUNS}/unimse_answers"
    )


def main(argv: list[str]) -> int:
    """Run all that is missing, and write the page."""
    parser = command_parser(
        COMMAND,
        "What UniMSE's parts are worth on composed clips: runs what is missing and writes\n"
        "docs/results/unimse.md.",
        f"{COMMAND} --data ../shared/data",
    )
    parser.add_argument(
        "--data", type=path_argument, help="folder with ravdess_audio/, ferplus/ and text/"
    )
    parser.add_argument(
        "--publish", action="store_true", help="run nothing: the page of what there is"
    )
    parser.add_argument("--output", type=path_argument, default=Path("docs/results"), help="folder")
    args = parser.parse_args(argv)
    if not args.publish:
        if args.data is None:
            parser.error("--data is not given")
        if not list(Path(RUNS, "labelled").glob("*.json")):
            for command in shard_commands(args.data):
                run_shell(command)
        for count in range(1, len(SEEDS) + 1):
            run_shell(finetune_command(args.data, SEEDS[:count]))
            if count == 1:
                run_shell(answers_command())
            publish(args.output)
    print(publish(args.output))
    return 0


def publish(output: Path) -> Path:
    """Write the page of all that is there, its rows and its picture. Raises UserError where there
    is nothing."""
    from finetune.report.chance import chance_of  # with pandas
    from finetune.runs.results import read_rows

    results = Path(RESULTS)
    if not (results / "table.csv").is_file():
        raise UserError(f"no results in {results}; give the folder of the data, without --publish")
    output.mkdir(parents=True, exist_ok=True)
    rows = read_rows(results)
    table = (results / "table.md").read_text(encoding="utf-8").strip()
    picture = results / "settings.png"
    parts = [
        _head(),
        "\n".join(line for line in table.splitlines() if not line.startswith("# ")),
        *_about(rows),
        *(["![](unimse_settings.png)"] if picture.is_file() else []),
        "## Does it learn?",
        "\n".join(_learned(rows, chance_of(results, rows).ua)),
        *_verdicts(results, rows),
        *_answers(),
    ]
    files = {
        "unimse.md": ("\n\n".join(parts) + "\n").encode(),
        "unimse.csv": (results / "table.csv").read_bytes(),
    }
    if picture.is_file():
        files["unimse_settings.png"] = picture.read_bytes()
    for name, content in files.items():
        with atomic_file(output / name) as file:
            file.write(content)
    return output / "unimse.md"


def _head() -> str:
    return (
        "# UniMSE: adapters, contrast and universal labels\n\n"
        "Semi-synthetic: real voices, faces and sentences that share nothing but an emotion "
        "(`data_pipeline/corpora/composed.py`). The T5s start new, with 0.9 million weights, and "
        "learn for 240 steps on CPUs: the figures say what each part is worth there, and do not "
        "compare with the paper's, whose T5-base knows its language. `text` reads the words alone; "
        "`adapters` hears and sees; `contrast` has InfoNCE beside it, with the paper's weight, "
        "`light_contrast` with a tenth; `official` is `adapters` in the released code's form, "
        "without a residual and from noise; `universal` is `adapters` with MELD's sentiment and "
        "EmoryNLP's emotions in its answers, and 1,000 sentences of each to learn from.\n\n"
        f"```sh\n{COMMAND} --data ../shared/data\n```"
    )


def _about(rows: "list[ResultsRow]") -> list[str]:
    last = max(row.step for row in rows)
    at_end = sum(row.step == last for row in rows)
    asked = len(SEEDS) * len({name for pair in PAIRS for name in pair})
    missing = f" **{asked - len(rows)} of {asked} runs are missing.**" if len(rows) < asked else ""
    return [
        f"Of {len(rows)} runs dev chose step {last}, the last one that was judged, in {at_end}."
        + missing
    ]


def _learned(rows: "list[ResultsRow]", chance: float) -> list[str]:
    """Of each setting, whether the lowest bound of its runs' intervals is above chance."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in rows):
        mine = [row for row in rows if row.setting == setting]
        low = min(row.ua_low for row in mine)
        verdict = "yes" if low > chance else "not shown"
        lines.append(
            f"- {setting}: {verdict}; over {len(mine)} runs the lowest end of a 95 % interval "
            f"(bootstrap over test clips) is a UA of {low:.1%}, and chance {chance:.1%}"
        )
    return lines


def _verdicts(results: Path, rows: "list[ResultsRow]") -> list[str]:
    from finetune.compare.chosen import choose  # with pandas and scipy
    from finetune.compare.comparison import compare

    there = {row.setting for row in rows}
    found = [compare(choose(a, results), choose(b, results)) for a, b in PAIRS if {a, b} <= there]
    notes = dict.fromkeys(note for comparison in found for note in comparison.notes)
    return [
        "## Is one better than the other?",
        "\n".join(f"- {comparison.verdict}" for comparison in found),
        "\n".join(f"Note: {note}." for note in notes),
    ]


def _answers() -> list[str]:
    """The page of the generated answers, and the first few."""
    folder = Path(RUNS, "unimse_answers")
    if not (folder / "answers.md").is_file():
        return []
    page = (folder / "answers.md").read_text(encoding="utf-8").strip()
    with open(folder / "answers.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))[:4]
    shown = [
        ", ".join([f"`{line['truth']}`: {line['polarity']}", *list(line.values())[4:]])
        for line in lines
    ]
    return [
        page.replace("# Answers", f"## Answers of `{ASKED}`, seed {SEEDS[0]}"),
        "Such as, after the truth: " + "; ".join(shown) + ".",
    ]
