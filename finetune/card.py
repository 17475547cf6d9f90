"""The model card that lies as README.md beside a recognizer.

It says what the run knows: clips, folds, figures with their intervals and the oracle's, what the
weights started from, and under which terms the things stand that it learned from. What is not known
is said to be not stated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from data_pipeline.markdown import markdown_table
from finetune.runs.results import ResultsRow
from pretrain.checkpoint.card import LICENCES
from pretrain.checkpoint.folder import Checkpoint

OF_OWNERS = "under its owners' licence, by which the copy was got"
CORPORA = {
    "composed": "RAVDESS (CC BY-NC-SA 4.0), images of FER2013 (research use) and sentences of MELD "
    "(GPL-3.0): non-commercial",
    "open_pool": "RAVDESS (CC BY-NC-SA 4.0), EmoDB (free for research), GRID (CC BY 4.0), images "
    "of FER2013 (research use), sentences of MELD (GPL-3.0) and EmoryNLP (Apache-2.0): research, "
    "non-commercial",
    "emorynlp": "Apache-2.0; dialogue of a television series: research use",
    "ferplus": "images of FER2013 (research use) with FER+ votes (MIT)",
    "cremad": "ODbL 1.0, its contents DbCL 1.0: keep the attribution (Cao et al. 2014)",
    "emodb": "free for research",
    "grid": "CC BY 4.0",
    "ravdess": "CC BY-NC-SA 4.0: non-commercial",
    **dict.fromkeys(("iemocap", "msp_improv", "meld", "cmu_mosei"), OF_OWNERS),
}
"""Terms of the corpora that this project has an adapter for, by the name that it gives them."""
NOT_STATED = "not stated; ask its owner"
MAX_UNITS = 12
"""Speakers, recordings or clips of a split that are named."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Of which run a recognizer is."""

    row: ResultsRow
    clips: Sequence[str]
    """What there is to say of the clips: sentences with counts."""
    num_shards: int
    group: str
    """What a unit of the protocol is."""
    units: Mapping[str, Sequence[str]]
    """Split to its units."""
    checkpoint: Checkpoint | None
    """The pretrained MEmoBERT that it started from."""
    bert: str = ""
    """The BERT that its text side started from instead; empty for none."""


def recognizer_card(told: Mapping[str, Any], origin: Origin | None = None) -> str:
    """Markdown with the hub's metadata. `told`: recognizer.json; without `origin` the card has
    what the recognizer itself knows."""
    parts = [_metadata(origin), _head(told, origin)]
    if origin is not None:
        parts += [_data(origin), _protocol(origin), _figures(origin.row), _start(origin)]
    parts += [_features(told), _licences(told, origin)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _metadata(origin: Origin | None) -> str:
    about: dict[str, Any] = {}
    if origin is not None:
        row = origin.row
        about["model_name"] = _name(row)
        about["eval_results"] = [
            EvalResult(
                task_type="multimodal-emotion-recognition",
                dataset_type=row.corpus,
                dataset_name=f"{row.corpus}, {row.protocol}, fold {row.fold}",
                dataset_split="test",
                metric_type=kind,
                metric_name=name,
                metric_value=round(value, 4),
            )
            for kind, name, value in (
                ("accuracy", "WA", row.wa),
                ("recall", "UA", row.ua),
                ("f1", "Macro-F1", row.macro_f1),
            )
        ]
    data = ModelCardData(
        library_name="memobert",
        license="other",
        license_name="see-licences-in-the-card",
        pipeline_tag="video-classification",
        tags=["memobert", "multimodal", "emotion-recognition"],
        **about,
    )
    return f"---\n{data.to_yaml()}\n---"


def _name(row: ResultsRow) -> str:
    return f"{row.setting}, fold {row.fold}, seed {row.seed}"


def _head(told: Mapping[str, Any], origin: Origin | None) -> str:
    title = "" if origin is None else f": {_name(origin.row)}"
    return "\n".join(
        [
            f"# Emotion recognizer{title}",
            "",
            f"Tells apart {', '.join(told['classes'])} from {', '.join(told['modalities'])} of one "
            f"utterance (system {told['system']}, head {told['head']}).",
            "",
            "```python",
            "from finetune.recognizer import load_recognizer",
            "",
            'recognizer = load_recognizer("FOLDER")  # or OWNER/NAME on the hub',
            'timeline = recognizer.recognize("video.mp4")',
            'probabilities_NC = recognizer.predict(list(recognizer.read("SHARDS")))',
            "```",
            "",
            f"Code: commit {told['git_commit']}",
        ]
    )


def _data(origin: Origin) -> str:
    row = origin.row
    rows = [
        ("corpus", row.corpus),
        *(("clips", line) for line in origin.clips),
        ("shards", origin.num_shards),
        ("sha256 over all shards", row.data_sha256),
    ]
    return "## Data\n\n" + markdown_table(("what", "value"), rows)


def _protocol(origin: Origin) -> str:
    row = origin.row
    on_dev = row.selection_ua is not None and row.selection == "dev"
    dev_role = {
        "train": "chose the step" if on_dev else "not used",
        "train+dev": "chose the step, then trained on"
        if on_dev
        else "trained on, counted in train",
    }[row.train_on]
    roles = {"train": "trained on", "dev": dev_role, "test": "judged"}
    of_dev = row.num_dev if row.train_on == "train+dev" and on_dev else 0
    counts = {"train": row.num_train - of_dev, "dev": row.num_dev, "test": row.num_test}
    rows = [
        (split, counts[split], roles[split], _some(origin.units[split])) for split in origin.units
    ]
    by = {"dev": "chosen on dev", "oracle": "chosen on test itself", "last": "the last one"}
    if row.selection != "last" and row.selection_ua is None:
        step = "It learns without steps."
    else:
        step = f"Step {row.step}, {by[row.selection]}."
    lines = [
        f"{row.protocol}, sha256 {row.fold_file_sha256}, fold {row.fold}. {step} "
        f"Labels of train and dev in use: {row.label_share:.0%}."
    ]
    if row.shared_speakers:
        lines.append("**Training and test may share speakers: mechanics, not accuracy.**")
    if row.selection == "oracle":
        lines.append("**The step was chosen on the test clips: no honest number.**")
    table = markdown_table(("split", "clips", "what for", f"{origin.group}s"), rows)
    return "\n\n".join(["## Protocol", *lines, table])


def _some(units: Sequence[str]) -> str:
    shown = ", ".join(units[:MAX_UNITS])
    more = len(units) - MAX_UNITS
    return shown + (f" and {more} more" if more > 0 else "") if units else "-"


def _figures(row: ResultsRow) -> str:
    rows = [
        (
            title,
            f"{getattr(row, name):.1%}",
            _interval(getattr(row, f"{name}_low"), getattr(row, f"{name}_high")),
            _or_dash(getattr(row, f"oracle_{name}")),
        )
        for name, title in (("wa", "WA"), ("ua", "UA"), ("macro_f1", "Macro-F1"))
    ]
    parts = [
        f"## Figures on its {row.num_test} test clips",
        markdown_table(("score", "value", "95 % interval", "by oracle"), rows),
        "The interval is a bootstrap over these clips; another fold or seed differs by more.",
    ]
    if row.oracle_ua is not None:
        parts.append(
            f"By oracle: had the test clips themselves chosen the step ({row.oracle_step}); never "
            "an honest number."
        )
    seen = row.num_test_pretrained
    if row.checkpoint_sha256:
        told = "not known" if seen is None else str(seen)
        parts.append(f"Test clips that pretraining read, without their labels: {told}.")
    if row.notes:
        parts.append("\n".join(f"- {note}" for note in row.notes))
    return "\n\n".join(parts)


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.1%} to {high:.1%}"


def _or_dash(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _start(origin: Origin) -> str:
    if origin.checkpoint is None:
        what = f"the text side is that of {origin.bert}" if origin.bert else "new weights"
        return f"## What it started from\n\nNo pretrained MEmoBERT: {what}."
    told = origin.checkpoint.provenance
    num_shards = sum(map(len, told.get("shards_sha256", {}).values()))
    rows = [
        ("sha256 of the weights", origin.row.checkpoint_sha256),
        ("step", told.get("step", "not stated")),
        ("pretrained on", f"{num_shards} shards" if num_shards else "not stated"),
        ("digest of those clips", told.get("clips_sha256", "not stated")),
        ("code", told.get("git_commit", "not stated")),
    ]
    return (
        f"## What it started from\n\n{origin.checkpoint.what}; its own card says how it was "
        "pretrained.\n\n" + markdown_table(("what", "value"), rows)
    )


def _features(told: Mapping[str, Any]) -> str:
    rows = [
        (name, spec["name"], spec["width"], f"{spec['rate_hz']:.4g}", spec["weights_sha256"][:12])
        for name, spec in told["passport"].items()
    ]
    header = ("stream", "encoder", "width", "a second", "weights")
    return (
        "## Features it reads\n\nFeatures that were made in another way are refused; "
        "recognizer.json has all of this.\n\n" + markdown_table(header, rows)
    )


def _licences(told: Mapping[str, Any], origin: Origin | None) -> str:
    """Of the clips, of the encoders, and of what the weights started from."""
    encoders = dict.fromkeys(spec["name"] for spec in told["passport"].values())
    terms = {f"encoder {name}": LICENCES.get(name, NOT_STATED) for name in encoders}
    if origin is None:
        clips = {"the clips that it learned from": NOT_STATED}
    else:
        names = origin.row.corpus.split("+")
        clips = {f"corpus {name}": CORPORA.get(name, NOT_STATED) for name in names}
        terms |= _terms_of_start(origin)
    return "\n".join(
        [
            "## Licences and terms\n",
            "The code is under Apache-2.0. The weights were learned from these, whose terms hold:"
            "\n",
            *(f"- {what}: {said}" for what, said in (clips | terms).items()),
        ]
    )


def _terms_of_start(origin: Origin) -> dict[str, str]:
    if origin.checkpoint is None:
        return {f"BERT {origin.bert}": LICENCES.get(origin.bert, NOT_STATED)} if origin.bert else {}
    if "corpora" in origin.checkpoint.provenance:
        corpora = origin.checkpoint.provenance["corpora"]
        return {f"corpus {n} of the start": CORPORA.get(n, NOT_STATED) for n in corpora}
    config = origin.checkpoint.config
    terms = {
        f"encoder {spec.name}": LICENCES.get(spec.name, NOT_STATED)
        for spec in origin.checkpoint.passport.values()
    }
    if config is not None and config.model.text_init == "checkpoint":
        name = config.model.text_checkpoint
        terms[f"text side of the checkpoint, {name}"] = LICENCES.get(name, NOT_STATED)
    elif config is None:
        terms["text side of the checkpoint"] = NOT_STATED
    terms["clips that the checkpoint was pretrained on"] = "not stated in the checkpoint"
    return terms
