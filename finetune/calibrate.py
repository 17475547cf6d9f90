"""python -m finetune.calibrate RUN/recognizer --output FOLDER

A recognizer to hand on: its weights in half precision, and a temperature for each subset of its
modalities, by which its logits are divided so that what it calls 80 % is right in 80 % of the
cases. A temperature changes no decision. It is fitted on the dev clips of the run that the
recognizer lies in, shown with that subset alone: a face by itself is to be less sure than a face
with a voice (Guo et al., On Calibration of Modern Neural Networks, ICML 2017).

N clips, C classes, B bins.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.markdown import markdown_table
from data_pipeline.paths import new_file_argument, path_argument

NUM_BINS = 15
HOTTEST = 20.0
"""The highest temperature that is looked at, and the inverse of the lowest."""


def fit_temperature(log_NC: np.ndarray, truth_N: np.ndarray) -> float:
    """What log probabilities, or logits, are to be divided by for the least cross-entropy."""

    def cross_entropy(log_temperature: float) -> float:
        scaled_NC = log_softmax(log_NC / np.exp(log_temperature), axis=1)
        return -float(scaled_NC[np.arange(len(truth_N)), truth_N].mean())

    reach = float(np.log(HOTTEST))
    return float(np.exp(minimize_scalar(cross_entropy, bounds=(-reach, reach)).x))


def reliability(probability_NC: np.ndarray, truth_N: np.ndarray) -> np.ndarray:
    """[3, B]: over the clips in each of NUM_BINS equal bins of the likeliest class's probability,
    the mean of it, the share that is right, and how many they are. NaN where there are none."""
    said_N, sure_N = probability_NC.argmax(1), probability_NC.max(1)
    bin_N = np.minimum((sure_N * NUM_BINS).astype(int), NUM_BINS - 1)
    count_B = np.bincount(bin_N, minlength=NUM_BINS)
    sure_B = np.bincount(bin_N, sure_N, NUM_BINS)
    right_B = np.bincount(bin_N, said_N == truth_N, NUM_BINS)
    with np.errstate(invalid="ignore"):
        return np.stack([sure_B / count_B, right_B / count_B, count_B])


def calibration_error(probability_NC: np.ndarray, truth_N: np.ndarray) -> float:
    """Expected calibration error of the likeliest class: the distance between both shares of
    `reliability`, its mean over the clips."""
    sure_B, right_B, count_B = reliability(probability_NC, truth_N)
    return float(np.nansum(np.abs(sure_B - right_B) * count_B) / len(truth_N))


def calibrate(folder: Path, output: Path) -> list[dict]:
    """Write the recognizer in `folder` to `output`; a line for each subset of its modalities.

    Raises RunError where `folder` does not lie in its run, or dev has no clip with a subset.
    """
    from safetensors.torch import load_file, save_file  # loads torch

    from finetune.clips.reader import modality_cases
    from finetune.recognizer import CARD, load_recognizer, told_of, write_recognizer
    from finetune.runs.of_run import RunError, clips_of_run, with_all
    from finetune.systems.memobert.recognizer import WEIGHTS

    recognizer, told = load_recognizer(folder), told_of(folder)
    if told["system"] != "memobert" or "temperatures" in told:
        raise RunError(
            f"{folder} is calibrated, or none of system memobert; give one as a run left it"
        )
    dev = clips_of_run(folder.resolve().parent, recognizer).splits.dev
    lines, temperatures = [], {}
    for case in modality_cases(told["modalities"], "seven"):
        clips, name = with_all(dev, case), "+".join(case)
        if not clips:
            raise RunError(f"no dev clip has {name}; a temperature for it cannot be fitted")
        said_NC = recognizer.predict([clip.sample.only(case) for clip in clips])
        truth_N = np.array([clip.label for clip in clips])
        log_NC = np.log(said_NC)
        temperatures[name] = round(fit_temperature(log_NC, truth_N), 4)
        lines.append(
            {
                "case": name,
                "clips": len(clips),
                "temperature": temperatures[name],
                "ece_before": calibration_error(said_NC, truth_N),
                "ece": calibration_error(
                    np.exp(log_softmax(log_NC / temperatures[name], axis=1)), truth_N
                ),
            }
        )

    def write(temporary: Path) -> None:
        for name in told["digests"]:
            if name != WEIGHTS:
                shutil.copyfile(folder / name, temporary / name)
        save_file(
            {n: t.half() for n, t in load_file(folder / WEIGHTS).items()}, temporary / WEIGHTS
        )

    own = ("format_version", "git_commit", "digests", "sha256")
    kept = {name: value for name, value in told.items() if name not in own}
    write_recognizer(output, kept | {"temperatures": temperatures, "weights": "float16"}, write)
    card = (folder / CARD).read_text(encoding="utf-8") + "\n" + section(lines)
    (output / CARD).write_text(card, encoding="utf-8")
    return lines


def section(lines: list[dict]) -> str:
    """The model card's."""
    rows = [
        (
            x["case"],
            x["clips"],
            f"{x['temperature']:.2f}",
            f"{x['ece_before']:.3f}",
            f"{x['ece']:.3f}",
        )
        for x in lines
    ]
    header = ("sees", "dev clips", "temperature", "calibration error before", "after")
    return (
        "## Calibration\n\nWeights in half precision. A temperature for each subset of the "
        "modalities, fitted on dev; the expected calibration errors here are of the same clips.\n\n"
        + markdown_table(header, rows)
        + "\n"
    )


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for a recognizer that cannot be calibrated."""
    return run_command(_main, argv, name="finetune.calibrate")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m finetune.calibrate",
        "A recognizer to hand on: weights in half precision, and a temperature for each subset\n"
        "of its modalities, fitted on the dev clips of its run.",
        "python -m finetune.calibrate RUN/recognizer --output runs/recognizer",
    )
    parser.add_argument("recognizer", type=path_argument, help="where its run left it")
    parser.add_argument("--output", type=new_file_argument, required=True, metavar="FOLDER")
    args = parser.parse_args(argv)
    print(section(calibrate(args.recognizer, args.output)))
    megabytes = sum(path.stat().st_size for path in args.output.iterdir()) / 1e6
    print(f"{megabytes:.1f} MB in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
