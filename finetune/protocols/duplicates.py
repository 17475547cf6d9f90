"""The same utterance under two ids, in two splits of a fold.

Equal features are the same recording: an extraction gives equal streams for nothing else. Equal
words with as many frames in every stream are a hint alone, since in acted corpora everybody says
the same sentences. Both take one look at each clip.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

from finetune.clips.labelled import LabelledClip

SHOWN = 3
PAIRS = (("train", "dev"), ("train", "test"), ("dev", "test"))

BySplit = Mapping[str, Sequence[LabelledClip]]
Pair = tuple[LabelledClip, str, LabelledClip, str]
"""A clip and its split, and the one of a later split that is like it."""


def same_features(splits: BySplit) -> list[Pair]:
    """Clips of two splits whose streams are equal, by the digests of their shards' manifests."""
    return _alike(splits, lambda clip: clip.digest or None)


def same_words_and_lengths(splits: BySplit) -> list[Pair]:
    """Clips of two splits with equal words and as many frames in each of their streams, of which
    there is one at least; but those of equal features. Words that are seldom said come first: of
    them equal lengths are least likely chance."""
    pairs = _alike(splits, _words_and_lengths)
    said = Counter(_words(clip) for members in splits.values() for clip in members)
    pairs.sort(key=lambda pair: said[_words(pair[2])])
    return [p for p in pairs if not p[0].digest or p[0].digest != p[2].digest]


def num_alike(pairs: Sequence[Pair]) -> int:
    """Clips that have one like them in an earlier split."""
    return len({clip.sample.id for *_, clip, _ in pairs})


def named(pairs: Sequence[Pair]) -> str:
    """The first few pairs, for a message."""
    shown = [f"{a.sample.id} ({x}) and {b.sample.id} ({y})" for a, x, b, y in pairs[:SHOWN]]
    more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return "; ".join(shown) + more


def _words(clip: LabelledClip) -> tuple[str, ...]:
    return tuple(word.casefold() for word in clip.sample.words)


def _words_and_lengths(clip: LabelledClip) -> Hashable | None:
    streams = clip.sample.streams
    if not clip.sample.words or not streams:
        return None
    lengths = tuple((name, len(streams[name])) for name in sorted(streams))
    return _words(clip), lengths


def _alike(splits: BySplit, key: Callable[[LabelledClip], Hashable | None]) -> list[Pair]:
    """Each clip of dev and test with the first one of an earlier split that has its key."""
    first: dict[Hashable, dict[str, LabelledClip]] = defaultdict(dict)
    keyed = {split: [(clip, key(clip)) for clip in splits[split]] for split in splits}
    for split, members in keyed.items():
        for clip, mark in members:
            if mark is not None:
                first[mark].setdefault(split, clip)
    return [
        (first[mark][earlier], earlier, clip, split)
        for earlier, split in PAIRS
        for clip, mark in keyed[split]
        if mark is not None and earlier in first[mark]
    ]
