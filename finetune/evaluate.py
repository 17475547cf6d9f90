"""python -m finetune.evaluate RECOGNIZER --run RUN --output FOLDER [--clips SHARDS]

What a recognizer is worth on the test clips of its run, by corpus and by what it sees of them: WA,
UA and macro-F1 with bootstrap intervals, and the expected calibration error; for each corpus also
what always saying its commonest class comes to. Where a corpus has several modalities, all of them
are held against the best of them alone on the same clips (McNemar's exact test, and a bootstrap of
the difference in UA).

`--clips`: shards whose clips are few enough to be shown one by one, with their probabilities.

Writes evaluation.csv, paired.csv, clips.csv, evaluation.md, and reliability.png: how often it is
right, by how sure it is. `--card` puts the tables into the recognizer's model card too.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.markdown import markdown_table
from data_pipeline.paths import path_argument

NUM_RESAMPLES = 1000
MIN_CLIPS = 10
IN_CARD = "## Figures by corpus and by what it sees"
Line = dict[str, Any]


def evaluate(
    recognizer: Any, clips: Sequence[Any]
) -> tuple[list[Line], list[Line], dict[str, np.ndarray]]:
    """A line for each corpus and subset of the modalities that all its clips have, the prior's
    first; one for each corpus of several: all against the best alone; and by corpus, with all that
    it has, [3, B]: how sure it is, how often it is right, and of how many clips."""
    from finetune.calibrate import calibration_error, reliability
    from finetune.clips.reader import modality_cases
    from finetune.compare.paired import compare_clips
    from finetune.metrics import score

    of_corpus: dict[str, list[Any]] = defaultdict(list)
    for clip in clips:
        of_corpus[str(clip.sample.meta["corpus"])].append(clip)
    lines, paired, bins = [], [], {}
    for corpus, members in of_corpus.items():
        truth_N = np.array([clip.label for clip in members])
        modalities = [m for m in recognizer.modalities if all(c.sample.has(m) for c in members)]
        if not modalities:
            continue
        said = {}
        lines.append(prior(corpus, truth_N, len(recognizer.classes)))
        for case in modality_cases(modalities, "seven"):
            said_NC = recognizer.predict([clip.sample.only(case) for clip in members])
            said["+".join(case)] = said_NC.argmax(1)
            if len(case) == len(modalities):
                bins[f"{corpus}, {'+'.join(case)}"] = reliability(said_NC, truth_N)
            scores = score(
                truth_N,
                said_NC.argmax(1),
                len(recognizer.classes),
                num_resamples=NUM_RESAMPLES,
            )
            line = {"corpus": corpus, "sees": "+".join(case), "clips": len(members)}
            for name in ("wa", "ua", "macro_f1"):
                low, high = getattr(scores, f"{name}_interval") or (None, None)
                line |= {name: getattr(scores, name), f"{name}_low": low, f"{name}_high": high}
            lines.append(line | {"ece": calibration_error(said_NC, truth_N)})
        if len(modalities) > 1:
            ua_of = {x["sees"]: x["ua"] for x in lines if x["corpus"] == corpus}
            best, every = max(modalities, key=ua_of.__getitem__), "+".join(modalities)
            found = compare_clips(truth_N, said[every], said[best])
            paired.append(
                {
                    "corpus": corpus,
                    "a": every,
                    "b": best,
                    "clips": found.num_clips,
                    "ua_difference": found.ua.mean,
                    "ua_difference_low": found.ua.low,
                    "ua_difference_high": found.ua.high,
                    "only_a": found.only_a,
                    "only_b": found.only_b,
                    "p_mcnemar": found.p_mcnemar,
                }
            )
    return lines, paired, bins


def prior(corpus: str, truth_N: np.ndarray, num_classes: int) -> Line:
    """Who always says the commonest class."""
    share_C = np.bincount(truth_N, minlength=num_classes) / len(truth_N)
    num_there = int((share_C > 0).sum())
    most = float(share_C.max())
    empty = dict.fromkeys(
        f"{name}_{end}" for name in ("wa", "ua", "macro_f1") for end in ("low", "high")
    )
    return {
        "corpus": corpus,
        "sees": "nothing",
        "clips": len(truth_N),
        **empty,
        "wa": most,
        "ua": 1 / num_there,
        "macro_f1": 2 * most / (1 + most) / num_there,
        "ece": None,
    }


def one_by_one(recognizer: Any, samples: Sequence[Any], class_of: dict[str, int]) -> list[Line]:
    """A line for each clip with all that it has, and a column for what each modality says alone."""
    lines = []
    for sample in samples:
        has = [m for m in recognizer.modalities if sample.has(m)]
        shown = [sample, *(sample.only((m,)) for m in has)]
        said_KC = recognizer.predict(shown)
        label = str(sample.meta.get("label") or "").lower()
        truth = recognizer.classes[class_of[label]] if label in class_of else ""
        line: Line = {"clip": sample.id, "truth": truth}
        names = [recognizer.classes[k] for k in said_KC.argmax(1)]
        line |= {"says": names[0], "right": names[0] == truth if truth else None}
        line |= {f"p_{name}": p for name, p in zip(recognizer.classes, said_KC[0], strict=True)}
        line |= {f"{m}_alone": "" for m in recognizer.modalities}
        line |= {f"{m}_alone": name for m, name in zip(has, names[1:], strict=True)}
        lines.append(line)
    return lines


def report(lines: list[Line], paired: list[Line], shown: list[Line]) -> str:
    """Markdown."""
    parts = ["Shares in %, 95 % bootstrap intervals over clips; ECE is a share."]
    rows = [
        (x["corpus"], x["clips"], x["sees"], *(_interval(x, n) for n in ("wa", "ua", "macro_f1")),
         "-" if x["ece"] is None else f"{x['ece']:.3f}")
        for x in lines
    ]  # fmt: skip
    parts.append(markdown_table(("corpus", "clips", "sees", "WA", "UA", "macro-F1", "ECE"), rows))
    if paired:
        parts += ["## All modalities against the best alone", markdown_table(
            ("corpus", "all", "best alone", "UA: difference", "right alone", "p (McNemar)"),
            [
                (x["corpus"], x["a"], x["b"],
                 f"{100 * x['ua_difference']:+.1f} [{100 * x['ua_difference_low']:+.1f}, "
                 f"{100 * x['ua_difference_high']:+.1f}]",
                 f"{x['only_a']} and {x['only_b']}", f"{x['p_mcnemar']:.2g}")
                for x in paired
            ],
        )]  # fmt: skip
    if shown:
        right = sum(bool(x["right"]) for x in shown)
        columns = [n for n in shown[0] if n.startswith("p_")]
        alone = [n for n in shown[0] if n.endswith("_alone")]
        parts += [
            f"## Clip by clip: {right} of {len(shown)} right",
            markdown_table(
                ("clip", "truth", "says", *(n[2:] for n in columns),
                 *(n.replace("_", " ") for n in alone)),
                [
                    (x["clip"], x["truth"], x["says"], *(f"{x[n]:.2f}" for n in columns),
                     *(x[n] for n in alone))
                    for x in shown
                ],
            ),
        ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def draw(path: Path, bins: dict[str, np.ndarray]) -> None:
    """How often it is right, by how sure it is; a point is at least MIN_CLIPS clips."""
    import matplotlib.pyplot as plt

    from pretrain.monitoring.report import save_picture

    figure, axes = plt.subplots(figsize=(5, 4.5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, (sure_B, right_B, count_B) in bins.items():
        enough = count_B >= MIN_CLIPS
        axes.plot(sure_B[enough], right_B[enough], marker="o", markersize=4, label=name)
    axes.set(xlabel="probability of what it says", ylabel="share that is right")
    axes.legend(fontsize=8)
    save_picture(figure, path)


def _interval(line: Line, name: str) -> str:
    value = f"{100 * line[name]:.1f}"
    if line[f"{name}_low"] is None:
        return value
    return f"{value} [{100 * line[f'{name}_low']:.1f}, {100 * line[f'{name}_high']:.1f}]"


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for a recognizer or a run that cannot be used."""
    return run_command(_main, argv, name="finetune.evaluate")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m finetune.evaluate",
        "What a recognizer is worth on the test clips of its run, by corpus and by what it sees\n"
        "of them, with intervals, calibration error and the prior's figures beside it.",
        "python -m finetune.evaluate runs/recognizer --run RUN --output runs/evaluation",
    )
    parser.add_argument("recognizer", type=path_argument, help="folder of one")
    parser.add_argument(
        "--run", type=path_argument, required=True, help="folder of the run that it is of"
    )
    parser.add_argument(
        "--clips", type=path_argument, nargs="*", default=[], metavar="SHARDS",
        help="shards whose clips are shown one by one",
    )  # fmt: skip
    parser.add_argument("--card", action="store_true", help="also into RECOGNIZER/README.md")
    parser.add_argument("--output", type=path_argument, required=True, metavar="FOLDER")
    args = parser.parse_args(argv)

    from finetune.clips.labelled import LabelMap
    from finetune.recognizer import CARD, load_recognizer
    from finetune.runs.of_run import clips_of_run
    from finetune.runs.results import write_csv, write_text

    recognizer = load_recognizer(args.recognizer)
    run = clips_of_run(args.run, recognizer)
    lines, paired, bins = evaluate(recognizer, run.splits.test)
    labels = LabelMap.build(run.config.data.labels)
    samples = [sample for folder in args.clips for sample in recognizer.read(folder)]
    shown = one_by_one(recognizer, samples, labels.class_of)
    for name, table in (("evaluation", lines), ("paired", paired), ("clips", shown)):
        if table:
            write_csv(args.output / f"{name}.csv", list(table[0]), table)
    text = report(lines, paired, shown)
    write_text(args.output / "evaluation.md", "# Evaluation\n\n" + text)
    draw(args.output / "reliability.png", bins)
    if args.card:
        card = args.recognizer / CARD
        before = card.read_text(encoding="utf-8").partition(f"\n{IN_CARD}\n")[0].rstrip()
        write_text(card, f"{before}\n\n{IN_CARD}\n\n{text.replace('## ', '### ')}")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
