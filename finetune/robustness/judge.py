"""Recognizers judged on clips that lack modalities, or whose streams are noisy.

N clips, M modalities, C classes.
"""

import csv
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.paths import check_distinct
from data_pipeline.schema import ClipSample
from finetune.clips.labelled import Modality
from finetune.clips.reader import modality_cases
from finetune.metrics import Scores, score
from finetune.recognizer import Recognizer, load_recognizer, told_of
from finetune.runs.results import read_row

NUM_RESAMPLES = 1000
NOISY_SHARE = 0.75
"""Of the clips, those whose stream is noisy, as in M3ER's protocol."""
TOLERANCE = 0.02
"""By which a probability may differ from the run's own: other hardware, bf16."""
Line = dict[str, Any]


class RobustnessError(UserError):
    """A recognizer whose test clips are not to be had."""


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedClips:
    """The clips that a recognizer is judged on, with all that it reads of them."""

    samples: list[ClipSample]
    truth_N: np.ndarray
    """Number of the class among the recognizer's."""
    source: Path
    """The table that names them."""
    said_NC: np.ndarray | None
    """Probabilities that the run gave them; None where the table has none."""


def judge(
    recognizer: Recognizer,
    clips: JudgedClips,
    modalities: Sequence[Modality],
    *,
    rates: Sequence[float],
    noisy: Sequence[str] = (),
    ratios: Sequence[float] = (),
    num_draws: int = 5,
    seed: int = 0,
) -> list[Line]:
    """A line for each subset of `modalities`, the full one first, for each missing rate, and for
    each stream of `noisy` at each signal to noise ratio.

    The score of a rate or ratio is the mean over `num_draws` draws. A clip that has none of a
    subset's modalities is judged unseen, since to leave it out would flatter.
    """
    samples, num_classes = clips.samples, len(recognizer.classes)

    def scored(shown: list[ClipSample], num_resamples: int = 0) -> Scores:
        prediction_N = recognizer.predict(shown).argmax(1)
        return score(
            clips.truth_N, prediction_N, num_classes, num_resamples=num_resamples, seed=seed
        )

    lines = []
    num_there = sum(sample.has(m) for sample in samples for m in modalities)
    for case in modality_cases(modalities, "seven"):
        found = scored([sample.only(case) for sample in samples], NUM_RESAMPLES)
        wa, ua = found.wa_interval or (None, None), found.ua_interval or (None, None)
        num_seen = sum(sample.has(m) for sample in samples for m in case)
        lines.append(
            {
                "kind": "subset",
                "case": "+".join(case),
                "rate": None,
                "dropped": 1 - num_seen / max(num_there, 1),
                "num_unseen": sum(not any(map(sample.has, case)) for sample in samples),
                **{"wa": found.wa, "ua": found.ua, "macro_f1": found.macro_f1},
                **dict(zip(("wa_low", "wa_high"), wa, strict=True)),
                **dict(zip(("ua_low", "ua_high"), ua, strict=True)),
                "num_draws": 1,
            }
        )
    for rate in rates:
        draws = range(num_draws if rate else 1)  # nothing is drawn at 0
        kept = [[kept_of(s, modalities, rate, (seed, d)) for s in samples] for d in draws]
        found = [
            scored([s.only(k) for s, k in zip(samples, of_draw, strict=True)]) for of_draw in kept
        ]
        num_kept = np.mean([sum(map(len, of_draw)) for of_draw in kept])
        lines.append(
            dict.fromkeys(lines[0])
            | {
                "kind": "rate",
                "case": "+".join(modalities),
                "rate": rate,
                "dropped": float(1 - num_kept / max(num_there, 1)),
                "num_unseen": sum(not k for k in kept[0]),
                "num_draws": len(draws),
            }
            | _means(found)
        )
    for stream in noisy:
        for ratio in ratios:
            found = [
                scored([noisy_of(s, stream, ratio, (seed, d)).only(modalities) for s in samples])
                for d in range(num_draws)
            ]
            lines.append(
                dict.fromkeys(lines[0])
                | {"kind": "noise", "case": stream, "rate": ratio, "num_draws": num_draws}
                | _means(found)
            )
    return lines


def _means(found: list[Scores]) -> Line:
    return {
        name: float(np.mean([getattr(scores, name) for scores in found]))
        for name in ("wa", "ua", "macro_f1")
    }


def noisy_of(
    sample: ClipSample,
    stream: str,
    ratio: float,
    seed: tuple[int, int],
    share: float = NOISY_SHARE,
) -> ClipSample:
    """The clip with white Gaussian noise on one stream, in that share of all clips: each number of
    the stream gets noise of its own deviation over the clip's rows, divided by the root of
    `ratio`.

    The lots are the clip's own, as those of `kept_of`.
    """
    if not sample.has(stream):
        return sample
    digest = hashlib.sha256(f"{seed}/{sample.id}/{stream}/noise".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    if rng.random() >= share:
        return sample
    rows = sample.streams[stream]
    values_ND = rows.values_ND.astype(np.float32)
    noise_ND = rng.standard_normal(values_ND.shape, dtype=np.float32)
    values_ND = values_ND + noise_ND * values_ND.std(0) / np.sqrt(ratio)
    rows = replace(rows, values_ND=values_ND.astype(rows.values_ND.dtype))
    return replace(sample, streams=sample.streams | {stream: rows})


def kept_of(
    sample: ClipSample, modalities: Sequence[Modality], rate: float, seed: tuple[int, int]
) -> tuple[Modality, ...]:
    """What is left of a clip when each modality is dropped with probability `rate`, but never the
    last one: then the one that would have been dropped last is kept.

    The lots are the clip's own, whatever other clips there are, and the same for every recognizer;
    what a smaller rate drops, a larger one drops too.
    """

    def lot(name: Modality) -> float:
        digest = hashlib.sha256(f"{seed}/{sample.id}/{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    there = [name for name in modalities if sample.has(name)]
    kept = tuple(name for name in there if lot(name) >= rate)
    return kept or tuple(sorted(there, key=lot)[-1:])


def read_clips(
    folder: Path, recognizer: Recognizer, shards: Sequence[Path], table: Path | None = None
) -> JudgedClips:
    """The clips that `table` names, by default the predictions.csv of the recognizer's own run.

    Raises RobustnessError where there is none, where it has other classes than the recognizer's,
    and where the shards lack one of its clips.
    """
    source = table or folder.resolve().parent / "predictions.csv"
    if not source.is_file():
        raise RobustnessError(
            f"no {source}, which says which clips {folder} was tested on; give the recognizer "
            "where its run left it, or --clips FILE with the columns clip and truth (such as the "
            "run's predictions.csv)"
        )
    with open(source, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lacks = [name for name in ("clip", "truth") if not rows or name not in rows[0]]
    if lacks:
        raise RobustnessError(f"{source} has no {' and no '.join(lacks)}; expected a row a clip")
    truth_of = {row["clip"]: row["truth"] for row in rows}
    if len(truth_of) < len(rows):
        raise RobustnessError(
            f"{source} has {len(rows)} rows for {len(truth_of)} clips; expected a row a clip"
        )
    strange = sorted(set(truth_of.values()) - set(recognizer.classes))
    if strange:
        raise RobustnessError(
            f"{source}: the classes {', '.join(strange)} are not the recognizer's, which tells "
            f"apart {', '.join(recognizer.classes)}"
        )
    found = {s.id: s for shard in shards for s in recognizer.read(shard) if s.id in truth_of}
    gone = sorted(truth_of.keys() - found.keys())
    if gone:
        raise RobustnessError(
            f"{len(gone)} of the {len(truth_of)} clips of {source} are not in "
            f"{', '.join(map(str, shards))}, such as {gone[0]}; give the shards of the run, "
            "data.shards in the config.yaml beside it"
        )
    names = [f"p_{name}" for name in recognizer.classes]
    said = [[float(row[name]) for name in names] for row in rows] if names[0] in rows[0] else None
    return JudgedClips(
        samples=[found[row["clip"]] for row in rows],
        truth_N=np.array([recognizer.classes.index(row["truth"]) for row in rows]),
        source=source,
        said_NC=None if said is None else np.array(said),
    )


def num_other(recognizer: Recognizer, clips: JudgedClips, modalities: Sequence[Modality]) -> int:
    """Clips of which the recognizer does not say what its run said: then the shards are others."""
    if clips.said_NC is None:
        return 0
    now_NC = recognizer.predict([sample.only(modalities) for sample in clips.samples])
    return int((np.abs(now_NC - clips.said_NC).max(1) > TOLERANCE).sum())


def passport(
    folders: Sequence[Path],
    shards: Sequence[Path],
    *,
    table: Path | None = None,
    rates: Sequence[float],
    noisy: Sequence[str] = (),
    ratios: Sequence[float] = (),
    num_draws: int = 5,
    seed: int = 0,
) -> tuple[list[Line], list[str]]:
    """The lines of all recognizers, and what a reader must know of them."""
    check_distinct("RECOGNIZER", folders)
    check_distinct("--shards", shards)
    lines, notes = [], []
    for number, folder in enumerate(folders, 1):
        recognizer, told = load_recognizer(folder), told_of(folder)
        clips = read_clips(folder, recognizer, shards, table)
        modalities = tuple(told["modalities"])
        row = read_row(folder.resolve().parent)
        setting = row.setting if row else f"{told['system']}, {told['head']}"
        about = {
            "setting": setting,
            "recipe": row.recipe if row else "",
            "fold": row.fold if row else None,
            "seed": row.seed if row else None,
            "recognizer": str(folder),
            "num_clips": len(clips.samples),
            "chance_ua": 1 / len(np.unique(clips.truth_N)),
        }
        strange = [name for name in noisy if name == "text" or name not in modalities]
        if strange:
            raise RobustnessError(
                f"--noise {strange[0]}: {folder} reads {', '.join(modalities)}; expected one of "
                "its streams, which text is none of"
            )
        own = judge(
            recognizer,
            clips,
            modalities,
            rates=rates,
            noisy=noisy,
            ratios=ratios,
            num_draws=num_draws,
            seed=seed,
        )
        lines += [about | line for line in own]
        print(
            f"{number}/{len(folders)} {folder}: {len(clips.samples)} clips of {clips.source}, UA "
            f"{own[0]['ua']:.3f} with {own[0]['case']}",
            file=sys.stderr,
        )
        other = num_other(recognizer, clips, modalities)
        if other:
            notes.append(
                f"{folder}: of {other} of {len(clips.samples)} clips it says something else than "
                "its run's predictions.csv: these are not the shards of that run, or the "
                "recognizer is another one"
            )
        if row and row.selection == "oracle" and not table:
            notes.append(f"{folder}: its step was chosen on these clips: no honest number")
        unseen = {x["case"]: x["num_unseen"] for x in own if x["num_unseen"]}
        notes += [
            f"{folder}: {count} of {len(clips.samples)} clips have none of {case}: judged unseen"
            for case, count in unseen.items()
        ]
    return lines, notes
