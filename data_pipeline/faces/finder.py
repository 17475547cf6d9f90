"""Faces of a clip: found by MTCNN a few times a second, followed at every decoded frame.

    finder = FaceFinder(device="cpu")
    faces = finder.find(open_clip(clip))

Memory is one window of frames plus about 1.5 s: the frames whose place in a track still hangs on
detections to come are carried into the next window, so the length of a window changes nothing.
"""

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from data_pipeline.faces.crops import CropError, aligned_crop
from data_pipeline.faces.mouth import face_patches
from data_pipeline.faces.picture import network_picture
from data_pipeline.faces.shots import CutFinder
from data_pipeline.faces.tracks import Detections, OpenTrack, Tracker, fill
from data_pipeline.schema import FaceTrack
from data_pipeline.settings import FaceSettings

log = logging.getLogger(__name__)

CROP_SECONDS = 0.1
# Boxes and points are rounded to this part of a pixel, far below the detector's own error, so
# that float noise (another number of threads, another batch) does not reach the crops.
ROUNDING = 1 / 16


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackedFace:
    """One face of a clip: F decoded frames, K crops."""

    track: FaceTrack
    crops_KHW: np.ndarray
    """[K, size, size] uint8 grey, aligned, 10 per second."""
    crop_seconds_K: np.ndarray
    """[K] float32, true times of the frames the crops were taken from."""
    mouth_FHW: np.ndarray
    """[F, 36, 48] uint8 grey, the mouth at each frame of the track (data_pipeline.faces.mouth)."""
    upper_FHW: np.ndarray
    """[F, 36, 48] uint8 grey, eyes and brow."""
    picture_FHW: np.ndarray | None = None
    """[F, 112, 112] uint8 grey, the whole face, for a speaker network; None if not asked for."""


@dataclass
class _Frame:
    """A decoded frame that some track may still need."""

    pixels_HW3: np.ndarray
    seconds: float
    index: int
    shot: int
    cropped: bool = False
    """Nearest to a tick of the crops."""
    detect: bool = False
    """MTCNN shall see it."""
    detected: bool = False


@dataclass
class _Rows:
    """What has been settled of one track: pieces, in order of time."""

    tracks: list[FaceTrack] = field(default_factory=list)
    crops: list[np.ndarray] = field(default_factory=list)
    crop_seconds: list[float] = field(default_factory=list)
    mouth: list[np.ndarray] = field(default_factory=list)
    upper: list[np.ndarray] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)


class FaceFinder:
    """Finds, follows and crops the faces of clips; made once, used for many.

    `detection_seconds` and `num_detection_frames` say what MTCNN cost so far; `presence` is the
    largest share of the last clip's frames that a face, kept or dropped, was seen in. With
    `pictures` every frame's face is kept as a speaker network reads it: 0.3 MB a second of face.
    """

    def __init__(
        self, settings: FaceSettings | None = None, device: str = "cpu", *, pictures: bool = False
    ) -> None:
        from facenet_pytorch import MTCNN  # 1.3 s, for those alone who look at faces

        self.settings = settings or FaceSettings()
        self.pictures = pictures
        self.detection_seconds = 0.0
        self.num_detection_frames = 0
        self.presence = 0.0
        self._mtcnn = MTCNN(
            keep_all=True,
            min_face_size=self.settings.min_face_pixels,
            device=torch.device(device),
        )

    def find(self, media: Any) -> list[TrackedFace]:
        """Every face of `media` (a ClipMedia), in order of appearance.

        A clip without frames or without faces gives an empty list.
        """
        search = _Search(self)
        for window in media.windows():
            search.take(window.frames_NHW3, window.seconds_N, window.index_N)
        faces = search.finish()
        self.presence = search.presence
        return faces

    def detect(self, frames: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Faces of frames of one size: boxes [D, 4], points [D, 5, 2] and confidences [D] of each.

        Float32, in pixels of the frames as given.
        """
        s = self.settings
        height, width = frames[0].shape[:2]
        scale = min(1.0, s.detection_pixels / min(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        nothing = (np.zeros((0, 4), "f4"), np.zeros((0, 5, 2), "f4"), np.zeros(0, "f4"))
        if min(size) < s.min_face_pixels:
            # No face can be that small, and MTCNN's empty pyramid is an error inside it.
            return [nothing] * len(frames)
        started = time.perf_counter()
        if scale < 1.0:
            frames = [
                np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BILINEAR))
                for f in frames
            ]
        # TF32 would move a GPU's boxes by more than what ROUNDING takes away.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            boxes, confidence, points = self._mtcnn.detect(np.stack(frames), landmarks=True)
        found = []
        for b, c, p in zip(boxes, confidence, points, strict=True):
            if b is None:
                found.append(nothing)
                continue
            # Batched MTCNN gives arrays of objects, whatever the number of faces.
            box_D4, point_D52 = np.asarray(b, np.float32), np.asarray(p, np.float32)
            confidence_D = np.asarray(c, np.float32)
            box_D4, point_D52 = (
                (np.round(x / scale / ROUNDING) * ROUNDING).astype(np.float32)
                for x in (box_D4, point_D52)
            )
            keep_D = confidence_D >= s.min_confidence
            # Left to right, so that the order of equals does not hang on float noise.
            order = np.lexsort((box_D4[keep_D, 1], box_D4[keep_D, 0]))
            found.append(
                (box_D4[keep_D][order], point_D52[keep_D][order], confidence_D[keep_D][order])
            )
        self.detection_seconds += time.perf_counter() - started
        self.num_detection_frames += len(frames)
        return found


class _Search:
    """The search through one clip: frames go in window by window, tracks come out settled."""

    def __init__(self, finder: FaceFinder) -> None:
        self.finder, self.settings = finder, finder.settings
        s = self.settings
        self.frames: list[_Frame] = []
        self.cuts = CutFinder()
        self.tracker = Tracker(min_iou=s.min_iou, max_gap_seconds=s.max_gap_seconds)
        self.rows: dict[int, _Rows] = {}
        self.tracks: dict[int, OpenTrack] = {}
        self.shot = self.tracked_shot = 0
        self.num_frames = 0
        self.presence = 0.0
        self.settled = -1
        self.detection_tick = self.crop_tick = 0
        # A box is settled once nothing yet to be seen can change it: the gap to the next
        # detection, and the smoothing of that one.
        self.carry_seconds = s.max_gap_seconds + 3 * s.smoothing_seconds

    def take(self, frames_NHW3: np.ndarray, seconds_N: np.ndarray, index_N: np.ndarray) -> None:
        for pixels_HW3, seconds, index in zip(frames_NHW3, seconds_N, index_N, strict=True):
            self._append(pixels_HW3, float(seconds), int(index))
        self._detect()
        if self.frames:
            self._settle(self.frames[-1].seconds - self.carry_seconds)

    def finish(self) -> list[TrackedFace]:
        if self.frames:
            self.frames[-1].detect = True
            self._detect()
            self._settle(float("inf"))
        faces = []
        for number in sorted(self.rows):
            rows = self.rows[number]
            track = _concatenate(rows.tracks)
            self.presence = max(self.presence, len(track) / self.num_frames)
            if len(track) < self.settings.min_presence * self.num_frames or not rows.crops:
                continue
            faces.append(
                TrackedFace(
                    track=track,
                    crops_KHW=np.stack(rows.crops),
                    crop_seconds_K=np.asarray(rows.crop_seconds, np.float32),
                    mouth_FHW=np.stack(rows.mouth),
                    upper_FHW=np.stack(rows.upper),
                    picture_FHW=np.stack(rows.pictures) if self.finder.pictures else None,
                )
            )
        log.debug("%d tracks, %d long enough, %d shots", len(self.rows), len(faces), self.shot + 1)
        return faces

    def _append(self, pixels_HW3: np.ndarray, seconds: float, index: int) -> None:
        frame = _Frame(pixels_HW3, seconds, index, self.shot)
        last = self.frames[-1] if self.frames else None
        if self.cuts.is_cut(pixels_HW3):
            self.shot += 1
            frame.shot = self.shot
            frame.detect = True
            last.detect = True
        frame.detect |= last is None
        if seconds >= self.detection_tick / self.settings.detections_per_second - 1e-4:
            frame.detect = True
            self.detection_tick = 1 + int(seconds * self.settings.detections_per_second + 1e-3)
        # Each tick of the crops goes to the frame nearest to it.
        while self.crop_tick * CROP_SECONDS <= seconds + 1e-6:
            tick = self.crop_tick * CROP_SECONDS
            before = last is not None and tick - last.seconds <= seconds - tick + 1e-6
            (last if before else frame).cropped = True
            self.crop_tick += 1
        self.frames.append(frame)
        self.num_frames += 1

    def _detect(self) -> None:
        """Run MTCNN on the frames that wait for it and hand the faces to the tracker."""
        due = [f for f in self.frames if f.detect and not f.detected]
        for start in range(0, len(due), self.settings.batch_frames):
            batch = due[start : start + self.settings.batch_frames]
            found = self.finder.detect([f.pixels_HW3 for f in batch])
            for frame, (boxes_D4, points_D52, confidence_D) in zip(batch, found, strict=True):
                if frame.shot != self.tracked_shot:
                    self.tracker.cut()
                    self.tracked_shot = frame.shot
                frame.detected = True
                tracks = self.tracker.add(
                    Detections(
                        frame=frame.index,
                        seconds=frame.seconds,
                        boxes_D4=boxes_D4,
                        points_D52=points_D52,
                        confidence_D=confidence_D,
                    )
                )
                self.tracks.update((track.number, track) for track in tracks)

    def _settle(self, until: float) -> None:
        """Write down every track's rows up to this time, and let go of those frames."""
        ready = [f for f in self.frames if f.seconds <= until]
        if not ready:
            return
        self.frames = self.frames[len(ready) :]
        index_N = np.array([f.index for f in ready], np.int64)
        seconds_N = np.array([f.seconds for f in ready])
        by_index = {f.index: f for f in ready}
        for number, track in sorted(self.tracks.items()):
            if track.frames[-1] <= self.settled:
                continue
            piece = fill(
                track, index_N, seconds_N, smoothing_seconds=self.settings.smoothing_seconds
            )
            if len(piece) == 0:
                continue
            rows = self.rows.setdefault(number, _Rows())
            rows.tracks.append(piece)
            for f, box_4, points_52 in zip(
                piece.frame_F, piece.boxes_F4, piece.points_F52, strict=True
            ):
                frame = by_index[int(f)]
                mouth_HW, upper_HW = face_patches(frame.pixels_HW3, points_52)
                rows.mouth.append(mouth_HW)
                rows.upper.append(upper_HW)
                if self.finder.pictures:
                    rows.pictures.append(network_picture(frame.pixels_HW3, box_4))
                if frame.cropped:
                    self._crop(rows, frame, points_52)
        self.settled = ready[-1].index

    def _crop(self, rows: _Rows, frame: _Frame, points_52: np.ndarray) -> None:
        try:
            crop_HW = aligned_crop(frame.pixels_HW3, points_52, self.settings.crop_size)
        except CropError as error:
            # Points that make no face leave a gap in the crops; crop_seconds_K shows it.
            log.info("no crop at %.2f s: %s", frame.seconds, error)
            return
        rows.crops.append(crop_HW)
        rows.crop_seconds.append(frame.seconds)


def _concatenate(pieces: list[FaceTrack]) -> FaceTrack:
    names = ("seconds_F", "boxes_F4", "points_F52", "confidence_F", "frame_F")
    return FaceTrack(**{n: np.concatenate([getattr(p, n) for p in pieces]) for n in names})
