"""Frames as they are to be seen: the file's display matrix turns and mirrors them.

    orientation_of(frame).apply(picture_HW3)

The matrix (ISO/IEC 14496-12, 8.3.2) sends the point (x, y) of the stored picture, y downwards, to
(a x + c y, b x + d y). Phones write one of its eight forms without skew: four turns, each mirrored
or not. PyAV's `frame.rotation` tells the turn alone.
"""

from dataclasses import dataclass

import av
import numpy as np
from av.sidedata.sidedata import Type


@dataclass(frozen=True)
class Orientation:
    """First swap the axes, then mirror each."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, picture_HW3: np.ndarray) -> np.ndarray:
        if self.transpose:
            picture_HW3 = picture_HW3.transpose(1, 0, 2)
        return picture_HW3[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after, or of what gives them, which is the same."""
        return (height, width) if self.transpose else (width, height)


def orientation_of(frame: av.VideoFrame | None) -> Orientation:
    """As the frame's display matrix says; without one, as it is."""
    data = None if frame is None else frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    a, b, _, c, d, _, *_ = np.frombuffer(bytes(data), np.int32).astype(np.int64)
    if abs(a * d) >= abs(b * c):
        return Orientation(flip_x=bool(a < 0), flip_y=bool(d < 0))
    return Orientation(transpose=True, flip_x=bool(c < 0), flip_y=bool(b < 0))
