"""What the report will show of a clip, gathered while the clip goes by.

Frames are decoded once and not kept, so a preview keeps the few it wants as they pass, small and
as JPEG, and after them one picture of the speaker's crops, as the encoders read them;
boxes, voice and mouth movement are written beside them as JSON and drawn by data_pipeline.report.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.faces.mouth import movement
from data_pipeline.media.clip_media import ClipMedia, FrameWindow
from data_pipeline.runs.worker_pool import Preview
from data_pipeline.schema import SAMPLE_RATE, Clip

NUM_FRAMES = 6
FRAME_HEIGHT = 240
WAVEFORM_POINTS = 600


class PreviewTap:
    """Stands in for a ClipMedia where only `windows` is read, and keeps some of the frames."""

    def __init__(self, media: ClipMedia) -> None:
        self.media = media
        self.frames: list[bytes] = []
        self.about: list[dict[str, Any]] = []
        self.scale = min(1.0, FRAME_HEIGHT / max(1, media.height))

    def windows(self) -> Iterator[FrameWindow]:
        for window in self.media.windows():
            for frame_HW3, seconds, index in zip(
                window.frames_NHW3, window.seconds_N, window.index_N, strict=True
            ):
                wanted = (len(self.frames) + 0.5) / NUM_FRAMES * self.media.duration
                if len(self.frames) < NUM_FRAMES and seconds >= wanted:
                    self._keep(frame_HW3, float(seconds), int(index))
            yield window

    def _keep(self, frame_HW3: np.ndarray, seconds: float, index: int) -> None:
        height, width = (max(1, round(x * self.scale)) for x in frame_HW3.shape[:2])
        small = Image.fromarray(frame_HW3).resize((width, height), Image.Resampling.BILINEAR)
        self.frames.append(_jpeg(small, quality=85))
        self.about.append({"seconds": round(seconds, 3), "index": index})


def make_preview(
    clip: Clip,
    tap: PreviewTap,
    *,
    faces: list[Any],
    voice_spans: list[tuple[float, float]],
    speaker: int | None,
    outcome: str,
) -> Preview:
    """faces: the TrackedFaces found, speaker: index of the chosen one; outcome: a sentence."""
    tracks = []
    for face in faces:
        track = face.track
        moved_F = movement(face.mouth_FHW) - movement(face.upper_FHW)  # as in active_speaker
        boxes = {}
        for n, kept in enumerate(tap.about):
            (at,) = np.nonzero(track.frame_F == kept["index"])
            if len(at):
                boxes[str(n)] = [round(float(x) * tap.scale, 1) for x in track.boxes_F4[at[0]]]
        tracks.append(
            {
                "boxes": boxes,
                "seconds": [round(float(t), 3) for t in track.seconds_F],
                "mouth_movement": [round(float(x), 4) for x in moved_F],
            }
        )
    frames, crops = list(tap.frames), None
    if speaker is not None:
        strip_HW, crops = _crop_strip(faces[speaker], [kept["seconds"] for kept in tap.about])
        frames.append(_jpeg(Image.fromarray(strip_HW), quality=95))
    about = {
        "clip": clip.id,
        "text": clip.text,
        "label": clip.label,
        "region": clip.region,
        "duration": round(tap.media.duration, 3),
        "decoder": tap.media.decoder,
        "outcome": outcome,
        "frames": tap.about,
        "tracks": tracks,
        "speaker": speaker,
        "crops": crops,
        "voice": [[round(a, 3), round(b, 3)] for a, b in voice_spans],
        "waveform": _envelope(tap.media.sound_T),
    }
    return Preview(about=about, frames=frames)


def _crop_strip(face: Any, seconds: list[float]) -> tuple[np.ndarray, dict[str, Any]]:
    """The crops nearest to some times, side by side: [size, N * size], and what they are."""
    distance_NK = np.abs(np.subtract.outer(seconds or [0.0], face.crop_seconds_K))
    nearest_N = distance_NK.argmin(axis=1)
    about = {
        "size": int(face.crops_KHW.shape[-1]),
        "seconds": [round(float(face.crop_seconds_K[k]), 3) for k in nearest_N],
    }
    return np.concatenate(list(face.crops_KHW[nearest_N]), axis=1), about


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _envelope(sound_T: np.ndarray | None) -> dict[str, Any] | None:
    """Largest magnitude in each of WAVEFORM_POINTS equal pieces of the sound."""
    if sound_T is None or len(sound_T) == 0:
        return None
    starts = np.unique(np.linspace(0, len(sound_T), WAVEFORM_POINTS, endpoint=False).astype(int))
    peaks = np.maximum.reduceat(np.abs(sound_T), starts)
    return {
        "seconds": [round(float(t), 3) for t in starts / SAMPLE_RATE],
        "peak": [round(float(x), 4) for x in peaks],
    }
