"""Decoded frames to pictures as they are meant to be seen: upright, with square pixels, RGB."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import cv2
import numpy as np
from av.video.frame import VideoFrame

from worker.config import MAX_PIXELS
from worker.errors import SourceError
from worker.records import Image

_Matrix = tuple[tuple[int, int], tuple[int, int]]

_UPRIGHT: _Matrix = (1, 0), (0, 1)
_BY_ROTATION: dict[int, _Matrix] = {
    90: ((0, -1), (1, 0)),
    180: ((-1, 0), (0, -1)),
    270: ((0, 1), (-1, 0)),
}
"""Degrees anticlockwise, as FFmpeg counts them."""


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a picture that is larger than a worker would take, before its pixels are made.

    Raises:
        SourceError: names the source, and how many pixels there are.
    """
    if width * height > MAX_PIXELS:
        raise SourceError(
            f"{name} has pictures of {width}x{height}: more than {MAX_PIXELS} pixels are refused"
        )


def upright(frame: VideoFrame, width: int) -> Image:
    """The frame scaled to ``width`` pixels, then turned and mirrored as its display matrix says.

    (height, width, 3), RGB, C-contiguous; after a quarter turn ``width`` is the height.
    """
    # Without threads=1 PyAV starts and ends a pool of threads for every frame: 20 times slower.
    image = np.asarray(frame.to_ndarray(format="rgb24", width=width, threads=1), np.uint8)
    (a, b), (c, d) = _display_matrix(frame)
    # The matrix takes (x, y) to (a x + c y, b x + d y). With a = d = 0 the axes change places;
    # a negative sign is then a flip along the new axis.
    swapped = abs(b) > abs(a)
    flip_x, flip_y = (c < 0, b < 0) if swapped else (a < 0, d < 0)
    if swapped:
        image = np.asarray(cv2.transpose(image), np.uint8)
    if flip_x or flip_y:
        # 1 flips along x, 0 along y, -1 along both.
        image = np.asarray(cv2.flip(image, -1 if flip_x and flip_y else int(flip_x)), np.uint8)
    return np.ascontiguousarray(image)


def square_width(frame: VideoFrame, aspect: Fraction | None) -> int:
    """The width at which pixels of sample aspect ratio ``aspect`` are square.

    Ratios beyond 1:4 and 4:1 are taken for mistakes.
    """
    if not aspect or not Fraction(1, 4) <= aspect <= 4:
        return frame.width
    return max(1, round(frame.width * aspect))


def _display_matrix(frame: VideoFrame) -> _Matrix:
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV lists all side data at once, and fails on a kind that it does not know (seen: EXIF).
        # The rotation it reads without the list.
        return _BY_ROTATION.get(frame.rotation % 360, _UPRIGHT)
    if data is None:
        return _UPRIGHT
    m = np.frombuffer(cast(bytes, data), np.int32).tolist()
    return (m[0], m[1]), (m[3], m[4])
