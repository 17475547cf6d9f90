"""From pieces of video to a timeline: the extraction of training, then the recognizer."""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline import extract
from data_pipeline.errors import UserError
from data_pipeline.extraction.config import DataConfig
from data_pipeline.features.crops import pictures
from data_pipeline.features.extractors import load_extractors, needs_of
from data_pipeline.files.atomic import atomic_file
from data_pipeline.runs.claim import table_bytes
from data_pipeline.schema import Clip, ClipSample, check_passport
from data_pipeline.shards import list_shards, read_shard
from finetune.recognizer import Recognizer
from finetune.timeline.cost import Cost
from finetune.timeline.cutting import Pieces
from finetune.timeline.utterance import Utterance

KINDS = ("spoken", "silent")
"""Folders of the shards: somebody speaks, nobody does."""
NOTHING = "nothing was seen, heard or said that could be judged"
NO_FACE = "nobody speaks, and no face was found"
OF_THE_FILE = ("missing_file", "unreadable_video", "no_video", "too_large")
"""Reasons of rejects that are the whole file's."""


def recognize_pieces(
    recognizer: Recognizer,
    pieces: Pieces,
    folder: Path,
    base: DataConfig,
    min_confidence: float,
    cost: Cost,
) -> list[Utterance]:
    """Extract `pieces` into `folder` by `base`, and judge them. Raises UserError where the streams
    that `base` makes are not those that the recognizer reads."""
    check_encoders(recognizer, base)
    utterances: list[Utterance] = []
    asked = ((pieces.spoken, base), (pieces.silent, of_silence(base)))
    for kind, (clips, config) in zip(KINDS, asked, strict=True):
        if not clips:
            continue
        with cost.of("extraction"):
            shards = _extract(clips, folder / kind, config)
        why = _rejects(shards, NOTHING if kind == "spoken" else NO_FACE)
        found: dict[str, Utterance] = {}
        of_id = {clip.id: clip for clip in clips}
        with cost.of("recognition"):
            for sample, row_C in _judged(recognizer, shards):
                clip = of_id[sample.id]
                found[clip.id] = _utterance(recognizer, clip, sample, row_C, min_confidence)
        utterances += [found.get(clip.id) or _nothing(clip, why.get(clip.id)) for clip in clips]
    order = {video.path: n for n, video in enumerate(pieces.videos)}
    utterances.sort(key=lambda u: (order[u.video], u.start))
    return joined(utterances)


def joined(utterances: list[Utterance]) -> list[Utterance]:
    """Those that follow on each other with nobody heard or seen are one: an hour of it is no 720
    rows to read past."""
    found: list[Utterance] = []
    for u in utterances:
        last = found[-1] if found else None
        if last is not None and u.abstains == last.abstains == NO_FACE:
            if (u.video, u.start) == (last.video, last.end):
                found[-1] = dataclasses.replace(last, end=u.end)
                continue
        found.append(u)
    return found


def of_silence(base: DataConfig) -> DataConfig:
    """`base` for where nobody speaks: there is but the picture, whatever the sound holds, and no
    voice says whose face."""
    heard = [name for name in base.extractors if needs_of([name]) & {"sound", "voice"}]
    streams = base.streams | dict.fromkeys(heard, False)
    return dataclasses.replace(base, streams=streams, speaker="any_face", transcriber=None)


def check_encoders(recognizer: Recognizer, base: DataConfig) -> None:
    """Raise where the extraction would make other streams, before it takes its time."""
    wanted = {name: said for name, said in base.extractors.items() if name != "crops"}
    made = {}
    for extractor in load_extractors(wanted, "cpu").values():
        made |= extractor.passport
    missing = [name for name in recognizer.passport if name not in made]
    if missing:
        raise UserError(
            f"the recognizer reads {', '.join(missing)}, which is not extracted; name the "
            f"extractor, such as 'streams={{{missing[0]}: {{}}}}'"
        )
    made = {name: spec for name, spec in made.items() if name in recognizer.passport}
    check_passport(made, recognizer.passport, "what would be extracted")


def problem_of(utterances: list[Utterance]) -> str:
    """Why nothing of a file could be looked at, of which these are all; empty where something
    could."""
    why = [u.abstains for u in utterances]
    return why[0] if why and all(w.startswith(OF_THE_FILE) for w in why) else ""


def read_faces(folder: Path) -> dict[str, np.ndarray]:
    """Id of an utterance to the speaker's face in its middle, uint8 [H, W] grey, of a timeline's
    `folder`; without those that have none."""
    tars = [tar for kind in KINDS if (folder / kind).is_dir() for tar in list_shards(folder / kind)]
    faces = {}
    for sample in (sample for tar in tars for sample in read_shard(tar)):
        if "crops" in sample.streams:
            crops_KHW = pictures(sample.streams["crops"])
            faces[sample.id] = crops_KHW[len(crops_KHW) // 2]
    return faces


def _extract(clips: list[Clip], shards: Path, config: DataConfig) -> Path:
    """The ordinary extraction of these clips; done already, it only looks."""
    table = shards.with_name(f"{shards.name}.csv")
    shards.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(table) as file:
        file.write(table_bytes(clips))
    extract.run(dataclasses.replace(config, clips=str(table), output=str(shards)))
    return shards


def _rejects(shards: Path, nothing: str) -> dict[str, str]:
    """Clip to why it gave no sample; `nothing` is the word for nothing left of it."""
    with open(shards / "rejects.csv", newline="", encoding="utf-8") as file:
        return {
            row["clip"]: nothing
            if row["reason"] == "nothing_left"
            else f"{row['reason']}: {row['detail']}"
            for row in csv.DictReader(file)
        }


def _judged(recognizer: Recognizer, shards: Path) -> Iterator[tuple[ClipSample, np.ndarray | None]]:
    """Each sample and its probabilities [C], None where there is nothing to judge by. Shard by
    shard, so that an hour needs the memory of a shard."""
    read = recognizer.modalities
    for tar in list_shards(shards):
        samples = list(read_shard(tar))
        seen = [sample.only(read) for sample in samples if any(map(sample.has, read))]
        rows_NC = recognizer.predict(seen)
        rows = {sample.id: row_C for sample, row_C in zip(seen, rows_NC, strict=True)}
        yield from ((sample, rows.get(sample.id)) for sample in samples)


def _utterance(
    recognizer: Recognizer,
    clip: Clip,
    sample: ClipSample,
    row_C: np.ndarray | None,
    min_confidence: float,
) -> Utterance:
    if row_C is None:
        return _nothing(clip, NOTHING)
    probabilities = {
        name: round(float(p), 4) for name, p in zip(recognizer.classes, row_C, strict=True)
    }
    best = max(probabilities, key=probabilities.__getitem__)
    is_flat = probabilities[best] < min_confidence
    return Utterance(
        id=clip.id,
        video=clip.video,
        start=clip.start,
        end=sample.meta["end"],
        person=clip.speaker,
        text=sample.text,
        emotion=None if is_flat else best,
        probabilities=probabilities,
        modalities=tuple(n for n in recognizer.modalities if sample.has(n)),
        abstains=f"no class is likely: {best} has {probabilities[best]:.2f}, and "
        f"min_confidence is {min_confidence:g}"
        if is_flat
        else "",
    )


def _nothing(clip: Clip, why: str | None) -> Utterance:
    """A clip that cannot be judged."""
    return Utterance(
        id=clip.id,
        video=clip.video,
        start=clip.start,
        end=clip.end if clip.end is not None else clip.start,
        person=clip.speaker,
        text=clip.text,
        emotion=None,
        probabilities={},
        modalities=(),
        abstains=why or NOTHING,
    )
