"""Masked words of held-out clips, asked of a model that was given the right clip, or a wrong one.

    rows = run_seed(config, seed=1)

What pretrain.pairing runs; see there.
"""

import csv
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from data_pipeline.config import ConfigError
from data_pipeline.markdown import markdown_table
from data_pipeline.schema import ClipSample
from data_pipeline.shards import load_passport
from pretrain.build import build_limits
from pretrain.checkpoint.folder import load_checkpoint
from pretrain.config import PairingConfig
from pretrain.data.clip_index import ClipIndex
from pretrain.data.example import Limits, collate, make_example
from pretrain.data.masking import MaskingSettings
from pretrain.data.survey import survey_shards
from pretrain.model.memobert import MEmoBert
from pretrain.run import pretrain
from pretrain.runtime import start

CONDITIONS = ("true", "speech only", "face only", "text only", "wrong clip")


@dataclass(frozen=True, kw_only=True)
class PairingRow:
    """One seed, one condition, one position."""

    seed: int
    condition: str
    position: str
    accuracy: float
    num_clips: int
    most_common: float
    """Accuracy of always saying the position's most common word of the training clips."""


def run_seed(config: PairingConfig, seed: int) -> list[PairingRow]:
    """Pretrain with `seed` (or go on, or find it done) and ask for every position's word."""
    settings = config.pretrain
    folder = Path(settings.run.output) / f"seed-{seed}"
    settings = replace(settings, run=replace(settings.run, seed=seed, output=str(folder)))
    runtime = start(settings.run)
    pretrain(settings, runtime)

    trained = load_checkpoint(folder)
    found = survey_shards(settings.data).clips
    clips = read_clips(found.held_out)
    words = {c.id: c.words for c in read_clips(found.train)}
    limits = build_limits(settings.data, settings.model, trained.passport)
    rows = []
    for name, position in config.positions.items():
        usable = [clip for clip in clips if len(clip.words) > position]
        if len({clip.words[position] for clip in usable}) < 2:
            raise ConfigError(
                f"positions.{name}={position}: the {len(usable)} held-out clips that have it all "
                "say the same word there; choose another position, or hold out more clips"
            )
        common = Counter(w[position] for w in words.values() if len(w) > position)
        guess = common.most_common(1)[0][0]
        for condition in CONDITIONS:
            asked = [present(clip, usable, position, condition) for clip in usable]
            said = fill_in(trained.model, trained.tokenizer, asked, position, limits)
            right = [word == clip.words[position] for word, clip in zip(said, usable, strict=True)]
            rows.append(
                PairingRow(
                    seed=seed,
                    condition=condition,
                    position=name,
                    accuracy=float(np.mean(right)),
                    num_clips=len(usable),
                    most_common=float(np.mean([c.words[position] == guess for c in usable])),
                )
            )
    return rows


def read_clips(index: ClipIndex) -> list[ClipSample]:
    """The clips of `index`, in the order of their ids."""
    clips = [clip for shard in range(len(index)) for clip in index.samples(shard)]
    return sorted(clips, key=lambda clip: clip.id)


def present(
    clip: ClipSample, others: list[ClipSample], position: int, condition: str
) -> ClipSample:
    """`clip` with the speech and face of `condition`.

    The wrong clip is the next one, in the order of ids, that says another word at `position`.
    """
    if condition == "true":
        return clip
    if condition == "text only":
        return clip.only({"text"})
    if condition == "speech only":
        return clip.only({"text", "speech"})
    if condition == "face only":
        return clip.only({"text", "face", "face_probs"})
    at = next(i for i, other in enumerate(others) if other.id == clip.id)
    wrong = next(
        other
        for other in others[at + 1 :] + others[:at]
        if other.words[position] != clip.words[position]
    )
    return replace(clip, streams=wrong.streams)


@torch.no_grad()
def fill_in(
    model: MEmoBert,
    tokenizer: PreTrainedTokenizerBase,
    clips: list[ClipSample],
    position: int,
    limits: Limits,
) -> list[str]:
    """The word piece that the model puts in place of word `position` of every clip."""
    said = []
    for start_at in range(0, len(clips), 32):
        examples = []
        for clip in clips[start_at : start_at + 32]:
            words = [*clip.words]
            words[position] = tokenizer.mask_token
            masked = replace(clip, words=words, text=" ".join(words))
            rng = np.random.default_rng(0)  # drawn from by no task
            examples.append(make_example(masked, tokenizer, limits, None, MaskingSettings(), rng))
        batch = collate(examples, tokenizer.pad_token_id)
        rows, columns = (batch.text_ids_NT == tokenizer.mask_token_id).nonzero(as_tuple=True)
        logits_NV = model.mask_logits(model.encode(batch).text_NTH[rows, columns])
        said += tokenizer.convert_ids_to_tokens(logits_NV.argmax(-1).tolist())
    return said


def write_csv(path: Path, rows: list[PairingRow]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def as_markdown(config: PairingConfig, rows: list[PairingRow]) -> str:
    """Mean and deviation over seeds: a line for each condition, a column for each position."""
    names = list(config.positions)
    first = {row.position: row for row in reversed(rows)}
    lines = [
        "# Masked words with the right speech and face, and with the wrong ones",
        "",
        f"{len(config.seeds)} seeds, {config.pretrain.optim.steps} steps of "
        f"{config.pretrain.data.batch_clips} clips each; {first[names[0]].num_clips} held-out "
        "clips, chosen by a hash of their names. Percent of words named exactly, out of the whole "
        "vocabulary; mean and standard deviation over seeds.",
        "",
        *describe_features(config),
        "",
    ]
    table = []
    titles = {
        "true": "words, own speech and face",
        "speech only": "words, own speech",
        "face only": "words, own face",
        "text only": "words alone",
        "wrong clip": "words, another clip's speech and face",
    }
    for condition in CONDITIONS:
        cells = []
        for name in names:
            a = [r.accuracy for r in rows if (r.condition, r.position) == (condition, name)]
            spread = np.std(a, ddof=1) if len(a) > 1 else 0.0
            cells.append(f"{100 * np.mean(a):.1f} ± {100 * spread:.1f}")
        table.append((titles[condition], *cells))
    cells = [f"{100 * first[name].most_common:.1f}" for name in names]
    table.append(("(always the most common word)", *cells))
    return "\n".join([*lines, markdown_table(("the model is given", *names), table)]) + "\n"


def describe_features(config: PairingConfig) -> list[str]:
    """The encoders behind the shards, so that the table can be told from one of other weights."""
    passport = load_passport(config.pretrain.data.shards)
    return [
        f"- {modality}: {spec.name}, weights {spec.weights_sha256[:12]}, hidden state {spec.layer}"
        for modality, spec in passport.items()
    ]
