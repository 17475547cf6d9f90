import numpy as np
import pytest

from data_pipeline.faces.tracks import Detections, OpenTrack, Tracker, fill, iou, smooth


def faces(frame: int, *left_tops: tuple[float, float], size: float = 40.0) -> Detections:
    boxes = np.array([[x, y, x + size, y + size] for x, y in left_tops], np.float32).reshape(-1, 4)
    points = boxes[:, None, :2] + np.linspace(0, size, 5, dtype=np.float32)[None, :, None]
    return Detections(
        frame=frame,
        seconds=frame / 25,
        boxes_D4=boxes,
        points_D52=np.broadcast_to(points, (len(boxes), 5, 2)).astype(np.float32),
        confidence_D=np.full(len(boxes), 0.99, np.float32),
    )


class Followed:
    """A tracker, and every track it gave, in order of birth."""

    def __init__(self, **settings) -> None:
        self.tracker = Tracker(**settings)
        self.by_number: dict[int, OpenTrack] = {}

    def add(self, found: Detections) -> None:
        self.by_number.update((track.number, track) for track in self.tracker.add(found))

    @property
    def tracks(self) -> list[OpenTrack]:
        return [self.by_number[number] for number in sorted(self.by_number)]


def times(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(count), np.arange(count) / 25


def test_iou_by_hand():
    a = np.array([[0, 0, 2, 2]], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6], [1, 1, 1, 1]], np.float32)
    assert iou(a, b) == pytest.approx(np.array([[1 / 7, 1, 0, 0]]))


def test_two_faces_that_drift_keep_their_tracks():
    tracker = Followed()
    for k in range(20):
        # The order of the detections changes: only the place may count.
        pair = [(100.0 + 4 * k, 50.0), (200.0 + 4 * k, 50.0)]
        tracker.add(faces(5 * k, *(pair if k % 2 else pair[::-1])))
    left, right = sorted(tracker.tracks, key=lambda t: t.boxes[0][0])
    assert [b[0] for b in left.boxes] == [100.0 + 4 * k for k in range(20)]
    assert [b[0] for b in right.boxes] == [200.0 + 4 * k for k in range(20)]


def test_matching_is_for_all_faces_at_once():
    """Greedy by first come would give the left track the box the right one needs."""
    tracker = Followed(min_iou=0.1)
    tracker.add(faces(0, (0.0, 0.0), (20.0, 0.0)))
    tracker.add(faces(5, (12.0, 0.0), (32.0, 0.0)))
    tracks = tracker.tracks
    assert [[b[0] for b in t.boxes] for t in tracks] == [[0.0, 12.0], [20.0, 32.0]]


def test_a_face_lost_for_a_second_ends_its_track():
    tracker = Followed(max_gap_seconds=1.0)
    for frame in (0, 5, 30, 60):  # gaps of 0.2, 1.0 and 1.2 s
        tracker.add(faces(frame, (10.0, 10.0)))
    assert [t.frames for t in tracker.tracks] == [[0, 5, 30], [60]]


def test_a_track_never_crosses_a_cut():
    tracker = Followed()
    tracker.add(faces(0, (10.0, 10.0)))
    tracker.tracker.cut()
    tracker.add(faces(5, (10.0, 10.0)))
    assert [t.frames for t in tracker.tracks] == [[0], [5]]


def test_frames_without_faces_are_gaps():
    tracker = Followed()
    tracker.add(faces(0))
    tracker.add(faces(5, (10.0, 10.0)))
    tracker.add(faces(10))
    tracker.add(faces(15, (10.0, 10.0)))
    (track,) = tracker.tracks
    assert track.frames == [5, 15]


def test_fill_interpolates_and_marks_what_it_filled():
    tracker = Followed()
    for frame, x in ((5, 0.0), (10, 10.0), (15, 20.0)):
        tracker.add(faces(frame, (x, 0.0)))
    (track,) = tracker.tracks
    filled = fill(track, *times(30), smoothing_seconds=0.0)
    assert filled.frame_F.tolist() == list(range(5, 16))
    assert filled.boxes_F4[:, 0] == pytest.approx(np.arange(0, 22, 2))
    assert filled.points_F52[:, 0, 0] == pytest.approx(np.arange(0, 22, 2))
    assert (filled.confidence_F > 0).nonzero()[0].tolist() == [0, 5, 10]
    assert filled.seconds_F.dtype == np.float32 and filled.points_F52.shape == (11, 5, 2)
    # A piece of the track's frames gives the same rows.
    part = fill(track, np.arange(8, 12), np.arange(8, 12) / 25, smoothing_seconds=0.0)
    assert (part.boxes_F4 == filled.boxes_F4[3:7]).all()
    assert (part.confidence_F == filled.confidence_F[3:7]).all()


def test_fill_uses_true_times():
    tracker = Followed()
    for frame, seconds, x in ((0, 0.0, 0.0), (2, 1.0, 10.0)):
        d = faces(frame, (x, 0.0))
        tracker.add(Detections(**{**vars(d), "seconds": seconds}))
    (track,) = tracker.tracks
    filled = fill(track, np.arange(3), np.array([0.0, 0.9, 1.0]), smoothing_seconds=0.0)
    assert filled.boxes_F4[:, 0] == pytest.approx([0, 9, 10])


def test_smoothing_takes_jitter_and_leaves_steady_motion():
    seconds = np.arange(50) / 5
    line = np.stack([seconds * 7, 100 - seconds * 3], 1)
    assert smooth(line, seconds, 0.15) == pytest.approx(line, abs=1e-9)
    jitter = np.random.default_rng(0).standard_normal((50, 2))
    assert smooth(line + jitter, seconds, 0.2).std() > 0
    assert (smooth(line + jitter, seconds, 0.2) - line).std() < 0.8 * jitter.std()
