from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_pipeline.faces.crops import similarity
from data_pipeline.faces.finder import FaceFinder, FaceSettings
from data_pipeline.faces.mouth import MOUTH_CORNER, TEMPLATE_52, face_patches, movement
from data_pipeline.media.clip_media import open_clip
from data_pipeline.schema import Clip


class Media:
    """Windows over given frames, cut every `window` frames."""

    def __init__(self, frames: np.ndarray, seconds=None, window: int = 1000) -> None:
        self.frames, self.window = frames, window
        self.seconds = np.arange(len(frames)) / 25 if seconds is None else np.asarray(seconds)

    def windows(self):
        for k in range(0, len(self.frames), self.window):
            part = slice(k, k + self.window)
            index = np.arange(len(self.frames))[part]
            yield SimpleNamespace(
                frames_NHW3=self.frames[part], seconds_N=self.seconds[part], index_N=index
            )


class BlockFinder(FaceFinder):
    """Takes bright blocks of one known side for faces, in place of MTCNN."""

    side = 40

    def detect(self, frames):
        found = []
        for frame in frames:
            boxes = []
            for level in (200, 220, 240):  # one block of each grey
                ys, xs = np.nonzero(frame[:, :, 0] == level)
                if len(ys) > self.side:
                    x, y = float(xs.min()), float(ys.min())
                    boxes.append([x, y, x + self.side, y + self.side])
            box = np.array(boxes, np.float32).reshape(-1, 4)
            spread = (TEMPLATE_52 / 112 * self.side).astype(np.float32)
            points = box[:, None, :2] + spread
            found.append((box, points, np.full(len(box), 0.99, np.float32)))
        self.num_detection_frames += len(frames)
        return found


def blocks(paths: dict[int, list], size=(120, 200)) -> np.ndarray:
    """Frames with a block of each grey at its place per frame; None where it is hidden."""
    count = max(len(p) for p in paths.values())
    frames = np.full((count, *size, 3), 30, np.uint8)
    for level, path in paths.items():
        for n, place in enumerate(path):
            if place is not None:
                frames[n, place[1] : place[1] + 40, place[0] : place[0] + 40] = level
    return frames


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return FaceFinder()


def media_of(path, **span):
    return open_clip(Clip(id="x", video=str(path), **span))


def same(a, b) -> bool:
    return all(
        getattr(x.track, n).tobytes() == getattr(y.track, n).tobytes()
        for x, y in zip(a, b, strict=True)
        for n in ("seconds_F", "boxes_F4", "points_F52", "confidence_F", "frame_F")
    ) and all(
        getattr(x, n).tobytes() == getattr(y, n).tobytes()
        for x, y in zip(a, b, strict=True)
        for n in ("crops_KHW", "crop_seconds_K", "mouth_FHW", "upper_FHW")
    )


def test_one_real_face(finder, shared_data):
    clip = sorted((shared_data / "grid_s1/clips").glob("*.mp4"))[0]
    (face,) = finder.find(media_of(clip))
    track = face.track
    assert len(track) == 75 and track.frame_F.tolist() == list(range(75))
    assert (track.confidence_F > 0).sum() == 16  # every fifth, and the last
    assert face.crops_KHW.shape == (30, 64, 64) and face.crops_KHW.dtype == np.uint8
    assert face.crop_seconds_K == pytest.approx(np.arange(30) / 10, abs=0.021)
    assert face.mouth_FHW.shape == face.upper_FHW.shape == (75, 36, 48)
    eyes, mouth = track.points_F52[:, :2, 1], track.points_F52[:, 3:, 1]
    assert (eyes.mean(1) < track.points_F52[:, 2, 1]).all() and (mouth > eyes).all()
    inside = (track.points_F52 >= track.boxes_F4[:, None, :2]) & (
        track.points_F52 <= track.boxes_F4[:, None, 2:]
    )
    assert inside.all()


@pytest.mark.slow
def test_reruns_are_byte_identical_whatever_the_threads(finder, shared_data):
    clip = sorted((shared_data / "grid_s1/clips").glob("*.mp4"))[3]
    first = finder.find(media_of(clip, end=1.0))
    assert same(first, finder.find(media_of(clip, end=1.0)))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert same(first, finder.find(media_of(clip, end=1.0)))
    finally:
        torch.set_num_threads(threads)


def test_many_small_faces_in_a_street(finder, shared_data):
    media = media_of(shared_data / "expression_videos/clips/crowd_walking.mp4", end=1.5)
    faces = finder.find(media)
    assert len(faces) >= 2
    for face in faces:
        assert len(face.track) >= 0.2 * 37
        assert len(face.crops_KHW) == len(face.crop_seconds_K) > 0


def test_three_people_keep_to_their_panels(finder, shared_data):
    path = shared_data / "asd_composites/clips/three_turns_a.mp4"
    faces = finder.find(media_of(path, start=4.0, end=5.0))
    centers = sorted((f.track.boxes_F4[:, 0] + f.track.boxes_F4[:, 2]).mean() / 2 for f in faces)
    assert [int(c // 360) for c in centers] == [0, 1, 2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (20, 20), (39, 2000), (64, 64)])
def test_pictures_without_a_face(finder, shape):
    assert finder.find(Media(np.full((6, *shape, 3), 90, np.uint8))) == []


def test_no_frames(finder):
    assert finder.find(Media(np.zeros((0, 10, 10, 3), np.uint8))) == []
    assert finder.find(SimpleNamespace(windows=lambda: iter(()))) == []


def test_noise_has_no_face(finder):
    rng = np.random.default_rng(0)
    assert finder.find(Media(rng.integers(0, 256, (9, 200, 300, 3)).astype(np.uint8))) == []


def test_a_single_frame_is_a_track(shared_data, finder):
    clip = sorted((shared_data / "grid_s1/clips").glob("*.mp4"))[0]
    frame = next(iter(media_of(clip).windows())).frames_NHW3[:1]
    (face,) = finder.find(Media(frame))
    assert len(face.track) == 1 and face.crop_seconds_K.tolist() == [0.0]


def test_the_length_of_a_window_changes_nothing():
    finder = BlockFinder()
    rng = np.random.default_rng(1)
    walk = [(20 + int(20 * np.sin(n / 9)) + rng.integers(0, 2), 30) for n in range(200)]
    other = [None if 60 <= n < 80 else (120, 40 + n // 10) for n in range(200)]
    frames = blocks({200: walk, 240: other})
    whole = finder.find(Media(frames))
    assert len(whole) == 2
    for window in (7, 113):
        assert same(whole, finder.find(Media(frames, window=window)))


def test_memory_is_one_window_and_the_gap():
    from data_pipeline.faces.finder import _Search

    search = _Search(BlockFinder())
    frames = blocks({200: [(20, 30)] * 400})
    for k in range(0, 400, 50):
        search.take(frames[k : k + 50], np.arange(k, k + 50) / 25, np.arange(k, k + 50))
        assert len(search.frames) <= 50 + 1 + 1.45 * 25
    assert len(search.finish()[0].track) == 400


def test_a_short_loss_is_filled_and_a_long_one_ends_the_track():
    hidden = [None if 50 <= n < 65 or 120 <= n < 160 else (80, 40) for n in range(200)]
    finder = BlockFinder()
    first, second = finder.find(Media(blocks({200: hidden})))
    assert (first.track.frame_F[0], first.track.frame_F[-1]) == (0, 115)
    assert (first.track.confidence_F[51:65] == 0).all() and first.track.confidence_F[45] > 0
    assert (second.track.frame_F[0], second.track.frame_F[-1]) == (160, 199)


def test_a_track_never_crosses_a_cut():
    """The face stays where it is while all the picture behind it changes."""
    frames = blocks({200: [(80, 40)] * 100})
    behind = (frames == 30).all(axis=-1)
    behind[:33] = False
    frames[behind] = 120
    first, second = BlockFinder().find(Media(frames))
    assert first.track.frame_F.tolist() == list(range(33))
    assert second.track.frame_F.tolist() == list(range(33, 100))
    assert np.diff(np.concatenate([first.crop_seconds_K, second.crop_seconds_K])).max() < 0.15


def test_faces_seen_for_less_than_a_fifth_are_dropped():
    paths = {200: [(20, 40)] * 200, 240: [(120, 40) if n < 36 else None for n in range(200)]}
    assert len(BlockFinder().find(Media(blocks(paths)))) == 1
    paths[240] = [(120, 40) if n < 46 else None for n in range(200)]
    assert len(BlockFinder().find(Media(blocks(paths)))) == 2


def test_crops_carry_true_times():
    """Frames of an uneven clock: each tick takes the nearest frame, none twice."""
    seconds = np.array([0.0, 0.04, 0.11, 0.14, 0.5, 0.52, 0.6])
    frames = blocks({200: [(80, 40)] * 7})
    (face,) = BlockFinder().find(Media(frames, seconds))
    assert face.crop_seconds_K.tolist() == pytest.approx([0.0, 0.11, 0.14, 0.5, 0.6])
    assert face.track.seconds_F.tolist() == pytest.approx(seconds)


def test_a_gpu_keeps_cudnn_without_tf32(finder):
    cudnn, seen = torch.backends.cudnn, []
    handle = finder._mtcnn.pnet.register_forward_pre_hook(
        lambda *_: seen.append((cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32))
    )
    finder.detect([np.zeros((120, 200, 3), np.uint8)])
    handle.remove()
    assert seen and set(seen) == {(True, True, False)}


def test_detection_cost_is_counted():
    finder = BlockFinder(FaceSettings(detections_per_second=5.0))
    finder.find(Media(blocks({200: [(80, 40)] * 100})))
    assert finder.num_detection_frames == 21  # 20 in four seconds, and the last


def test_similarity_finds_turn_scale_and_shift():
    turn = np.deg2rad(20)
    matrix = 1.7 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    target = TEMPLATE_52 @ matrix.T + [11, -4]
    a, b = similarity(TEMPLATE_52, target)
    assert a == pytest.approx(1.7 * np.exp(1j * turn)) and b == pytest.approx(11 - 4j)
    same_point = np.ones((5, 2))
    assert similarity(same_point, same_point)[0] == 0


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 5.0])
def test_patches_show_the_same_face_at_any_size(scale):
    rng = np.random.default_rng(2)
    coarse = np.kron(rng.integers(0, 256, (8, 8)), np.ones((16, 16)))  # 128 x 128, template pixels
    side = int(128 * scale)
    at = np.minimum((np.arange(side) / scale).astype(int), 127)
    frame = np.repeat(coarse[at][:, at][..., None], 3, -1).astype(np.uint8)
    mouth, upper = face_patches(frame, ((TEMPLATE_52 + 0.5) * scale - 0.5).astype(np.float32))
    x, y = (int(c) for c in MOUTH_CORNER)
    expected = coarse[y : y + 36, x : x + 48]
    assert np.abs(mouth.astype(float) - expected).mean() < 20
    assert mouth.shape == upper.shape == (36, 48)


def test_patches_outside_the_picture_are_no_error():
    frame = np.full((50, 50, 3), 77, np.uint8)
    for shift in (-500.0, 0.0, 500.0):
        mouth, upper = face_patches(frame, (TEMPLATE_52 + shift).astype(np.float32))
        assert (mouth == 77).all() and (upper == 77).all()
    assert (face_patches(frame[:1, :1], TEMPLATE_52.astype(np.float32))[0] == 77).all()


def test_movement_ignores_shifts_and_light_and_sees_lips():
    rng = np.random.default_rng(3)
    from scipy.ndimage import gaussian_filter, shift

    face = gaussian_filter(rng.normal(0, 1, (60, 72)), 3)
    face = 128 + 40 * face / face.std()
    shifted = [shift(face, (0.4 * n % 1, 0.3 * n % 1), order=3) for n in range(10)]
    still = np.stack(shifted)[:, 12:48, 12:60]
    light = still * np.linspace(0.9, 1.1, 10)[:, None, None]
    lips = still.copy()
    lips[::2, 14:22, 14:34] -= 60
    as_uint8 = [np.clip(x, 0, 255).astype(np.uint8) for x in (still, light, lips)]
    quiet, lit, talking = (movement(x).mean() for x in as_uint8)
    assert talking > 4 * max(quiet, lit)
    assert movement(as_uint8[0][:1]).tolist() == [0.0] and len(movement(as_uint8[0][:0])) == 0
    assert (movement(np.zeros((5, 36, 48), np.uint8)) == 0).all()
