"""From boxes in single frames to FaceTracks: matching, gap filling, smoothing.

Detection runs on a few frames a second; a track is given at every decoded frame between its first
and last detection. Boxes of one detection step are matched to the open tracks by intersection
over union, all at once (Hungarian), so that two faces side by side cannot steal each other's box.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from data_pipeline.schema import FaceTrack


@dataclass(frozen=True, kw_only=True)
class Detections:
    """The D faces found in one frame."""

    frame: int
    """Index into the decoded frames."""
    seconds: float
    boxes_D4: np.ndarray
    """[D, 4] float32, x0 y0 x1 y1 in pixels of the decoded frame."""
    points_D52: np.ndarray
    """[D, 5, 2] float32."""
    confidence_D: np.ndarray
    """[D] float32."""


@dataclass
class OpenTrack:
    """A face being followed: its detections so far."""

    number: int
    """Order of birth: what makes the output's order definite."""
    frames: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)


def iou(boxes_A4: np.ndarray, boxes_B4: np.ndarray) -> np.ndarray:
    """[A, B] intersection over union; a box without area overlaps nothing."""
    low_AB2 = np.maximum(boxes_A4[:, None, :2], boxes_B4[None, :, :2])
    high_AB2 = np.minimum(boxes_A4[:, None, 2:], boxes_B4[None, :, 2:])
    both_AB = np.prod(np.maximum(high_AB2 - low_AB2, 0), axis=-1)
    area_A = np.prod(np.maximum(boxes_A4[:, 2:] - boxes_A4[:, :2], 0), axis=-1)
    area_B = np.prod(np.maximum(boxes_B4[:, 2:] - boxes_B4[:, :2], 0), axis=-1)
    either_AB = area_A[:, None] + area_B[None] - both_AB
    return np.where(either_AB > 0, both_AB / np.maximum(either_AB, 1e-9), 0.0)


class Tracker:
    """Links detections, frame after frame.

    tracker = Tracker()
    for detections in ...:
        tracks = tracker.add(detections)   # one a face; tracker.cut() at a shot boundary
    """

    def __init__(self, *, min_iou: float = 0.3, max_gap_seconds: float = 1.0) -> None:
        self.min_iou = min_iou
        self.max_gap_seconds = max_gap_seconds
        self._open: list[OpenTrack] = []
        self._born = 0

    def add(self, found: Detections) -> list[OpenTrack]:
        """Match the faces of the next frame; return the track of each, in order of the faces."""
        self._open = [
            t for t in self._open if found.seconds - t.seconds[-1] <= self.max_gap_seconds
        ]
        matched: dict[int, OpenTrack] = {}
        if self._open and len(found.boxes_D4):
            overlap_AD = iou(np.stack([t.boxes[-1] for t in self._open]), found.boxes_D4)
            for a, d in zip(*linear_sum_assignment(-overlap_AD), strict=True):
                if overlap_AD[a, d] >= self.min_iou:
                    matched[int(d)] = self._open[a]
        tracks = []
        for d in range(len(found.boxes_D4)):
            if d not in matched:
                matched[d] = OpenTrack(number=self._born)
                self._born += 1
                self._open.append(matched[d])
            track = matched[d]
            track.frames.append(found.frame)
            track.seconds.append(found.seconds)
            track.boxes.append(found.boxes_D4[d])
            track.points.append(found.points_D52[d])
            track.confidence.append(float(found.confidence_D[d]))
            tracks.append(track)
        return tracks

    def cut(self) -> None:
        """A shot ends here: every face is let go."""
        self._open = []


def smooth(values_DX: np.ndarray, seconds_D: np.ndarray, width_seconds: float) -> np.ndarray:
    """Mean of the detections around each, weighted by a Gaussian in time; [D, ...] float64.

    A detector jitters by a pixel or two from frame to frame, which an aligned crop turns into
    motion of the whole face. The window shrinks at the ends to stay symmetric, or a moving face
    would be pulled back there.
    """
    if len(values_DX) < 3 or width_seconds <= 0:
        return values_DX.astype(np.float64)
    out_DX = np.empty(values_DX.shape, np.float64)
    for d, now in enumerate(seconds_D):
        reach = min(3 * width_seconds, now - seconds_D[0], seconds_D[-1] - now) + 1e-6
        near = np.flatnonzero(np.abs(seconds_D - now) <= reach)
        weight = np.exp(-0.5 * ((seconds_D[near] - now) / width_seconds) ** 2)
        out_DX[d] = np.tensordot(weight / weight.sum(), values_DX[near], axes=1)
    return out_DX


def fill(
    track: OpenTrack,
    frame_F: np.ndarray,
    seconds_F: np.ndarray,
    *,
    smoothing_seconds: float = 0.15,
) -> FaceTrack:
    """The track at each of the decoded frames `frame_F` that lie within it.

    Boxes and points between two detections are interpolated linearly in time and carry confidence
    0; frames before the first and after the last detection are left out.
    """
    at_D = np.asarray(track.seconds, np.float64)
    inside_F = (frame_F >= track.frames[0]) & (frame_F <= track.frames[-1])
    frame_F, seconds_F = frame_F[inside_F], seconds_F[inside_F].astype(np.float64)

    def between(values_DX: np.ndarray) -> np.ndarray:
        flat_DX = smooth(values_DX, at_D, smoothing_seconds).reshape(len(at_D), -1)
        columns = [np.interp(seconds_F, at_D, column_D) for column_D in flat_DX.T]
        return np.stack(columns, 1).reshape(-1, *values_DX.shape[1:]).astype(np.float32)

    confidence_F = np.zeros(len(frame_F), np.float32)
    # The track may reach beyond these frames on either side.
    is_found_F = np.isin(frame_F, track.frames)
    confidence_D = np.asarray(track.confidence, np.float32)
    confidence_F[is_found_F] = confidence_D[np.isin(track.frames, frame_F)]
    return FaceTrack(
        seconds_F=seconds_F.astype(np.float32),
        boxes_F4=between(np.stack(track.boxes)),
        points_F52=between(np.stack(track.points)),
        confidence_F=confidence_F,
        frame_F=frame_F.astype(np.int64),
    )
