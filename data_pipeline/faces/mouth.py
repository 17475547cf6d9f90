"""The picture of a mouth, held still: what lip movement is measured on.

MTCNN gives five points and no lip landmarks, so movement has to come from the pixels. Each frame
is brought to one template by the five points (similarity transform), and two patches of one size
and scale are kept: the mouth, and the eyes and brow, whose movement is that of the head and of
the video's compression.
"""

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from data_pipeline.faces.crops import similarity

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


def face_patches(frame_HW3: np.ndarray, points_52: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mouth and upper-face patch, both [36, 48] uint8 grey, of one face in a uint8 RGB frame.

    Pixels outside the picture repeat its border.
    """
    a, b = similarity(TEMPLATE_52, points_52.astype(np.float64))
    matrix_22 = np.array([[a.real, -a.imag], [a.imag, a.real]])
    shift_2 = np.array([b.real, b.imag])
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


def movement(patches_FHW: np.ndarray) -> np.ndarray:
    """[F] float32: how much a patch changes from the frame before, beyond moving as a whole.

    The mean absolute difference of neighbouring frames after the best shift of the whole patch
    (one Lucas-Kanade step: difference = dx * gradient_x + dy * gradient_y) and the best change of
    brightness and contrast have been taken out, relative to the patch's own contrast. A head that
    moves, or points that drift between two detections, shift the patch; lips that part do not.
    The first frame takes the value of the second; a single frame is 0.
    """
    num_frames = len(patches_FHW)
    if num_frames < 2:
        return np.zeros(num_frames, np.float32)
    # Blurred, as gradients of compression blocks are no guide to where a patch went.
    smooth_FHW = gaussian_filter(patches_FHW.astype(np.float32), (0, 0.7, 0.7))
    # 4 grey levels keep a patch without any contrast from counting its noise as movement.
    contrast = float(smooth_FHW.std(axis=(1, 2)).mean()) + 4.0
    moved_F = np.empty(num_frames, np.float32)
    for start in range(0, num_frames - 1, 128):
        before_BHW = smooth_FHW[start : start + 128][: num_frames - 1 - start]
        after_BHW = smooth_FHW[start + 1 : start + 129]
        mean_BHW = (before_BHW + after_BHW) / 2
        gradient_y, gradient_x = np.gradient(mean_BHW, axis=(1, 2))
        explained_BP4 = np.stack(
            [gradient_x, gradient_y, np.ones_like(mean_BHW), mean_BHW - mean_BHW.mean()], axis=-1
        ).reshape(len(mean_BHW), -1, 4)
        change_BP = (after_BHW - before_BHW).reshape(len(mean_BHW), -1)
        normal_B44 = np.einsum("bpi,bpj->bij", explained_BP4, explained_BP4)
        # A flat patch has no gradients to solve for.
        normal_B44 += 1e-3 * explained_BP4.shape[1] * np.eye(4, dtype=np.float32)
        right_B4 = np.einsum("bpi,bp->bi", explained_BP4, change_BP)
        solved_B4 = np.linalg.solve(normal_B44, right_B4[..., None])[..., 0]
        rest_BP = change_BP - np.einsum("bpi,bi->bp", explained_BP4, solved_B4)
        moved_F[start + 1 : start + 1 + len(rest_BP)] = np.abs(rest_BP).mean(axis=1) / contrast
    moved_F[0] = moved_F[1]
    return moved_F


def openness(patches_FHW: np.ndarray) -> np.ndarray:
    """[F] float32: how unlike its median picture a patch is, relative to its contrast.

    Stands in for the lip gap of landmark methods: a mouth at rest most of the time is unlike
    itself when it opens.
    """
    if len(patches_FHW) == 0:
        return np.zeros(0, np.float32)
    level_FHW = patches_FHW.astype(np.float32)
    level_FHW -= level_FHW.mean(axis=(1, 2), keepdims=True)
    contrast = float(level_FHW.std(axis=(1, 2)).mean()) + 4.0
    away_F = np.abs(level_FHW - np.median(level_FHW, axis=0)).mean(axis=(1, 2))
    return (away_F / contrast).astype(np.float32)
