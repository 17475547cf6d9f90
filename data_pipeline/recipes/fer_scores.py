"""How good a face-expression network is on FER+: figures, intervals, pictures."""

from pathlib import Path

import numpy as np

from data_pipeline.schema import EXPRESSIONS

NUM_SEVEN = 7
"""Classes without contempt, the last: the test half holds seven images of it."""
ECE_BINS = 15


def recall_per_class(truth_N: np.ndarray, guess_N: np.ndarray, classes: int) -> np.ndarray:
    """[classes]; NaN for one that never occurs."""
    right = np.bincount(truth_N[truth_N == guess_N], minlength=classes)[:classes]
    total = np.bincount(truth_N, minlength=classes)[:classes]
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def accuracy(truth_N: np.ndarray, guess_N: np.ndarray) -> float:
    return float((truth_N == guess_N).mean())


def uar7(truth_N: np.ndarray, guess_N: np.ndarray) -> float:
    """Mean recall over the seven classes without contempt; a guess of contempt is a miss."""
    return float(np.nanmean(recall_per_class(truth_N, guess_N, NUM_SEVEN)))


def macro_f1(truth_N: np.ndarray, guess_N: np.ndarray) -> float:
    """Mean F1 over the classes that occur in the truth or the guesses."""
    table = confusion(truth_N, guess_N)
    hits, both = np.diag(table), table.sum(0) + table.sum(1)
    return float((2 * hits[both > 0] / both[both > 0]).mean())


def confusion(truth_N: np.ndarray, guess_N: np.ndarray) -> np.ndarray:
    """[8, 8] counts, truth by guess."""
    table = np.zeros((len(EXPRESSIONS), len(EXPRESSIONS)), np.int64)
    np.add.at(table, (truth_N, guess_N), 1)
    return table


def calibration_error(truth_N: np.ndarray, probs_NC: np.ndarray) -> float:
    """Expected calibration error of the highest probability (Guo et al. 2017), equal-width bins."""
    confidence_N, right_N = probs_NC.max(1), probs_NC.argmax(1) == truth_N
    bin_N = np.minimum((confidence_N * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [
        abs(right_N[bin_N == b].mean() - confidence_N[bin_N == b].mean()) * (bin_N == b).mean()
        for b in np.unique(bin_N)
    ]
    return float(sum(gaps))


def interval(
    score, truth_N: np.ndarray, guess_N: np.ndarray, resamples: int = 2000
) -> tuple[float, float]:
    """95% bootstrap interval of `score(truth, guess)`, drawing images, seed 0."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(resamples):
        rows = rng.integers(0, len(truth_N), len(truth_N))
        values.append(score(truth_N[rows], guess_N[rows]))
    return tuple(np.percentile(values, [2.5, 97.5]).tolist())


def draw_confusion(table_88: np.ndarray, path: Path, title: str) -> None:
    """PNG of recalls in percent, with the counts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    share = table_88 / np.maximum(table_88.sum(1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(6.4, 5.8), dpi=110, layout="constrained")
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [f"{n} ({c})" for n, c in zip(EXPRESSIONS, table_88.sum(1), strict=True)]
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(EXPRESSIONS)), EXPRESSIONS, rotation=40, ha="right")
    axes.set_ylabel("raters (images)")
    axes.set_xlabel("network")
    for i, j in np.argwhere(table_88 > 0):
        color = "white" if share[i, j] > 0.5 else "black"
        text = f"{100 * share[i, j]:.0f}\n({table_88[i, j]})"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
    axes.set_title(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
