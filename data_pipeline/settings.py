"""Settings of the components, free of torch: a slip in a config is told before anything loads."""

from dataclasses import dataclass

from pydantic import PositiveInt

from data_pipeline.config import Finite, NonNegative, Positive, ShareOrAll
from data_pipeline.paths import PathText

STRATEGIES = ("synchrony", "counts")


@dataclass(frozen=True, kw_only=True)
class FaceSearchSettings:
    """How faces are found and followed: what a user may set."""

    detections_per_second: Positive = 5.0
    """MTCNN runs on this many frames a second, and on the first and last of each shot; boxes
    between are interpolated."""
    detection_pixels: PositiveInt = 360
    """Frames whose shorter side is longer are scaled down to it for detection."""
    min_face_pixels: PositiveInt = 40
    """Smallest face looked for, in pixels of the scaled frame."""
    min_confidence: ShareOrAll = 0.9
    """Detections below are dropped."""
    batch_frames: PositiveInt = 8
    """Frames per MTCNN call."""
    min_iou: ShareOrAll = 0.3
    """Least overlap of a box with the track's last one."""
    max_gap_seconds: NonNegative = 1.0
    """A face lost for longer ends its track."""
    smoothing_seconds: NonNegative = 0.15
    """Width of the Gaussian that smooths boxes and points in time; 0 is none."""
    min_presence: ShareOrAll = 0.2
    """Tracks present in a smaller share of the clip's frames are dropped."""


@dataclass(frozen=True, kw_only=True)
class FaceSettings(FaceSearchSettings):
    """How faces are found and followed, and the size they are cut out in."""

    crop_size: PositiveInt = 64
    """Side of the aligned crops, in pixels: that of the streams made of faces."""


@dataclass(frozen=True, kw_only=True)
class SpeakerSettings:
    """When a face speaks."""

    strategy: str = "synchrony"
    """What decides between faces that all move: synchrony, or counts as the reference does."""
    open_level: Finite = 0.05
    """A mouth is open above this difference from its median picture, of its contrast, less that of
    the upper face."""
    change_level: Finite = 0.03
    """A mouth moves above this change from frame to frame, of its contrast, less that of the upper
    face."""
    min_match_share: ShareOrAll = 0.1
    """Least share of the voice, while the face is seen, during which its mouth moves. 0.25 loses
    3 of 18 turns of people who talk in the wild."""
    min_synchrony: Finite = 0.06
    """Least synchrony; below, the voice is somebody else's. Higher values reject more muted faces,
    and more people who speak: docs/results/active_speaker.md has both."""
    min_voice_seconds: Finite = 0.1
    """Clips with less voice have no speaker."""
    network: PathText | None = None
    """A file with the weights of Light-ASD or LR-ASD, which do not ship: its word is added to the
    synchrony, and bars of its own take the place of min_synchrony. Null uses none."""

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"no strategy {self.strategy!r}; there are {', '.join(STRATEGIES)}")
        if self.network is not None and self.strategy != "synchrony":
            raise ValueError(f"strategy={self.strategy} hears no network; expected network=null")
