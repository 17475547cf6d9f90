"""The picture of a mouth, held still: what lip movement is measured on.

MTCNN gives five points and no lip landmarks, so movement has to come from the pixels. Each frame
is brought to one template by the five points (similarity transform), and two patches of one size
and scale are kept: the mouth, and the eyes and brow, whose movement is that of the head and of
the video's compression.
"""

import numpy as np
from scipy.ndimage import affine_transform

# Left eye, right eye, nose, mouth corners, in template pixels: the mean face used to align
# InsightFace's crops (96 x 112).
TEMPLATE_52 = np.array(
    [[30.29, 51.70], [65.53, 51.50], [48.03, 71.74], [33.55, 92.37], [62.73, 92.20]]
)
PATCH_WIDTH, PATCH_HEIGHT = 48, 36
MOUTH_CORNER = (24.0, 77.0)  # x, y of the patch's top left corner in the template
UPPER_CORNER = (24.0, 31.0)
MAX_OVERSAMPLING = 4
GREY_3 = np.array([0.299, 0.587, 0.114], np.float32)


def similarity(source_P2: np.ndarray, target_P2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation with scale [2, 2] and shift [2] that bring source to target, least squares.

    Umeyama, 1991, in the plane: with points as complex numbers it is one division. Points that all
    coincide give scale 0.
    """
    source = source_P2[:, 0] + 1j * source_P2[:, 1]
    target = target_P2[:, 0] + 1j * target_P2[:, 1]
    centered = source - source.mean()
    power = float((np.abs(centered) ** 2).sum())
    turn = (centered.conj() * (target - target.mean())).sum() / power if power > 0 else 0j
    shift = target.mean() - turn * source.mean()
    matrix_22 = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return matrix_22, np.array([shift.real, shift.imag])


def face_patches(frame_HW3: np.ndarray, points_52: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mouth and upper-face patch, both [36, 48] uint8 grey, of one face in a uint8 RGB frame.

    Pixels outside the picture repeat its border.
    """
    matrix_22, shift_2 = similarity(TEMPLATE_52, points_52.astype(np.float64))
    scale = float(np.sqrt(abs(np.linalg.det(matrix_22))))
    # A face larger than the template is sampled densely and averaged, or single pixels' noise
    # would pass for movement.
    dense = int(np.clip(np.ceil(scale), 1, MAX_OVERSAMPLING))
    # Only the part of the frame that the template covers is turned grey.
    corners_42 = np.array([[0, 0], [96, 0], [0, 116], [96, 116]]) @ matrix_22.T + shift_2
    height, width = frame_HW3.shape[:2]
    low_2 = np.clip(np.floor(corners_42.min(axis=0)).astype(int) - 2, 0, [width - 1, height - 1])
    high_2 = np.clip(np.ceil(corners_42.max(axis=0)).astype(int) + 3, low_2 + 1, [width, height])
    grey_HW = frame_HW3[low_2[1] : high_2[1], low_2[0] : high_2[0]].astype(np.float32) @ GREY_3
    patches = []
    for corner in (MOUTH_CORNER, UPPER_CORNER):
        start_2 = matrix_22 @ (np.array(corner) + 0.5 / dense) + shift_2 - low_2
        # affine_transform counts in rows and columns, so x and y change places.
        sampled = affine_transform(
            grey_HW,
            matrix_22[::-1, ::-1] / dense,
            start_2[::-1],
            output_shape=(PATCH_HEIGHT * dense, PATCH_WIDTH * dense),
            order=1,
            mode="nearest",
        )
        cells = sampled.reshape(PATCH_HEIGHT, dense, PATCH_WIDTH, dense).mean(axis=(1, 3))
        patches.append(np.clip(np.round(cells), 0, 255).astype(np.uint8))
    return patches[0], patches[1]
