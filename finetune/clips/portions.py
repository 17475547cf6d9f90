"""What of a fold's clips a run learns from: without long texts, with few labels, with dev too.

Each takes the splits of a fold and gives others; nothing here changes a clip.
"""

import dataclasses
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from finetune.clips.labelled import DatasetError, LabelledClip
from finetune.protocols import Splits


def without_long_texts(
    splits: Splits,
    num_pieces: Callable[[LabelledClip], int],
    *,
    fold: int,
    max_trained: int,
    max_judged: int | None,
) -> Splits:
    """Leave out clips of more pieces: above `max_trained` in train, above `max_judged` in dev and
    test (None: none). Raises DatasetError where a split loses all its clips."""
    limits = {"train": max_trained, "dev": max_judged, "test": max_judged}
    kept, lines = {}, []
    for split, limit in limits.items():
        clips: list[LabelledClip] = getattr(splits, split)
        kept[split] = [clip for clip in clips if limit is None or num_pieces(clip) <= limit]
        if clips and not kept[split]:
            raise DatasetError(
                f"fold {fold}: every text of {split} has more than {limit} pieces, and "
                "data.long_texts=drop leaves those out; raise data."
                f"{'limits.text' if split == 'train' else 'max_judged_pieces'}, or use "
                "data.long_texts=cut"
            )
        if len(kept[split]) < len(clips):
            lines.append(f"{len(clips) - len(kept[split])} of {len(clips)} {split}")
    if len({clip.label for clip in kept["train"]}) < 2:
        raise DatasetError(
            f"fold {fold}: without the texts of more than {max_trained} pieces the training clips "
            "are of one class; raise data.limits.text, or use data.long_texts=cut"
        )
    if lines:
        notes = [
            *splits.notes,
            f"fold {fold}: left out for long texts (data.long_texts=drop): {', '.join(lines)} "
            "clips" + ("" if max_judged is None else "; what is judged is not the whole"),
        ]
        return dataclasses.replace(splits, **kept, notes=notes)
    return splits


def few_labels(splits: Splits, share: float, seed: int) -> Splits:
    """Keep `share` of each class in train and in dev, at least one clip; test stays whole.

    Clips are drawn by a hash of seed and id, so that a smaller share is part of a larger one, and
    neither the order of the shards nor other clips change the draw.
    """
    if share == 1:
        return splits
    return dataclasses.replace(
        splits, train=_draw(splits.train, share, seed), dev=_draw(splits.dev, share, seed)
    )


def train_and_dev(splits: Splits, fold: int) -> Splits:
    """Dev among the training clips, and no dev split.

    A recording may be in dev and in test (two people of one dialogue), and is in train and test
    then: it is noted, since the reference's `trnval` runs do so too.
    """
    shared = {clip.named("recording") for clip in splits.dev} & {
        clip.named("recording") for clip in splits.test
    }
    shared.discard(None)
    notes = list(splits.notes)
    if shared:
        notes.append(f"fold {fold}: train+dev has {len(shared)} recordings of the test clips in it")
    return dataclasses.replace(splits, train=[*splits.train, *splits.dev], dev=[], notes=notes)


def _draw(clips: Sequence[LabelledClip], share: float, seed: int) -> list[LabelledClip]:
    of_class: dict[int, list[LabelledClip]] = defaultdict(list)
    for clip in clips:
        of_class[clip.label].append(clip)
    kept: set[str] = set()
    for members in of_class.values():
        count = max(1, math.floor(share * len(members) + 0.5))
        order = sorted(members, key=lambda clip: _lot(clip.sample.id, seed))
        kept |= {clip.sample.id for clip in order[:count]}
    return [clip for clip in clips if clip.sample.id in kept]


def _lot(clip: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{clip}".encode()).digest()
