"""Settings of the components, free of torch: a slip in a config is told before anything loads."""

import math
from dataclasses import dataclass
from typing import Any

from data_pipeline.paths import PathText

STRATEGIES = ("synchrony", "counts")


def check_range(
    settings: Any, *names: str, above: float = -math.inf, least: float = -math.inf
) -> None:
    """Raise ValueError unless these fields are finite, more than `above` and not less than `least`.

    Found in time, a bad number is one message; found by the clips, it is a reject for each.
    """
    for name in names:
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > above and value >= least):
            bound = f"more than {above:g}" if above > -math.inf else f"{least:g} or more"
            expected = "a finite number" if above == least == -math.inf else f"{bound}, and finite"
            raise ValueError(f"{name} is {value}; expected {expected}")


@dataclass(frozen=True, kw_only=True)
class FaceSearchSettings:
    """How faces are found and followed: what a user may set."""

    detections_per_second: float = 5.0
    """MTCNN runs on this many frames a second, and on the first and last of each shot; boxes
    between are interpolated."""
    detection_pixels: int = 360
    """Frames whose shorter side is longer are scaled down to it for detection."""
    min_face_pixels: int = 40
    """Smallest face looked for, in pixels of the scaled frame."""
    min_confidence: float = 0.9
    """Detections below are dropped."""
    batch_frames: int = 8
    """Frames per MTCNN call."""
    min_iou: float = 0.3
    """Least overlap of a box with the track's last one."""
    max_gap_seconds: float = 1.0
    """A face lost for longer ends its track."""
    smoothing_seconds: float = 0.15
    """Width of the Gaussian that smooths boxes and points in time; 0 is none."""
    min_presence: float = 0.2
    """Tracks present in a smaller share of the clip's frames are dropped."""

    def __post_init__(self) -> None:
        check_range(self, "detections_per_second", "detection_pixels", "min_face_pixels", above=0)
        check_range(self, "batch_frames", above=0)
        check_range(self, "min_confidence", "min_iou", "max_gap_seconds", least=0)
        check_range(self, "smoothing_seconds", "min_presence", least=0)


@dataclass(frozen=True, kw_only=True)
class FaceSettings(FaceSearchSettings):
    """How faces are found and followed, and the size they are cut out in."""

    crop_size: int = 64
    """Side of the aligned crops, in pixels: the expression encoder's."""


@dataclass(frozen=True, kw_only=True)
class SpeakerSettings:
    """When a face speaks."""

    strategy: str = "synchrony"
    """What decides between faces that all move: synchrony, or counts as the reference does."""
    open_level: float = 0.05
    """A mouth is open above this difference from its median picture, of its contrast, less that of
    the upper face."""
    change_level: float = 0.03
    """A mouth moves above this change from frame to frame, of its contrast, less that of the upper
    face."""
    min_match_share: float = 0.1
    """Least share of the voice, while the face is seen, during which its mouth moves. 0.25 loses
    3 of 18 turns of people who talk in the wild."""
    min_synchrony: float = 0.06
    """Least synchrony; below, the voice is somebody else's. Higher values reject more muted faces,
    and more people who speak: docs/results/active_speaker.md has both."""
    min_voice_seconds: float = 0.1
    """Clips with less voice have no speaker."""
    network: PathText | None = None
    """A file with the weights of Light-ASD or LR-ASD, which do not ship: its word is added to the
    synchrony, and bars of its own take the place of min_synchrony. Null uses none."""

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"no strategy {self.strategy!r}; there are {', '.join(STRATEGIES)}")
        if self.network is not None and self.strategy != "synchrony":
            raise ValueError(f"strategy={self.strategy} hears no network; expected network=null")
        check_range(self, "open_level", "change_level", "min_match_share", "min_synchrony")
        check_range(self, "min_voice_seconds")
