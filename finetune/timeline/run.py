"""All of it: files, pieces, streams, emotions, page."""

import dataclasses
import logging
import tempfile
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.files.weights import sha256_of
from data_pipeline.speaker.identity import FaceEncoder, tell_faces_apart
from finetune.recognizer import FILE, Recognizer, told_of
from finetune.timeline.config import PredictConfig, extraction_config
from finetune.timeline.cost import Cost
from finetune.timeline.cutting import CUTS, cut_all, find_clips
from finetune.timeline.faces import embed_pieces, face_encoder
from finetune.timeline.files import write_files
from finetune.timeline.page import write_timeline_page
from finetune.timeline.people import name_people
from finetune.timeline.recognition import (
    check_encoders,
    problem_of,
    read_faces,
    recognize_pieces,
)
from finetune.timeline.utterance import Timeline, Utterance, Video

log = logging.getLogger(__name__)

PAGE = "timeline.html"


def predict(
    recognizer: Recognizer, inputs: list[Path], config: PredictConfig
) -> tuple[Timeline, Path]:
    """The timeline of `inputs`, written into `config.output`, and the path of its page.

    A file that cannot be read is a Video with a problem. Raises UserError for what ends all.
    """
    folder = Path(config.output)
    try:
        (folder / CUTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to output={folder}: {error.strerror}; name another folder"
        ) from error
    cost = Cost()
    base = extraction_config(config)
    check_encoders(recognizer, base)
    encoder = face_encoder(config.faces)
    clips, rejects = find_clips(inputs)
    with cost.of("cutting"):
        pieces = cut_all(clips, folder, diarize=config.diarize)
    found = recognize_pieces(recognizer, pieces, folder, base, config.min_confidence, cost)
    with cost.of("people"):
        found, notes = name_people(found, pieces.named_by, _faces(found, folder, encoder))
    for video, sentences in notes.items():
        log.info("%s: %s", video, "; ".join(sentences))
    unread = [Video(path=r.clip, problem=f"{r.reason}: {r.detail}") for r in rejects]
    timeline = Timeline(
        classes=recognizer.classes,
        videos=(*(_as_found(v, found, notes.get(v.path, [])) for v in pieces.videos), *unread),
        utterances=tuple(found),
        recognizer=_about(recognizer),
    )
    with cost.of("page"):
        write_files(timeline, folder)
        page = write_timeline_page(folder / PAGE, timeline, read_faces(folder))
    log.info(cost.line(sum(video.seconds for video in timeline.videos)))
    return timeline, page


def recognize(recognizer: Recognizer, video: str | Path, **settings: Any) -> Timeline:
    """The timeline of one video, in memory; settings: those of PredictConfig but `output`.

    Raises UserError where the video cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = PredictConfig(output=folder, **settings)
        timeline, _ = predict(recognizer, [Path(video).expanduser()], config)
    for video in timeline.videos:
        if video.problem:
            raise UserError(f"{video.path}: {video.problem}")
    return timeline


def _faces(
    utterances: list[Utterance], folder: Path, encoder: FaceEncoder | None
) -> dict[str, int]:
    """Id of an utterance to the number of its face, the same in all files; without those that
    have none."""
    if encoder is None:
        return {}
    vectors = embed_pieces(folder, encoder)
    numbers = tell_faces_apart([vectors.get(u.id) for u in utterances])
    return {u.id: n for u, n in zip(utterances, numbers, strict=True) if n is not None}


def _as_found(video: Video, found: list[Utterance], notes: list[str]) -> Video:
    """With notes. A table does not say how long a file is, nor whether it is there; what was seen
    does."""
    of_it = [u for u in found if u.video == video.path]
    seen = [u for u in of_it if u.modalities] or of_it
    return dataclasses.replace(
        video,
        seconds=max([video.seconds, *(u.end for u in seen)]),
        notes=(*video.notes, *notes),
        problem=video.problem or problem_of(of_it),
    )


def _about(recognizer: Recognizer) -> dict[str, str]:
    if recognizer.folder is None:
        return {}
    return {
        "folder": str(recognizer.folder),
        "system": told_of(recognizer.folder)["system"],
        "sha256": sha256_of(recognizer.folder / FILE),
    }
