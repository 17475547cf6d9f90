"""Labelled clips: shard folders plus a label map.

Every clip of the shards is accounted for: in use, without a label, or with a label that the config
says to leave out. A label the config does not know stops the run and is named with its count.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from data_pipeline.arrow import open_shards, samples_of
from data_pipeline.errors import UserError
from data_pipeline.schema import ClipSample
from data_pipeline.shards import list_shards, load_passport, read_manifest

Modality = str
"""`text`, or the name of a stream."""
EVERY_OTHER = "*"
"""In `ignore_labels`: every label that no class lists."""


class DatasetError(UserError):
    """Labels or folds that cannot be used as they stand."""


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """Label of the corpus -> class."""

    classes: tuple[str, ...]
    """In the order of the class numbers."""
    class_of: dict[str, int]
    """Label as in the clip table, lower case, to the number of its class."""
    ignored: frozenset[str]
    """Labels that are known and left out."""

    @classmethod
    def build(cls, labels: dict[str, Sequence[str]], ignored: Sequence[str] = ()) -> "LabelMap":
        """From {class: the labels that mean it}. Raises DatasetError for a label of two classes."""
        if len(labels) < 2:
            raise DatasetError(f"classes {sorted(labels)}; a classifier needs at least two")
        class_of: dict[str, int] = {}
        for number, (name, members) in enumerate(labels.items()):
            for label in map(_plain, members):
                if class_of.setdefault(label, number) != number:
                    other = list(labels)[class_of[label]]
                    raise DatasetError(f"label {label!r} belongs to {other} and to {name}")
        both = class_of.keys() & set(map(_plain, ignored))
        if both:
            raise DatasetError(f"{sorted(both)} are labels of a class and also in ignore_labels")
        return cls(
            classes=tuple(labels), class_of=class_of, ignored=frozenset(map(_plain, ignored))
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledClip:
    """A sample and the number of its class."""

    sample: ClipSample
    label: int
    digest: str = ""
    """Of the streams that extraction made of it, as the shard's manifest has it."""

    def named(self, field: str) -> str | None:
        """`corpus/speaker` or `corpus/recording`; None when the clip table did not say."""
        value = self.sample.meta.get(field)
        return None if value in (None, "") else f"{self.sample.meta.get('corpus')}/{value}"

    def unit(self, group: str) -> str:
        """What a protocol of `group` calls this clip. Raises DatasetError when it has no name."""
        if group == "clip":
            return self.sample.id
        name = self.named(group)
        if name is None:
            raise DatasetError(
                f"{self.sample.id} has no {group}; fill the column {group} of the clip table and "
                "extract again, or use a protocol of another group"
            )
        return name


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSet:
    """All clips of some shard folders that have a label in use."""

    clips: list[LabelledClip]
    classes: tuple[str, ...]
    shards_sha256: tuple[str, ...]
    """Of each shard."""
    num_unlabelled: int
    ignored: dict[str, int]
    """Left-out label to number of clips."""

    @property
    def sha256(self) -> str:
        """Of the shards' own digests: the data hash of a result."""
        return hashlib.sha256("".join(self.shards_sha256).encode()).hexdigest()

    @property
    def notes(self) -> list[str]:
        """What a reader of a result should know of the clips."""
        there = {clip.label for clip in self.clips}
        absent = [name for i, name in enumerate(self.classes) if i not in there]
        return [f"no clip of {', '.join(absent)}: scored without"] if absent else []

    @property
    def corpus(self) -> str:
        return "+".join(sorted({str(clip.sample.meta.get("corpus")) for clip in self.clips}))

    def summary(self) -> list[str]:
        """Sentences that account for every clip."""
        total = len(self.clips) + self.num_unlabelled + sum(self.ignored.values())
        counts = Counter(clip.label for clip in self.clips)
        lines = [
            f"{len(self.clips)} of {total} clips in use: "
            + ", ".join(f"{name} {counts[i]}" for i, name in enumerate(self.classes))
        ]
        if self.ignored:
            lines.append(f"left out by label: {_counted(self.ignored)}")
        if self.num_unlabelled:
            lines.append(f"without a label: {self.num_unlabelled}")
        return lines


def read_labelled(
    folders: Sequence[str], labels: LabelMap, streams: Collection[str], column: str = "label"
) -> LabelledSet:
    """Read every finished shard of `folders`; `streams` as data_pipeline.shards.read_shard.
    `column` of the clip table holds the labels.

    The clips lie in Arrow's cache on disk, see data_pipeline.arrow, and not in memory.
    Raises DatasetError for labels that `labels` does not know (with their counts), for an id that
    occurs twice, and when fewer than two classes have clips; ShardError for shards that are cut
    or altered.
    """
    clips: list[LabelledClip] = []
    unknown: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    num_unlabelled = 0
    seen: set[str] = set()
    tars = [tar for folder in folders for tar in list_shards(folder)]
    manifests = [read_manifest(tar.with_suffix(".json")) for tar in tars]
    digests = [digest for manifest in manifests for digest in manifest.digests]
    samples = samples_of(open_shards(folders, streams), load_passport(folders, streams))
    for sample, digest in zip(samples, digests, strict=True):
        if sample.id in seen:
            raise DatasetError(f"clip {sample.id} twice in {', '.join(map(str, folders))}")
        seen.add(sample.id)
        label = sample.column(column)
        if label is None or not _plain(label):
            num_unlabelled += 1
        elif (name := _plain(label)) in labels.class_of:
            number = labels.class_of[name]
            clips.append(LabelledClip(sample=sample, label=number, digest=digest))
        elif name in labels.ignored or EVERY_OTHER in labels.ignored:
            ignored[name] += 1
        else:
            unknown[name] += 1
    if unknown:
        raise DatasetError(
            f"labels that no class lists: {_counted(unknown)}. Classes: "
            f"{', '.join(labels.classes)}. Add them to a class in data.labels, or to "
            "data.ignore_labels to leave those clips out"
        )
    if not clips:
        raise DatasetError(
            f"no clip with a label of {', '.join(labels.classes)} among {len(seen)} in "
            f"{', '.join(map(str, folders))} ({num_unlabelled} without a label, left out: "
            f"{_counted(ignored) or 'none'}); fill the column `{column}` of the clip table"
        )
    if len({clip.label for clip in clips}) < 2:
        raise DatasetError(
            f"all {len(clips)} labelled clips are {labels.classes[clips[0].label]}, and a "
            f"classifier needs two classes (left out: {_counted(ignored) or 'none'}); look at "
            f"data.labels and data.ignore_labels, or at the column `{column}` of the clip table"
        )
    return LabelledSet(
        clips=clips,
        classes=labels.classes,
        shards_sha256=tuple(manifest.sha256 for manifest in manifests),
        num_unlabelled=num_unlabelled,
        ignored=dict(ignored),
    )


def _plain(label: object) -> str:
    return str(label).strip().lower()


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda x: -x[1]))
