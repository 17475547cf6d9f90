"""The picture of a whole face: what a speaker network reads."""

import numpy as np
from scipy.ndimage import affine_transform

from data_pipeline.faces.mouth import GREY_3

SIZE = 112
BOX_PART = 1.0
"""Side of the picture as a part of the longer side of MTCNN's box."""
MAX_OVERSAMPLING = 4


def network_picture(frame_HW3: np.ndarray, box_4: np.ndarray) -> np.ndarray:
    """[112, 112] uint8 grey: the square about the middle of a face's box in a uint8 RGB frame.

    Upright, not turned with the head, as the networks were trained. Pixels outside the frame
    repeat its border.
    """
    x0, y0, x1, y1 = (float(v) for v in box_4)
    side = max(x1 - x0, y1 - y0, 2.0) * BOX_PART
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    scale = side / SIZE
    dense = int(np.clip(np.ceil(scale), 1, MAX_OVERSAMPLING))
    height, width = frame_HW3.shape[:2]
    rows = slice(*np.clip([int(top) - 2, int(top + side) + 3], 0, height))
    columns = slice(*np.clip([int(left) - 2, int(left + side) + 3], 0, width))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return np.zeros((SIZE, SIZE), np.uint8)  # the track has left the frame
    grey_HW = frame_HW3[rows, columns].astype(np.float32) @ GREY_3
    start = 0.5 * scale / dense - 0.5  # the middle of the first sample, from the corner
    sampled = affine_transform(
        grey_HW,
        np.array([scale, scale]) / dense,
        (top + start - rows.start, left + start - columns.start),
        output_shape=(SIZE * dense, SIZE * dense),
        order=1,
        mode="nearest",
    )
    cells = sampled.reshape(SIZE, dense, SIZE, dense).mean(axis=(1, 3))
    return np.clip(np.round(cells), 0, 255).astype(np.uint8)
