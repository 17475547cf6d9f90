"""The nouns that cross between stages, and nothing else. Knows no torch.

Clip         one utterance a user asks for: a row of the clip table
FaceTrack    one face followed through one shot
Stream       a sequence of vectors with times: face, face_probs, speech, whatever a user adds
ClipSample   what extraction makes of a clip and training reads: words and streams
Reject       a clip that gave no sample, and why: a row of rejects.csv
FeatureSpec  how one stream was made; the passport is one for each
ShardManifest  what lies in a tar, and by which passport
"""

import dataclasses
import functools
import hashlib
import json
import re
import typing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipeline.errors import UserError

FORMAT_VERSION = 2
EXTRACTION_VERSION = 2
"""Raised whenever the code makes other bytes of a clip; shards of another one are made anew."""

# FER+ order, as in the denseface encoder of MEmoBERT.
EXPRESSIONS = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
)
SAMPLE_RATE = 16_000

_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]+")
_NOT_ID = re.compile(r"[^A-Za-z0-9_-]+")
MAX_ID_LENGTH = 180  # file systems stop at 255 bytes; the field's suffix needs some of them


class SchemaError(UserError):
    """Something read or built does not keep to its contract."""


def slug(text: str) -> str:
    """`text` with everything but letters, digits, - and _ turned into single underscores."""
    return _NOT_ID.sub("_", text).strip("_")


def clip_id(corpus: str, recording: str, start_seconds: float) -> str:
    """Stable id of an utterance: corpus, recording, start in ms.

    No dots (WebDataset splits keys there) and no slashes (nothing can leave its folder). A name
    that has to be changed or cut to fit gets a digest of the original, so two never meet.
    """
    name = "-".join(part for part in (slug(corpus), slug(recording)) if part)
    tail = f"-{round(start_seconds * 1000):06d}"
    unsafe = slug(recording) != recording or slug(corpus) != corpus
    if unsafe or len(name) + len(tail) > MAX_ID_LENGTH:
        digest = hashlib.sha256(f"{corpus}\0{recording}".encode()).hexdigest()[:8]
        tail = f"-{digest}{tail}"
    return name[: MAX_ID_LENGTH - len(tail)] + tail


Box = tuple[float, float, float, float]
"""x0 y0 x1 y1, as shares of a picture's width and height, from its top left corner."""
HALVES: dict[str, Box] = {"left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 1.0, 1.0)}
"""Regions of a picture that have a name; left is the viewer's left."""


def region_box(region: str) -> Box:
    """The box of a clip's region: `left`, `right`, or `x0 y0 x1 y1`. Raises SchemaError."""
    try:
        x0, y0, x1, y1 = HALVES.get(region.lower()) or map(float, region.split())
    except ValueError:
        x0 = y0 = x1 = y1 = -1.0
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise SchemaError(
            f"region is {region!r}; expected {', '.join(HALVES)} or `x0 y0 x1 y1`, shares of the "
            "picture's width and height from its top left corner, such as `0.5 0 1 1`"
        )
    return x0, y0, x1, y1


def check_id(sample_id: str) -> None:
    if not _ID_PATTERN.fullmatch(sample_id) or len(sample_id) > MAX_ID_LENGTH:
        raise SchemaError(
            f"bad clip id {sample_id!r}: expected 1 to {MAX_ID_LENGTH} letters, digits, - or _; "
            "make ids with data_pipeline.schema.clip_id"
        )


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One utterance of the clip table, checked, with its video path made absolute."""

    id: str
    video: str
    start: float = 0.0
    """Seconds from the start of the video."""
    end: float | None = None
    """Seconds from the start of the video; None is the end of the file."""
    text: str | None = None
    """None asks for a transcript, when a transcriber is installed."""
    speaker: str | None = None
    recording: str | None = None
    """What must never be split between train and test: dialogue, session, film."""
    label: str | None = None
    corpus: str = "clips"
    region: str | None = None
    """Which part of the picture is the speaker's own, see `region_box`; None is all of it."""
    columns: tuple[tuple[str, str], ...] = ()
    """(name, cell) of what else its row has, carried along into `ClipSample.meta`."""

    def to_dict(self) -> dict[str, Any]:
        """Its fields, and each further column by its name; without `region` where it has none, as
        before there were regions, so that digests and tables of such clips stay what they were."""
        fields = dataclasses.asdict(self)
        fields |= dict(fields.pop("columns"))
        return {n: v for n, v in fields.items() if n != "region" or v is not None}

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> "Clip":
        """The clip that `to_dict` told of."""
        own = {field.name for field in dataclasses.fields(cls)} - {"columns"}
        further = tuple((name, value) for name, value in said.items() if name not in own)
        return cls(**{n: v for n, v in said.items() if n in own}, columns=further)


@dataclass(frozen=True, kw_only=True)
class FaceTrack:
    """One face through one shot. F frames, in order of time; gaps in time are gaps in the face."""

    seconds_F: np.ndarray
    """[F] float32, from the clip's start."""
    boxes_F4: np.ndarray
    """[F, 4] float32: x0 y0 x1 y1, in pixels of the decoded frame."""
    points_F52: np.ndarray
    """[F, 5, 2] float32: left eye, right eye, nose, left and right mouth corner, in pixels."""
    confidence_F: np.ndarray
    """[F] float32, the detector's, 0 to 1; 0 where the box was filled in between two detections."""
    frame_F: np.ndarray
    """[F] int64, index into the decoded frames."""

    def __len__(self) -> int:
        return len(self.seconds_F)


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A clip that gave no sample."""

    clip: str
    stage: str
    """The step that gave up: table, worker, media, voice, faces, active_speaker, the extractor of a
    stream, or text."""
    reason: str
    """A short slug that can be counted: no_face, unreadable_video, nobody_speaks, ..."""
    detail: str
    """What was found, what was expected, what to do."""


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """How one stream was made. Two streams with unequal specs must never meet in one model."""

    name: str = field(compare=False)
    """Name of the encoder: a hub name, or the name on its model card. Not compared: the digest
    tells the weights, and the same ones may come from a hub or from a folder."""
    weights_sha256: str
    """Of the encoder's weights; empty for a transform that has none."""
    layer: int
    """Index into the hidden states; -1 is the last."""
    pooling: int
    """Mean over this many neighbouring states; 1 is none."""
    rate_hz: float
    """Rows per second, after pooling."""
    width: int
    preprocessing: str = ""
    """What was done to the raw input that the weights do not say, such as `align5-64-perimage`."""
    dtype: str = "float16"
    """Of the values, as numpy names it."""
    clock: str | None = None
    """None: row i is at i / rate_hz seconds. Otherwise the stream beside which the times are kept:
    itself, or another one whose rows these are too."""

    def seconds(self, num_rows: int) -> np.ndarray:
        """[N] float32: the times of evenly spaced rows, from the clip's start."""
        return (np.arange(num_rows) / self.rate_hz).astype(np.float32)


def all_finite(values: np.ndarray) -> bool:
    """Whether every value is a finite number. np.isfinite of float16 would be half of the time that
    a shard is read in; as bits, without their sign, it is a fifth of that."""
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    return bool((values.view(np.uint16) & 0x7FFF).max(initial=0) < 0x7C00)


Passport = dict[str, FeatureSpec]
"""Stream to how it was made."""


def passport_to_json(passport: Passport) -> dict[str, Any]:
    return {name: dataclasses.asdict(spec) for name, spec in sorted(passport.items())}


def passport_from_json(data: dict[str, Any]) -> Passport:
    try:
        return {name: FeatureSpec(**spec) for name, spec in data.items()}
    except (AttributeError, TypeError) as error:
        raise SchemaError(f"bad feature passport: {error}; extract the shards again") from error


def check_passport(found: Passport, expected: Passport, where: str) -> None:
    """Raise unless every feature in `found` was made as `expected` says."""
    problems = []
    for name in sorted(found.keys() | expected.keys()):
        mine, theirs = expected.get(name), found.get(name)
        if mine is None or theirs is None:
            problems.append(f"{name}: found {theirs}, expected {mine}")
            continue
        for f in filter(lambda f: f.compare, dataclasses.fields(FeatureSpec)):
            a, b = getattr(theirs, f.name), getattr(mine, f.name)
            if a != b:
                problems.append(f"{name}.{f.name}: found {a!r}, expected {b!r}")
    if problems:
        raise SchemaError(
            f"{where} was made by another feature passport:\n  "
            + "\n  ".join(problems)
            + "\nExtract these clips again with the model's encoders (data_pipeline.extract with "
            "the config saved beside the model), or train on these shards from the start."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """N vectors of one kind, in order of time."""

    values_ND: np.ndarray
    seconds_N: np.ndarray
    """[N] float32, from the clip's start; a gap in it is a gap in the stream."""

    def __len__(self) -> int:
        return len(self.values_ND)

    def __getitem__(self, rows: Any) -> "Stream":
        """These rows: a slice, or a boolean mask."""
        return Stream(values_ND=self.values_ND[rows], seconds_N=self.seconds_N[rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipSample:
    """One utterance as training sees it. An absent stream is absent, never rows of zeros."""

    id: str
    text: str | None = None
    words: list[str] = field(default_factory=list)
    """As transcribed, in order; empty exactly when text is None."""
    streams: dict[str, Stream] = field(default_factory=dict)
    """By name. Built in: `face` [F, 342] float16, the expression encoder's features of the active
    speaker's face, 10 a second; `face_probs` [F, 8] float16, its posterior over EXPRESSIONS at the
    same times; `speech` [S, D] float16, pooled states of the speech encoder, 60 ms each."""
    meta: dict[str, Any] = field(default_factory=dict)
    """corpus, recording, speaker, label, start, end (seconds), speaker_score; `columns`, the clip
    table's others."""

    def column(self, name: str) -> Any:
        """What the clip table said there; None where it said nothing."""
        return self.meta.get("columns", {}).get(name, self.meta.get(name))

    def has(self, modality: str) -> bool:
        """Whether there is `text`, or a stream of that name."""
        return bool(self.words) if modality == "text" else modality in self.streams

    def only(self, modalities: typing.Collection[str]) -> "ClipSample":
        """This clip with no more than `text` and the streams that are named."""
        text = {} if "text" in modalities else {"text": None, "words": []}
        streams = {name: s for name, s in self.streams.items() if name in modalities}
        return dataclasses.replace(self, streams=streams, **text)

    def check(self, passport: Passport) -> None:
        """Raise SchemaError unless ids, shapes, dtypes, widths and times are as promised."""
        check_id(self.id)
        if (self.text is None) != (not self.words):
            raise SchemaError(f"{self.id}: text {self.text!r} but words {self.words!r}")
        if self.text is None and not self.streams:
            raise SchemaError(f"{self.id}: no text and no stream")
        for name, stream in self.streams.items():
            if name not in passport:
                raise SchemaError(f"{self.id} has {name}, the passport only {sorted(passport)}")
            self._check_stream(name, stream, passport[name])

    def _check_stream(self, name: str, stream: Stream, spec: FeatureSpec) -> None:
        values, seconds, where = stream.values_ND, stream.seconds_N, f"{self.id}: {name}"
        promised = (np.dtype(spec.dtype), (spec.width,))
        if (values.dtype, values.shape[1:]) != promised or not len(values):
            raise SchemaError(
                f"{where} is {values.dtype} {values.shape}, expected {spec.dtype} "
                f"[N, {spec.width}], at least one row"
            )
        if not all_finite(values):
            raise SchemaError(f"{where} holds values that are not finite")
        if seconds.dtype != np.float32 or seconds.shape != values.shape[:1]:
            raise SchemaError(
                f"{where} has times of {seconds.dtype} {seconds.shape}, expected float32 "
                f"[{len(values)}]"
            )
        if not (seconds[1:] > seconds[:-1]).all():
            raise SchemaError(f"{where}: its times do not increase")
        if spec.clock is None and not np.array_equal(seconds, spec.seconds(len(values))):
            raise SchemaError(
                f"{where}: its times are not those of {spec.rate_hz:g} rows a second, and its spec "
                "names no clock"
            )
        clock = self.streams.get(spec.clock or name)
        if clock is None or (clock is not stream and not np.array_equal(clock.seconds_N, seconds)):
            raise SchemaError(
                f"{where} is timed by {spec.clock}, which is absent or has other times"
            )


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """What lies in NNNNNN.tar; written beside it as NNNNNN.json, after it."""

    format_version: int = FORMAT_VERSION
    num_samples: int
    num_bytes: int
    sha256: str
    """Of the tar."""
    task: str
    """Digest of the clips and settings that this shard answers for; a rerun compares it."""
    passport: dict[str, Any]
    """Stream to its FeatureSpec."""
    versions: dict[str, str]
    """Libraries that made the features."""
    samples: list[str]
    """Ids, in the order of the tar."""
    rejects: list[dict[str, str]]
    """The clips of this task that gave no sample: samples + rejects = clips of the task."""
    digests: list[str]
    """Of each sample's streams (data_pipeline.shards.features_digest), by which a clip is known
    again under another label or id."""
    beside: str = ""
    """Of streams that were added later: sha256 of the tar to whose samples they belong."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "ShardManifest":
        try:
            data = json.loads(text)
            manifest = cls(**data)
        except (json.JSONDecodeError, TypeError) as error:
            raise SchemaError(f"{where} is no shard manifest: {error}; extract it again") from error
        if manifest.format_version != FORMAT_VERSION:
            raise SchemaError(
                f"{where} has format version {manifest.format_version}, this code reads "
                f"{FORMAT_VERSION}; extract the shards again, with another output=FOLDER"
            )
        for name, kind in _kinds(cls).items():
            value = getattr(manifest, name)
            if not isinstance(value, kind):
                raise SchemaError(
                    f"{where}: {name} is {value!r}, expected a {kind.__name__}; extract it again"
                )
        return manifest


@functools.cache  # worked out once, not for each of 100,000 manifests
def _kinds(cls: type) -> dict[str, type]:
    """Field to the class of its values."""
    hints = typing.get_type_hints(cls)
    return {name: typing.get_origin(kind) or kind for name, kind in hints.items()}
