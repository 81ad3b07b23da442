"""The one function that cuts faces out of pictures, for training and serving alike."""

from __future__ import annotations

from typing import Literal, NamedTuple, assert_never

import cv2
import numpy as np
import numpy.typing as npt

from worker.records import Image

Colour = Literal["gray", "rgb"]

CHANNELS: dict[Colour, int] = {"gray": 1, "rgb": 3}


class Form(NamedTuple):
    """What :func:`crop_faces` is to make of a face; see there."""

    size: int
    margin: float
    colour: Colour

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a crop."""
        return self.size, self.size, CHANNELS[self.colour]


BLANK = 128
"""Every value of a crop whose box says nothing: not finite, without extent, or absurdly large."""


def crop_faces(
    image: Image, boxes: npt.NDArray[np.floating], *, size: int, margin: float, colour: Colour
) -> npt.NDArray[np.uint8]:
    """Cut one square crop for each box: exactly N crops come back for N boxes.

    The square lies around the box's centre, its side is max(width, height) * (1 + margin), at least
    one pixel; both are rounded to whole pixels, so that the crop is never stretched. What lies
    beyond the picture repeats the picture's edge: mirroring would paint a second eye or mouth, and
    black a contour. Larger squares are averaged down by area, smaller ones enlarged linearly.

    Args:
        image: (height, width, 3) uint8, RGB, at least one pixel.
        boxes: (N, 4): left, top, right, bottom in pixels; may reach beyond the picture, lie outside
            it, be empty or hold NaN. A box that is not finite or has no extent, or whose square has
            more than twice the picture's longer side, gives a crop of mid-grey (BLANK).
        size: side of the crops in pixels.
        margin: what the square adds to the box, as a part of its side; above -1, and below 0 it
            cuts closer than the box.
        colour: ``gray`` (ITU-R BT.601 luma) gives C = 1, ``rgb`` gives C = 3.

    Returns:
        (N, size, size, C) uint8.

    Raises:
        ValueError: an argument has another shape or range than said here.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (N, 4), not {boxes.shape}")
    if size < 1 or not margin > -1:
        raise ValueError(f"size must be 1 or more and margin above -1, not {size} and {margin}")

    crops = np.full((len(boxes), size, size, CHANNELS[colour]), BLANK, np.uint8)
    for crop, box in zip(crops, boxes.astype(np.float64), strict=True):
        square = square_around(box, margin, image.shape[0], image.shape[1])
        if square is not None:
            crop[:] = _resize(_coloured(_cut(image, *square), colour), size)
    return crops


def square_around(
    box: npt.NDArray[np.float64], margin: float, height: int, width: int
) -> tuple[int, int, int] | None:
    """Left, top and side of a box's square in whole pixels; None when the box says nothing.

    See :func:`crop_faces`. ``box`` (4,): left, top, right, bottom in pixels; ``height`` and
    ``width`` are the picture's.
    """
    if not np.isfinite(box).all():
        return None
    left, top, right, bottom = box.tolist()
    extent = max(right - left, bottom - top)
    wanted = extent * (1 + margin)
    if extent <= 0 or wanted > 2 * max(height, width):
        return None
    side = max(1, round(wanted))
    x = round((left + right - side) / 2)
    y = round((top + bottom - side) / 2)
    # Outside, everything repeats the picture's edge, however far away: this bounds the numbers.
    return min(max(x, -side), width), min(max(y, -side), height), side


def _cut(image: Image, left: int, top: int, side: int) -> Image:
    """(side, side, 3), with the picture's edge repeated beyond it."""
    height, width = image.shape[:2]
    if left >= 0 and top >= 0 and left + side <= width and top + side <= height:
        return image[top : top + side, left : left + side]
    rows = np.arange(top, top + side).clip(0, height - 1)
    columns = np.arange(left, left + side).clip(0, width - 1)
    patch: Image = image[rows][:, columns]
    return patch


def _coloured(patch: Image, colour: Colour) -> npt.NDArray[np.uint8]:
    """(side, side, 3) -> (side, side, C)."""
    if colour == "rgb":
        return patch
    if colour == "gray":
        return np.asarray(cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY), np.uint8)[:, :, None]
    assert_never(colour)


def _resize(patch: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """(side, side, C) -> (size, size, C)."""
    method = cv2.INTER_AREA if len(patch) > size else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(patch, (size, size), interpolation=method), np.uint8)
    return resized.reshape(size, size, -1)
