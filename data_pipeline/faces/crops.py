"""The picture of a face that the expression network was trained on, cut from a video frame.

A similarity transform (shift, turn, scale) takes MTCNN's five points as near as it can to their
mean places in FER2013 images; what it frames is resampled to a small grey square.
"""

import numpy as np
from PIL import Image

TEMPLATE_52 = np.array(
    [[15.05, 18.8], [32.95, 18.8], [24.0, 28.8], [16.5, 37.75], [31.5, 37.75]], np.float64
)
"""Left eye, right eye, nose, left and right mouth corner in a 48 x 48 FER2013 image, corner at 0:
medians over the 963 of 1,200 random training images in which MTCNN is 98% sure, with the two
sides made alike. `python -m data_pipeline.recipes.fer template` measures them again."""
TEMPLATE_SIZE = 48
MIN_SPREAD = 1.0  # pixels of the frame
MIN_FIT = 0.2
MAX_SCALE = 400.0  # frame pixels per crop pixel


class CropError(ValueError):
    """Points or a frame that no face can be cut from."""


def similarity(source_P2: np.ndarray, target_P2: np.ndarray) -> tuple[complex, complex]:
    """(a, b) of z -> a z + b that brings source to target, least squares, in numbers x + iy.

    Umeyama, 1991, in the plane: |a| is the scale, its angle the turn. Points that all coincide give
    scale 0.
    """
    source_P = source_P2[:, 0] + 1j * source_P2[:, 1]
    target_P = target_P2[:, 0] + 1j * target_P2[:, 1]
    centered_P = source_P - source_P.mean()
    power = float((np.abs(centered_P) ** 2).sum())
    a = (centered_P.conj() * (target_P - target_P.mean())).sum() / power if power > 0 else 0j
    return a, target_P.mean() - a * source_P.mean()


def similarity_to_template(points_52: np.ndarray, size: int) -> tuple[complex, complex]:
    """(a, b) of z -> a z + b, from pixels of a `size` x `size` crop to pixels of the frame.

    |a| is frame pixels per crop pixel, its angle the turn of the head.
    """
    points_52 = np.asarray(points_52, np.float64)
    if points_52.shape != (5, 2) or not np.isfinite(points_52).all():
        raise CropError(
            f"cannot crop by points {points_52.tolist()}: expected five finite (x, y) in pixels"
        )
    template_52 = TEMPLATE_52 * (size / TEMPLATE_SIZE)
    spread = _spread(points_52)
    if spread < MIN_SPREAD:
        raise CropError(f"cannot crop by points within {spread:.3f} pixels of one place")
    a, b = similarity(template_52, points_52)
    # A face in profile keeps half of its scale; mirrored or crossed points keep next to nothing.
    if not MIN_FIT * spread / _spread(template_52) < abs(a) < MAX_SCALE:
        raise CropError(
            f"points {points_52.round(1).tolist()} are no face: one crop pixel would be "
            f"{abs(a):.4f} frame pixels"
        )
    return a, b


def _spread(points_P2: np.ndarray) -> float:
    """Distance of the outermost point from their middle."""
    points_P = points_P2[:, 0] + 1j * points_P2[:, 1]
    return float(np.abs(points_P - points_P.mean()).max())


def aligned_crop(frame_HW3: np.ndarray, points_52: np.ndarray, size: int) -> np.ndarray:
    """[size, size] uint8 grey (ITU-R 601) face out of an [H, W, 3] uint8 RGB frame.

    `points_52` are MTCNN's five points in pixels of the frame. Where the crop lies outside the
    frame, its nearest pixels are repeated. Large faces are averaged down, not skipped through.

    Raises CropError for another kind of frame, and for points that are not finite, lie in one
    place, are no face, or frame nothing of the picture.
    """
    if frame_HW3.dtype != np.uint8 or frame_HW3.ndim != 3 or frame_HW3.shape[2] != 3:
        raise CropError(
            f"found a frame of {frame_HW3.dtype} {frame_HW3.shape}, expected uint8 [H, W, 3]"
        )
    a, b = similarity_to_template(points_52, size)
    height, width = frame_HW3.shape[:2]
    corners = a * np.array([0, size, 1j * size, size + 1j * size]) + b
    low = np.floor([corners.real.min(), corners.imag.min()]).astype(int) - 2
    high = np.ceil([corners.real.max(), corners.imag.max()]).astype(int) + 2
    if (high <= 0).any() or low[0] >= width or low[1] >= height:
        raise CropError(
            f"points {np.round(points_52, 1).tolist()} frame nothing of a {width} x {height} frame"
        )
    (x0, y0), (x1, y1) = np.maximum(low, 0), np.minimum(high, (width, height))
    grey = np.asarray(Image.fromarray(frame_HW3[y0:y1, x0:x1]).convert("L"))
    padding = ((y0 - low[1], high[1] - y1), (x0 - low[0], high[0] - x1))
    region = Image.fromarray(np.pad(grey, padding, mode="edge"))
    b -= complex(*low)

    # Average whole pixels down to less than two per crop pixel, then sample twice too finely and
    # average again: nothing of the picture falls between two samples.
    factor = max(1, int(abs(a)))
    if factor > 1:
        region = region.reduce(factor)
        a, b = a / factor, b / factor
    half = a / 2
    fine = region.transform(
        (2 * size, 2 * size),
        Image.Transform.AFFINE,
        (half.real, -half.imag, b.real, half.imag, half.real, b.imag),
        resample=Image.Resampling.BILINEAR,
    )
    return np.asarray(fine.reduce(2))
