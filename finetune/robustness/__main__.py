"""python -m finetune.robustness RUN/recognizer --shards runs/mine/shards --output runs/robustness

The robustness passport of recognizers: WA and UA on every subset of the modalities that each reads,
and with each modality of each clip dropped at random, at rates from 0 to 0.8; with `--noise speech`
also with white noise on that stream of three clips in four.

Judged are the test clips of the run that the recognizer lies in, as the predictions.csv beside it
names them, so nothing that it was trained on is judged. Of several recognizers, such as the folds
and seeds of a setting, there is a mean: `runs/finetune/runs/SETTING/*/recognizer`.
"""

import argparse
import sys

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.paths import path_argument
from finetune.robustness.arguments import add_recognizers

RATES = (0.0, 0.2, 0.4, 0.6, 0.8)
RATIOS = (1.0, 0.1, 0.01)


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for recognizers that cannot be judged, with one message that says why."""
    return run_command(_main, argv, name="finetune.robustness")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    found = command_parser(
        "python -m finetune.robustness",
        "The robustness passport: WA and UA of recognizers on every subset of\n"
        "their modalities, and with modalities dropped at random. Judged are the\n"
        "test clips of the run that each recognizer lies in.",
        "python -m finetune.robustness runs/finetune/runs/pretrain_prompt/*/recognizer\n"
        "      --shards runs/mine/shards --output runs/finetune/robustness",
    )
    add_recognizers(found)
    found.add_argument(
        "--clips",
        type=path_argument,
        metavar="FILE",
        help="CSV with columns clip and truth, to judge these instead of the runs' test clips",
    )
    found.add_argument(
        "--rates",
        type=_rates,
        default=RATES,
        metavar="R,R,...",
        help="shares of modalities dropped, from 0 to 1",
    )
    found.add_argument(
        "--noise", nargs="+", default=(), metavar="STREAM", help="streams to put white noise on"
    )
    found.add_argument(
        "--ratios",
        type=_ratios,
        default=RATIOS,
        metavar="R,R,...",
        help="signal to noise, of power; M3ER's protocol has 0.01",
    )
    found.add_argument(
        "--draws", type=_positive, default=5, metavar="N", help="draws behind the score of a rate"
    )
    found.add_argument("--seed", type=int, default=0, metavar="N", help="another one drops others")
    found.add_argument(
        "--output", type=path_argument, required=True, metavar="FOLDER",
        help="robustness.csv, .md and .png",
    )  # fmt: skip
    return found


def _main(argv: list[str] | None) -> int:
    args = parser().parse_args(argv)
    from finetune.robustness.judge import passport
    from finetune.robustness.report import write_passport

    lines, notes = passport(
        args.recognizers,
        args.shards,
        table=args.clips,
        rates=args.rates,
        noisy=args.noise,
        ratios=args.ratios,
        num_draws=args.draws,
        seed=args.seed,
    )
    judged = f"the clips of {args.clips}" if args.clips else None
    print(write_passport(args.output, lines, notes, judged))
    return 0


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise argparse.ArgumentTypeError(f"{text!r}; expected numbers from 0 to 1, as 0,.2,.4")
    return rates


def _ratios(text: str) -> tuple[float, ...]:
    try:
        ratios = tuple(float(part) for part in text.split(","))
    except ValueError:
        ratios = ()
    if not ratios or not all(0 < ratio < float("inf") for ratio in ratios):
        raise argparse.ArgumentTypeError(f"{text!r}; expected numbers above 0, as 1,.1,.01")
    return ratios


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; expected 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
