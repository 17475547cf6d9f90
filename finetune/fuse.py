"""python -m finetune.fuse RUN RUN [RUN...] --output FOLDER

The recognizers of finished runs, decided together: by Monte Carlo over their confusion matrices,
by product and by weighted sum of their posteriors (finetune.fusion), beside each of them and the
better one alone. Matrices, weights, shares of the classes and which is better come from the dev
clips; the test clips only judge. The runs may be of any systems and streams; they must have the
same classes and the same dev and test clips.

Writes fusion.csv, predictions.csv, fusion.md. N clips, M runs, C classes.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.markdown import markdown_table
from data_pipeline.paths import path_argument

NUM_RESAMPLES = 1000
Line = dict[str, Any]


def posteriors(recognizer: Any, clips: Sequence[Any]) -> np.ndarray:
    """[N, C]; NaN of a clip that has nothing of what the recognizer reads."""
    from finetune.fusion import check_posteriors

    found_NC = np.full((len(clips), len(recognizer.classes)), np.nan)
    read = [n for n, clip in enumerate(clips) if any(map(clip.sample.has, recognizer.modalities))]
    if read:
        found_NC[read] = recognizer.predict(
            [clips[n].sample.only(recognizer.modalities) for n in read]
        )
    check_posteriors(found_NC, str(recognizer.folder))
    return found_NC


def fuse(
    names: Sequence[str],
    dev_MNC: np.ndarray,
    dev_truth_N: np.ndarray,
    test_MNC: np.ndarray,
    test_truth_N: np.ndarray,
) -> tuple[list[Line], dict[str, np.ndarray]]:
    """A line for each recognizer, for the better one and for each way to fuse them, and what each
    decides of the test clips, [N], C where it abstains."""
    from finetune.compare.paired import compare_clips
    from finetune.fusion import ABSTAINS, confusion, decisions, monte_carlo, product, weighted_sum
    from finetune.metrics import score

    num_classes = dev_MNC.shape[-1]

    def judged(decision_N: np.ndarray, truth_N: np.ndarray, resamples: int = 0) -> Any:
        whole_N = np.where(decision_N == ABSTAINS, num_classes, decision_N)
        return score(truth_N, whole_N, num_classes, num_resamples=resamples)

    dev_MN = np.stack([decisions(posterior_NC) for posterior_NC in dev_MNC])
    said_MN = np.stack([decisions(posterior_NC) for posterior_NC in test_MNC])
    weight_M = np.array([judged(decision_N, dev_truth_N).ua for decision_N in dev_MN])
    count_C = np.bincount(dev_truth_N, minlength=num_classes)
    prior_C = (count_C + 1) / (count_C + 1).sum()
    confusion_MCC = np.stack([confusion(dev_truth_N, one_N, num_classes) for one_N in dev_MN])
    better = int(weight_M.argmax())
    said = dict(zip(names, said_MN, strict=True))
    said |= {
        "better alone": said_MN[better],
        "product": product(test_MNC, prior_C).argmax(1),
        "weighted sum": weighted_sum(test_MNC, weight_M, prior_C).argmax(1),
        "Monte Carlo": monte_carlo(said_MN, confusion_MCC, count_C)[0],
    }
    lines = []
    for name, decision_N in said.items():
        scores = judged(decision_N, test_truth_N, NUM_RESAMPLES)
        beside = compare_clips(test_truth_N, decision_N, said_MN[better])
        line: Line = {"who": name, "clips": len(test_truth_N)}
        line["abstains"] = int((decision_N == ABSTAINS).sum())
        for measure in ("wa", "ua", "macro_f1"):
            low, high = getattr(scores, f"{measure}_interval") or (None, None)
            line[measure] = getattr(scores, measure)
            line |= {f"{measure}_low": low, f"{measure}_high": high}
        line |= {
            "ua_gain": beside.ua.mean,
            "ua_gain_low": beside.ua.low,
            "ua_gain_high": beside.ua.high,
            "p_mcnemar": beside.p_mcnemar,
        }
        lines.append(line)
    return lines, said


def report(lines: list[Line], better: str) -> str:
    """Markdown."""
    rows = [
        (
            x["who"],
            x["abstains"],
            *(_interval(x[n], x[f"{n}_low"], x[f"{n}_high"]) for n in ("wa", "ua", "macro_f1")),
            _interval(x["ua_gain"], x["ua_gain_low"], x["ua_gain_high"], "+.1f"),
            f"{x['p_mcnemar']:.2g}",
        )
        for x in lines
    ]
    header = ("who", "abstains of", "WA", "UA", "macro-F1", "UA above the better alone", "p")
    return (
        "# Decided together\n\nShares in %, 95 % bootstrap intervals over "
        f"{lines[0]['clips']} test clips; p is McNemar's, against the better alone, {better}, "
        "which dev chose.\n\n" + markdown_table(header, rows) + "\n"
    )


def _interval(value: float, low: float | None, high: float | None, form: str = ".1f") -> str:
    shown = f"{100 * value:{form}}"
    return shown if low is None else f"{shown} [{100 * low:{form}}, {100 * high:{form}}]"


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for runs that cannot be fused."""
    return run_command(_main, argv, name="finetune.fuse")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m finetune.fuse",
        "The recognizers of finished runs, decided together: Monte Carlo over their confusions on\n"
        "dev, product and weighted sum, beside each of them and the better one alone.",
        "python -m finetune.fuse RUN_OF_SPEECH RUN_OF_FACES --output runs/fused",
    )
    parser.add_argument("runs", type=path_argument, nargs="+", metavar="RUN", help="of a setting")
    parser.add_argument("--output", type=path_argument, required=True, metavar="FOLDER")
    args = parser.parse_args(argv)
    if len(args.runs) < 2:
        parser.error("expected two runs or more")

    from finetune.fusion import FusionError
    from finetune.recognizer import load_recognizer
    from finetune.runs.of_run import clips_of_run
    from finetune.runs.results import write_csv, write_text

    names: list[str] = []
    found: dict[str, list[np.ndarray]] = {"dev": [], "test": []}
    first: dict[str, list[tuple[str, int]]] = {}
    classes: tuple[str, ...] = ()
    for run in args.runs:
        recognizer = load_recognizer(run / "recognizer")
        splits = clips_of_run(run, recognizer).splits
        name = f"{run.resolve().parent.name} ({'+'.join(recognizer.modalities)})"
        names.append(f"{name} {run.name}" if name in names else name)
        classes = classes or recognizer.classes
        if recognizer.classes != classes:
            raise FusionError(
                f"{run} tells apart {', '.join(recognizer.classes)}, {args.runs[0]} "
                f"{', '.join(classes)}; give runs of the same classes, in one order"
            )
        for split in found:
            clips = sorted(getattr(splits, split), key=lambda clip: clip.sample.id)
            keys = [(clip.sample.id, clip.label) for clip in clips]
            if not keys:
                raise FusionError(f"{run} has no {split} clip; fusion learns from dev, judges test")
            if first.setdefault(split, keys) != keys:
                raise FusionError(
                    f"{run} has other {split} clips than {args.runs[0]}: "
                    f"{len(set(keys) & set(first[split]))} of {len(keys)} and "
                    f"{len(first[split])} are the same; give runs of one protocol and fold"
                )
            found[split].append(posteriors(recognizer, clips))
    truth = {split: np.array([label for _, label in keys]) for split, keys in first.items()}
    lines, said = fuse(
        names, np.stack(found["dev"]), truth["dev"], np.stack(found["test"]), truth["test"]
    )
    names_of = (*classes, "")  # ABSTAINS is the last one
    rows = [
        {"clip": clip, "truth": classes[label]} | {who: names_of[of[n]] for who, of in said.items()}
        for n, (clip, label) in enumerate(first["test"])
    ]
    better = next(name for name in names if (said[name] == said["better alone"]).all())
    text = report(lines, better)
    write_csv(args.output / "fusion.csv", list(lines[0]), lines)
    write_csv(args.output / "predictions.csv", list(rows[0]), rows)
    write_text(args.output / "fusion.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
