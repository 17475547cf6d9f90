import numpy as np
import pytest

from data_pipeline.faces.shots import CutFinder, histogram
from data_pipeline.media.clip_media import open_clip
from data_pipeline.schema import Clip


def find_cuts(frames_NHW3: np.ndarray) -> list[int]:
    finder = CutFinder()
    return [n for n, frame_HW3 in enumerate(frames_NHW3) if finder.is_cut(frame_HW3)]


def frames_of(path, **limits) -> np.ndarray:
    media = open_clip(Clip(id="x", video=str(path), **limits))
    return np.concatenate([w.frames_NHW3 for w in media.windows()])


def scene(count: int, seed: int, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    """A textured picture with a block that moves through it, and sensor noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3))
    picture = np.kron(small, np.ones((size[0] // 6, size[1] // 8, 1)))
    frames = np.repeat(picture[None], count, 0)
    for n in range(count):
        frames[n, 20:50, 2 * n % 80 : 2 * n % 80 + 20] = rng.integers(0, 256, 3)
    return np.clip(frames + rng.normal(0, 3, frames.shape), 0, 255).astype(np.uint8)


def test_two_generated_scenes_have_one_cut():
    assert find_cuts(np.concatenate([scene(20, 1), scene(20, 2)])) == [20]
    assert find_cuts(scene(60, 3)) == []


def test_histogram_is_of_shares():
    h = histogram(scene(1, 4)[0])
    assert h.shape == (16, 24)
    assert h.sum(axis=1) == pytest.approx(np.full(16, 3.0))


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (3, 2), (2000, 5)])
def test_odd_sizes_are_no_error(shape):
    frames = np.zeros((4, *shape, 3), np.uint8)
    frames[2:] = 255
    assert find_cuts(frames) == [2]


def test_no_frames_no_cuts():
    assert find_cuts(np.zeros((0, 8, 8, 3), np.uint8)) == []


def test_noise_and_shaking_raise_the_bar():
    rng = np.random.default_rng(0)
    picture = np.pad(scene(1, 5, size=(180, 240))[0], ((40, 40), (40, 40), (0, 0)), mode="wrap")
    shaking = [picture[y : y + 120, x : x + 160] for y, x in rng.integers(0, 80, (40, 2))]
    finder = CutFinder()
    assert not any([finder.is_cut(frame) for frame in shaking][2:])


def test_real_cuts_on_a_dark_stage(shared_data):
    """Looked at by eye: cuts before frames 17, 68 and 176 of the 25 a second."""
    frames = frames_of(shared_data / "talking_heads/clips/stage_two_people.mp4")
    assert find_cuts(frames) == [17, 68, 176]


def test_steady_talkers_have_no_cut_and_two_joined_have_one(shared_data):
    clips = sorted((shared_data / "grid_s1/clips").glob("*.mp4"))[:2]
    first = frames_of(clips[0])
    assert find_cuts(first) == []
    assert find_cuts(frames_of(clips[1])) == []
    other = frames_of(sorted((shared_data / "grid_multi/clips").glob("lbax4n*"))[0])
    if other.shape[1:] == first.shape[1:]:
        assert find_cuts(np.concatenate([first[:30], other[:30]])) == [30]
    # A picture whose size changes cannot be compared and starts no shot of itself.
    assert not CutFinder().is_cut(first[0])
