"""python -m finetune.systems.unimse answers RUN --shards FOLDER ... --output FOLDER

What a recognizer answers to the test clips of its run, word for word, in answers.csv, and the
metrics of the field, in answers.md. An answer that says no class, or no sentiment, is counted; as a
class it is wrong, as a sentiment it stands for 0.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.command_line import command_parser
from data_pipeline.errors import UserError
from data_pipeline.markdown import markdown_table
from data_pipeline.paths import path_argument
from data_pipeline.schema import ClipSample
from finetune.recognizer import load_recognizer
from finetune.runs.results import write_csv, write_text
from finetune.systems.unimse.answers import EMOTION, POLARITY, SCORE
from finetune.systems.unimse.labels.universal import read_score
from finetune.systems.unimse.recognizer import UniMseRecognizer
from finetune.systems.unimse.scores import emotion_scores, sentiment_scores

COMMAND = "python -m finetune.systems.unimse answers"
FALLBACK = 0.0
"""Sentiment of an answer that has none."""


def main(argv: list[str]) -> int:
    """Write answers.csv and answers.md."""
    parser = command_parser(
        COMMAND,
        "What a recognizer of the system unimse answers to the test clips of its run, and the\n"
        "metrics of the field.",
        f"{COMMAND} runs/mine/finetune/runs/unimse/fold0-seed1-RECIPE \\\n"
        "      --shards runs/mine/shards --output runs/answers",
    )
    parser.add_argument("run", type=path_argument, help="folder with recognizer/, predictions.csv")
    parser.add_argument("--shards", type=path_argument, nargs="+", required=True, help="folders")
    parser.add_argument("--score", metavar="COLUMN", help="of the clips, with their sentiment")
    parser.add_argument("--output", type=path_argument, required=True, help="folder to write")
    args = parser.parse_args(argv)
    print(ask(args.run, args.shards, args.output, args.score))
    return 0


def ask(run: Path, shards: Sequence[Path], output: Path, column: str | None = None) -> str:
    """Judge the answers to the test clips of a run; the page, which is answers.md too.

    Raises UserError for a run that is none of this system, or shards without its clips.
    """
    recognizer = load_recognizer(run / "recognizer")
    if not isinstance(recognizer, UniMseRecognizer):
        raise UserError(
            f"{run} is a run of another system, and only unimse answers in words; name a run of a "
            "setting whose system is unimse"
        )
    truth = _truth(run / "predictions.csv")
    found = {s.id: s for folder in shards for s in recognizer.read(folder) if s.id in truth}
    if len(found) < len(truth):
        raise UserError(
            f"{len(truth) - len(found)} of the {len(truth)} test clips of {run} are not in "
            f"{', '.join(map(str, shards))}; give the shards that it was judged on"
        )
    samples = [found[clip] for clip in truth]
    answers = recognizer.answer(samples)
    likeliest = recognizer.predict(samples).argmax(1)
    lines = [
        {
            "clip": sample.id,
            "truth": truth[sample.id],
            "likeliest": recognizer.classes[number],
            **{field: "" if said is None else said for field, said in answer.items()},
        }
        for sample, answer, number in zip(samples, answers, likeliest, strict=True)
    ]
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "answers.csv", list(lines[0]), lines)
    page = _page(recognizer, samples, [truth[s.id] for s in samples], answers, lines, column)
    write_text(output / "answers.md", page)
    return page


def _truth(path: Path) -> dict[str, str]:
    """Clip to its class, of the test clips of a run."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return {line["clip"]: line["truth"] for line in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise UserError(
            f"cannot read {path}: {error}; expected the folder of a run, "
            "runs/NAME/runs/SETTING/foldF-seedS-RECIPE"
        ) from error


def _page(
    recognizer: UniMseRecognizer,
    samples: Sequence[ClipSample],
    truth: Sequence[str],
    answers: Sequence[dict[str, str | float | None]],
    lines: Sequence[dict[str, str]],
    column: str | None,
) -> str:
    said = [answer[EMOTION] for answer in answers]
    polarity = recognizer.classifier.model.book.polarity_of
    silent = sum(one is None for one in said)
    agree = sum(one == line["likeliest"] for one, line in zip(said, lines, strict=True))
    right = {POLARITY: [polarity[name] for name in truth], EMOTION: list(truth)}
    rows = [
        (f"{field}, {name}", f"{value:.1%}")
        for field, of in right.items()
        for name, value in emotion_scores(of, [answer[field] for answer in answers]).items()
    ]
    likeliest = emotion_scores(truth, [line["likeliest"] for line in lines])
    rows += [(f"likeliest class, {name}", f"{value:.1%}") for name, value in likeliest.items()]
    parts = [
        "# Answers",
        f"{silent} of {len(said)} answers name no class; {agree} name the likeliest one.",
        markdown_table(("of generated answers", "value"), rows),
    ]
    if column is not None:
        parts += _sentiments(samples, answers, column)
    return "\n\n".join(parts) + "\n"


def _sentiments(
    samples: Sequence[ClipSample], answers: Sequence[dict[str, str | float | None]], column: str
) -> list[str]:
    if SCORE not in answers[0]:
        raise UserError(
            f"--score {column}: this recognizer learned no sentiments; its answers have "
            f"{', '.join(answers[0])}"
        )
    pairs = [
        (read_score(str(sample.column(column)), f"{sample.id}, column {column}"), answer[SCORE])
        for sample, answer in zip(samples, answers, strict=True)
        if sample.column(column) not in (None, "")
    ]
    if not pairs:
        raise UserError(f"--score {column}: none of the clips has a sentiment in that column")
    silent = sum(said is None for _, said in pairs)
    said_N = [FALLBACK if said is None else float(said) for _, said in pairs]
    found = sentiment_scores([truth for truth, _ in pairs], said_N)
    rows = [(n, "-" if v is None or math.isnan(v) else f"{v:.3f}") for n, v in found.items()]
    return [
        f"{silent} of {len(pairs)} answers have no sentiment and count as {FALLBACK:g}.",
        markdown_table(("sentiment", "value"), rows),
    ]
