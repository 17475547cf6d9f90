"""Labelled clips: shard folders plus a label map, divided by a protocol, guarded against overlap.

Every clip of the shards is accounted for: in use, without a label, or with a label that the config
says to leave out. A label the config does not know stops the run and is named with its count.
"""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data_pipeline.schema import ClipSample, Passport
from data_pipeline.shards import list_shards, load_passport, read_manifest, read_shard
from finetune.protocols import ALLOW, Protocol, some

Modality = Literal["text", "face", "speech"]
EVERY_OTHER = "*"
"""In `ignore_labels`: every label that no class lists."""
MECHANICS = "these results show mechanics, not accuracy"
TRAIN_PAIRS = (("train", "dev"), ("train", "test"))


class DatasetError(ValueError):
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
    passport: Passport
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The clips of one fold."""

    train: list[LabelledClip]
    dev: list[LabelledClip]
    test: list[LabelledClip]
    notes: list[str]
    """What a reader of the result should know: clips that no split takes, unknown speakers."""


def read_labelled(folders: Sequence[str], labels: LabelMap) -> LabelledSet:
    """Read every finished shard of `folders`.

    Raises DatasetError for labels that `labels` does not know (with their counts), for an id that
    occurs twice, and when fewer than two classes have clips; ShardError for shards that are cut
    or altered.
    """
    passport = load_passport(folders)
    clips: list[LabelledClip] = []
    unknown: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    num_unlabelled = 0
    seen: set[str] = set()
    shards_sha256 = []
    for tar in [tar for folder in folders for tar in list_shards(folder)]:
        shards_sha256.append(read_manifest(tar.with_suffix(".json")).sha256)
        for sample in read_shard(tar):
            if sample.id in seen:
                raise DatasetError(f"clip {sample.id} twice in {', '.join(map(str, folders))}")
            seen.add(sample.id)
            label = sample.meta.get("label")
            if label is None or not _plain(label):
                num_unlabelled += 1
            elif (name := _plain(label)) in labels.class_of:
                clips.append(LabelledClip(sample=sample, label=labels.class_of[name]))
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
            f"{_counted(ignored) or 'none'}); fill the column `label` of the clip table"
        )
    if len({clip.label for clip in clips}) < 2:
        raise DatasetError(
            f"all {len(clips)} labelled clips are {labels.classes[clips[0].label]}, and a "
            f"classifier needs two classes (left out: {_counted(ignored) or 'none'}); look at "
            "data.labels and data.ignore_labels, or at the column `label` of the clip table"
        )
    return LabelledSet(
        clips=clips,
        classes=labels.classes,
        passport=passport,
        shards_sha256=tuple(shards_sha256),
        num_unlabelled=num_unlabelled,
        ignored=dict(ignored),
    )


def split_clips(
    clips: Sequence[LabelledClip],
    protocol: Protocol,
    fold: int,
    classes: Sequence[str] | None = None,
) -> Splits:
    """The clips of one fold, after the overlap guard. `classes` names the classes in the notes.

    Raises DatasetError when a split of the fold has no clips, when training has one class, and,
    unless the protocol says `allow_shared_speakers`, when two splits share a speaker or training
    shares a recording with dev or test. Dev and test may share a recording: two people of one
    dialogue are what IEMOCAP's ten folds choose on and are judged on.
    """
    splits: dict[str, list[LabelledClip]] = {"train": [], "dev": [], "test": []}
    split_of = {unit: split for split in splits for unit in getattr(protocol.folds[fold], split)}
    uncovered: Counter[str] = Counter()
    for clip in clips:
        unit = clip.unit(protocol.group)
        if unit in split_of:
            splits[split_of[unit]].append(clip)
        else:
            uncovered[unit] += 1
    where = f"protocol {protocol.name}, fold {fold}"
    for split, members in splits.items():
        listed = getattr(protocol.folds[fold], split)
        if not members and listed:
            raise DatasetError(
                f"{where}: no labelled clip for {split}; its {protocol.group}s are "
                f"{some(sorted(listed))}, the clips have "
                f"{some(sorted({clip.unit(protocol.group) for clip in clips}))}"
            )
    if len({clip.label for clip in splits["train"]}) < 2:
        raise DatasetError(
            f"{where}: all {len(splits['train'])} training clips are of one class, so there is "
            "nothing to tell apart; use fewer folds, or another grouping"
        )
    notes = [
        *_overlaps(clips, splits, protocol, where),
        *_absences(splits, protocol, fold, classes),
    ]
    nameless = sum(clip.named("speaker") is None for part in splits.values() for clip in part)
    if nameless:
        notes.append(f"{nameless} clips name no speaker, so the overlap guard cannot see them")
    if uncovered:
        notes.append(
            f"{uncovered.total()} labelled clips are in no split of fold {fold} "
            f"({protocol.group}s {some(sorted(uncovered))})"
        )
    return Splits(**splits, notes=notes)


def _overlaps(
    clips: Sequence[LabelledClip],
    splits: dict[str, list[LabelledClip]],
    protocol: Protocol,
    where: str,
) -> list[str]:
    """The overlap guard: an error, or a note where the protocol allows it."""
    notes = []
    for field in ("speaker", "recording"):
        pairs = TRAIN_PAIRS if field == "recording" else (*TRAIN_PAIRS, ("dev", "test"))
        shared = shared_names(splits, field, pairs)
        if shared and not protocol.allow_shared_speakers:
            raise DatasetError(
                f"{where}: {field}s in two splits: "
                + some([f"{name} ({a} and {b})" for name, a, b in shared])
                + f". Results would measure the {field}, not the emotion. "
                + f"{_way_out(clips, field)}, or {ALLOW}"
            )
        if shared:
            names = sorted({name for name, _, _ in shared})
            notes.append(f"{field}s in two splits: {some(names)}; {MECHANICS}")
    return notes


def _way_out(clips: Sequence[LabelledClip], shared: str) -> str:
    """How to group so that neither speakers nor recordings are split.

    Grouping by what is `shared` does it only where each unit of the other kind lies whole inside
    one of them. IEMOCAP's do not: both speakers of a session meet in all its dialogues.
    """
    other = {"speaker": "recording", "recording": "speaker"}[shared]
    homes: dict[str | None, set[str | None]] = defaultdict(set)
    for clip in clips:
        homes[clip.named(other)].add(clip.named(shared))
    homes.pop(None, None)
    if all(len(names) == 1 for names in homes.values()):
        return f"Split by {shared} (python -m finetune.protocols make --by {shared})"
    return (
        "Speakers share recordings and recordings share speakers here, so give the clip table "
        "what holds them together, such as the session, as its column `recording`, extract again, "
        "and split by it (python -m finetune.protocols make --by recording)"
    )


def _absences(
    splits: dict[str, list[LabelledClip]],
    protocol: Protocol,
    fold: int,
    classes: Sequence[str] | None,
) -> list[str]:
    """Notes: classes that test lacks or training never sees, units listed that have no clips."""
    notes = []
    taught = {clip.label for clip in splits["train"]}
    everywhere = {clip.label for part in splits.values() for clip in part}
    judged = {clip.label for clip in splits["test"]}
    absent = sorted(everywhere - judged)
    if absent:
        names = ", ".join(f"class {i}" if classes is None else classes[i] for i in absent)
        notes.append(
            f"fold {fold}: test has no clip of {names}, so UA and macro-F1 are over {len(judged)} "
            f"classes, and to say one of them always has a UA of {1 / len(judged):.0%}"
        )
    untaught = Counter(clip.label for clip in splits["test"] if clip.label not in taught)
    for label, count in sorted(untaught.items()):
        name = f"class {label}" if classes is None else classes[label]
        notes.append(
            f"fold {fold}: train has no clip of {name}, so {count} test clips cannot be right"
        )
    for split, members in splits.items():
        listed = getattr(protocol.folds[fold], split)
        found = len({clip.unit(protocol.group) for clip in members})
        if found < len(listed):
            notes.append(
                f"fold {fold}, {split}: {found} of {len(listed)} {protocol.group}s listed "
                f"{'has' if found == 1 else 'have'} clips here"
            )
    return notes


def shared_names(
    splits: dict[str, list[LabelledClip]], field: str, pairs: Sequence[tuple[str, str]]
) -> list[tuple[str, str, str]]:
    """(name, split, split) for every speaker or recording that both splits of a pair have."""
    names = {
        split: {clip.named(field) for clip in members} - {None} for split, members in splits.items()
    }
    return [(name, a, b) for a, b in pairs for name in sorted(names[a] & names[b])]


def keep_modalities(sample: ClipSample, modalities: Sequence[Modality]) -> ClipSample:
    """`sample` without the modalities that are not in use."""
    changes: dict[str, object] = {}
    if "text" not in modalities:
        changes |= {"text": None, "words": []}
    if "face" not in modalities:
        changes |= {"face": None, "face_probs": None, "face_seconds": None}
    if "speech" not in modalities:
        changes |= {"speech": None}
    return dataclasses.replace(sample, **changes)


def _plain(label: object) -> str:
    return str(label).strip().lower()


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items(), key=lambda x: -x[1]))
