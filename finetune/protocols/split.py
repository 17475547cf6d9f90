"""The clips of one fold, and the overlap guard between its splits."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.clips.labelled import DatasetError, LabelledClip
from finetune.protocols.duplicates import named, num_alike, same_features, same_words_and_lengths
from finetune.protocols.files import ALLOW, Protocol, some

MECHANICS = "these results show mechanics, not accuracy"
TRAIN_PAIRS = (("train", "dev"), ("train", "test"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The clips of one fold."""

    train: list[LabelledClip]
    dev: list[LabelledClip]
    test: list[LabelledClip]
    notes: list[str]
    """What a reader of the result should know: clips that no split takes, unknown speakers."""


def split_clips(
    clips: Sequence[LabelledClip],
    protocol: Protocol,
    fold: int,
    classes: Sequence[str] | None = None,
) -> Splits:
    """The clips of one fold, after the overlap guard. `classes` names the classes in the notes.

    Raises DatasetError when a split of the fold has no clips, when training has one class, and,
    unless the protocol says `allow_shared_speakers`, when two splits share a speaker or an
    utterance (finetune.protocols.duplicates), or training a recording with dev or test. Dev and
    test may share a recording: two people of one dialogue are what IEMOCAP's ten folds choose on
    and are judged on.
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
    if splits["dev"] and len({clip.label for clip in splits["dev"]}) < 2:
        raise DatasetError(
            f"{where}: all {len(splits['dev'])} dev clips are of one class, so who always says it "
            "would be chosen; use fewer folds, or another grouping, or leave dev empty "
            "(python -m finetune.protocols make --no-dev) and set selection=last"
        )
    notes = [
        *_overlaps(clips, splits, protocol, where),
        *_repeats(splits, protocol, fold),
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


def _repeats(splits: dict[str, list[LabelledClip]], protocol: Protocol, fold: int) -> list[str]:
    """The same utterance under two ids: an error, or a note where the protocol allows it."""
    notes = []
    if pairs := same_features(splits):
        what = f"{num_alike(pairs)} clips have the very features of one in another split"
        what = f"{what}: {named(pairs)}"
        if not protocol.allow_shared_speakers:
            raise DatasetError(
                f"protocol {protocol.name}, fold {fold}: {what}. They are the same recordings; "
                f"leave one of each out of the clip table, or {ALLOW}"
            )
        notes.append(f"{what}; {MECHANICS}")
    if pairs := same_words_and_lengths(splits):
        notes.append(
            f"fold {fold}: {num_alike(pairs)} clips have the words of one in another split and as "
            f"many frames, such as {named(pairs[:1])}: one recording twice, or one sentence said "
            "twice"
        )
    return notes


def clipless_splits(
    clips: Sequence[LabelledClip], protocol: Protocol
) -> dict[int, list[tuple[str, tuple[str, ...]]]]:
    """Fold to its splits that list units of which none has a clip, with those units."""
    there = {clip.unit(protocol.group) for clip in clips}
    found = {}
    for number, fold in enumerate(protocol.folds):
        listed = [(split, getattr(fold, split)) for split in ("train", "dev", "test")]
        if empty := [(split, units) for split, units in listed if units and not there & {*units}]:
            found[number] = empty
    return found


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
    """Notes: classes that test or dev lacks or training never sees, units listed that have no
    clips."""
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
    chosen_by = {clip.label for clip in splits["dev"]}
    unheard = sorted(everywhere - chosen_by)
    if chosen_by and unheard:
        names = ", ".join(f"class {i}" if classes is None else classes[i] for i in unheard)
        notes.append(f"fold {fold}: dev has no clip of {names}, so no step is chosen for it")
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
