"""Folds for a corpus that has no published protocol."""

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from pydantic import ValidationError

from finetune.clips.labelled import DatasetError, LabelledClip
from finetune.protocols.files import Fold, Group, Protocol, ProtocolError, describe
from finetune.protocols.split import split_clips


def make_protocol(
    clips: Sequence[LabelledClip],
    *,
    name: str,
    by: Group,
    num_folds: int,
    dev: bool = True,
    allow_shared_speakers: bool = False,
    seed: int = 0,
) -> Protocol:
    """Deal the units of `clips` into parts; fold k is judged on part k and chooses on part k + 1.

    Units go, the largest first, to the part that has fewest clips of the unit's classes, then
    fewest clips: parts come out even in size and in classes. The same clips and seed give the
    same folds. dev=False leaves the dev split empty (the last step is reported then).
    Raises ProtocolError for fewer units than parts, or for what a protocol must not say, and
    DatasetError for clips without the unit's name.
    """
    smallest = 3 if dev else 2
    if num_folds < smallest:
        raise ProtocolError(
            f"{num_folds} folds; train{', dev' if dev else ''} and test need at least {smallest}"
            + ("; or leave dev out (--no-dev)" if dev else "")
        )
    classes: dict[str, Counter[int]] = defaultdict(Counter)
    for clip in clips:
        classes[clip.unit(by)][clip.label] += 1
    if len(classes) < num_folds:
        raise ProtocolError(
            f"{len(classes)} {by}s in {len(clips)} labelled clips, too few for {num_folds} folds"
            + (f"; {len(classes)} is the most" if len(classes) >= smallest else "")
        )

    def order(unit: str) -> tuple[int, list[int], bytes]:
        draw = hashlib.sha256(f"{seed}/{unit}".encode()).digest()
        return -classes[unit].total(), sorted(classes[unit]), draw

    parts: list[list[str]] = [[] for _ in range(num_folds)]
    filled: list[Counter[int]] = [Counter() for _ in range(num_folds)]
    for unit in sorted(classes, key=order):
        k = min(
            range(num_folds),
            key=lambda k: (
                sum(filled[k][c] * n for c, n in classes[unit].items()),
                filled[k].total(),
                k,
            ),
        )
        parts[k].append(unit)
        filled[k] += classes[unit]
    folds = []
    for k in range(num_folds):
        chosen = (k + 1) % num_folds if dev else None
        train = [u for i, part in enumerate(parts) if i not in (k, chosen) for u in part]
        folds.append(
            Fold(
                train=tuple(sorted(train)),
                dev=tuple(sorted(parts[chosen])) if dev else (),
                test=tuple(sorted(parts[k])),
            )
        )
    try:
        return Protocol(
            name=name,
            group=by,
            allow_shared_speakers=allow_shared_speakers,
            note=f"dealt by {by} into {num_folds} parts, seed {seed}",
            folds=tuple(folds),
        )
    except ValidationError as error:
        raise ProtocolError(f"no folds by {by}:\n{describe(error)}") from error


def other_folds(
    clips: Sequence[LabelledClip],
    num_folds: int,
    *,
    by: Group,
    dev: bool,
    allow_shared_speakers: bool,
    seed: int,
) -> str:
    """What can be asked for where `num_folds` folds cannot be dealt: tried out, fold by fold."""
    for other_by, with_dev in dict.fromkeys(
        [(by, dev), (by, False), ("speaker", dev), ("recording", dev)]
    ):
        found = _most_folds(clips, num_folds, other_by, with_dev, allow_shared_speakers, seed)
        if found is None:
            continue
        words = [f"--folds {found}"]
        words += [f"--by {other_by}"] if other_by != by else []
        words += ["--no-dev (and then selection=last)"] if dev and not with_dev else []
        return f"What these clips allow: {' '.join(words)}"
    return (
        "No number of folds works with these clips, by speaker or by recording: they need more "
        "clips, or other names in the columns speaker and recording of the clip table"
    )


def _most_folds(
    clips: Sequence[LabelledClip],
    wanted: int,
    by: Group,
    dev: bool,
    allow_shared_speakers: bool,
    seed: int,
) -> int | None:
    """The largest number of folds up to `wanted` that works."""
    least = 3 if dev else 2
    for number in range(max(wanted, least), least - 1, -1):
        with contextlib.suppress(DatasetError, ProtocolError):
            protocol = make_protocol(
                clips,
                name="trial",
                by=by,
                num_folds=number,
                dev=dev,
                allow_shared_speakers=allow_shared_speakers,
                seed=seed,
            )
            for fold in range(number):
                split_clips(clips, protocol, fold)
            return number
    return None
