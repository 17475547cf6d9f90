import numpy as np
import pytest

from data_pipeline.faces.crops import (
    TEMPLATE_52,
    TEMPLATE_SIZE,
    CropError,
    aligned_crop,
    similarity_to_template,
)


def place(scale: float, turn_degrees: float, shift: complex) -> np.ndarray:
    """The template's points under a similarity."""
    z_5 = TEMPLATE_52[:, 0] + 1j * TEMPLATE_52[:, 1]
    z_5 = z_5 * scale * np.exp(1j * np.deg2rad(turn_degrees)) + shift
    return np.stack([z_5.real, z_5.imag], 1)


def smooth_frame(height: int = 240, width: int = 320) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    grey = 128 + 60 * np.sin(x / 23) + 50 * np.cos(y / 17)
    return np.repeat(grey.astype(np.uint8)[:, :, None], 3, 2)


def test_template_points_in_place_give_the_picture_itself():
    frame = smooth_frame(48, 48)
    crop = aligned_crop(frame, TEMPLATE_52, 48)
    assert crop.shape == (48, 48) and crop.dtype == np.uint8
    difference = np.abs(crop.astype(int) - frame[:, :, 0].astype(int))
    assert difference[1:-1, 1:-1].max() <= 2


@pytest.mark.parametrize("scale,turn", [(0.7, 0), (1.0, 20), (2.4, -15), (3.3, 45)])
def test_similarity_is_found_exactly(scale, turn):
    points = place(scale, turn, 60 + 40j)
    a, b = similarity_to_template(points, TEMPLATE_SIZE)
    assert np.isclose(a, scale * np.exp(1j * np.deg2rad(turn)))
    assert np.isclose(b, 60 + 40j)


@pytest.mark.parametrize("scale,turn", [(1.0, 0), (1.7, 12), (3.2, -20)])
def test_crop_shows_the_frame_at_the_mapped_places(scale, turn):
    frame = smooth_frame()
    points = place(scale, turn, 100 + 60j)
    crop = aligned_crop(frame, points, 48)
    a, b = similarity_to_template(points, 48)
    rows, columns = np.mgrid[5:43:7, 5:43:7]
    at = a * ((columns + 0.5) + 1j * (rows + 0.5)) + b
    x, y = at.real - 0.5, at.imag - 0.5
    expected = 128 + 60 * np.sin(x / 23) + 50 * np.cos(y / 17)
    assert np.abs(crop[rows, columns] - expected).max() < 5


def test_grey_is_itu_r_601():
    frame = np.zeros((48, 48, 3), np.uint8)
    frame[:] = (200, 100, 50)
    expected = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert abs(int(aligned_crop(frame, TEMPLATE_52, 48)[24, 24]) - expected) <= 1


def test_a_fine_pattern_is_averaged_not_skipped_through():
    frame = np.zeros((480, 480, 3), np.uint8)
    frame[:, ::2] = 255
    crop = aligned_crop(frame, place(8.0, 0, 20 + 20j), 48)
    assert np.abs(crop.astype(int) - 127).max() <= 3


def test_outside_the_frame_the_edge_is_repeated():
    frame = np.full((60, 60, 3), 30, np.uint8)
    frame[:, :1] = 200
    crop = aligned_crop(frame, place(1.0, 0, -20 + 5j), 48)
    assert (crop[:, :18] == 200).all()
    assert (crop[:, 24:] == 30).all()


def test_a_frame_of_one_pixel_gives_one_color():
    frame = np.full((1, 1, 3), 77, np.uint8)
    assert (aligned_crop(frame, TEMPLATE_52 - 24, 48) == 77).all()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.full((5, 2), 30.0), "within 0.000 pixels of one place"),
        (np.full((5, 2), np.nan), "expected five finite"),
        (np.zeros((4, 2)), "expected five finite"),
        (TEMPLATE_52 * [-1, 1] + [48, 0], "are no face"),
        (TEMPLATE_52 + 10_000, "frame nothing of a"),
        (TEMPLATE_52 * 10_000, "are no face"),
    ],
    ids=["one place", "nan", "four points", "mirrored", "far away", "huge"],
)
def test_points_that_are_no_face_are_refused(points, message):
    frame = smooth_frame()
    with pytest.raises(CropError, match=message):
        aligned_crop(frame, points, 48)


@pytest.mark.parametrize(
    "frame",
    [np.zeros((48, 48), np.uint8), np.zeros((48, 48, 3), np.float32), np.zeros((48, 48, 4), "u1")],
)
def test_frames_of_another_kind_are_refused(frame):
    with pytest.raises(CropError, match="expected uint8"):
        aligned_crop(frame, TEMPLATE_52, 48)
