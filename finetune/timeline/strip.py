"""A strip of small pictures of a video, evenly over its length."""

import io
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_pipeline.media.clip_media import MediaError, open_clip
from data_pipeline.schema import Clip
from finetune.timeline.utterance import Video

HEIGHT = 90
FEWEST, MOST = 12, 400
"""Pictures of a video."""
SECONDS_A_PICTURE = 20.0
"""Of a long one; as wide on the page as a picture of this height."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    seconds: float
    url: str
    """A data: URL."""


def strip_of(video: Video) -> list[Picture]:
    """Those that can be decoded; none of a file without picture."""
    count = min(max(FEWEST, round(video.seconds / SECONDS_A_PICTURE)), MOST)
    pictures = []
    for number in range(count if video.seconds else 0):
        second = (number + 0.5) / count * video.seconds
        frame_HW3 = _frame_at(video, second)
        if frame_HW3 is not None:
            pictures.append(Picture(seconds=second, url=jpeg_url(frame_HW3)))
    return pictures


def _frame_at(video: Video, second: float) -> np.ndarray | None:
    clip = Clip(id="strip", video=video.path, start=second, end=second + 1.0)
    try:
        for window in open_clip(clip, frames_per_second=2.0, max_height=HEIGHT).windows():
            return window.frames_NHW3[0]
    except MediaError:  # it is a picture less; what is wrong with the file has been said
        return None
    return None


def jpeg_url(picture: np.ndarray, quality: int = 72) -> str:
    """uint8 [H, W, 3] or [H, W] as a data: URL."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"
