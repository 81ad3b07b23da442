"""Exact area resampling: pyramid levels and crops of a picture from one table of running sums.

MTCNN in facenet-pytorch shrinks pictures with ``interpolate(mode="area")``, an adaptive average
pool: output pixel i of n averages the input pixels floor(i*m/n) up to ceil((i+1)*m/n), whole pixels
only, neighbours overlapping. Which faces are found depends on it: with OpenCV's INTER_AREA, which
weighs pixels by the part covered, 6 % of the original's faces in real pictures are lost or moved
and 4 % are extra. With a summed-area table (Crow 1984) each output pixel is four look-ups however
large its window is, so one table per picture serves all levels of the pyramid and all crops,
exactly, and costs less than resizing each level from the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from worker.records import Floats, Image

Ints = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 16
"""Output rows of a level made in one step: what is read and written then stays in the cache."""


class Sampler(Protocol):
    """Pieces of a list of pictures, resampled, as the networks take them: RGB planes, 0 to 255."""

    def level(self, pictures: Sequence[int], height: int, width: int) -> Floats:
        """Whole pictures (by their index; all of one size) as (len(pictures), 3, height, width)."""
        ...

    def crops(self, pictures: Ints, windows: Ints, size: int) -> Floats:
        """Windows of pictures as squares (K, 3, size, size), stretched where they are not square.

        ``pictures`` (K,): index of each window's picture. ``windows`` (K, 4): left, top, right,
        bottom in pixels, right and bottom exclusive, inside the picture and not empty.
        """
        ...


class AreaSampler:
    """The sampler that ships: adaptive average pooling by summed-area tables."""

    def __init__(self, images: Sequence[Image]) -> None:
        # (height + 1, width + 1, 3) int32. A sum can wrap around in pictures beyond 8.4 million
        # pixels; differences of wrapped sums are right all the same.
        self._tables: list[npt.NDArray[np.int32]] = [
            cv2.integral(np.ascontiguousarray(image)).astype(np.int32, copy=False)
            for image in images
        ]

    def level(self, pictures: Sequence[int], height: int, width: int) -> Floats:
        tables = [self._tables[i] for i in pictures]
        rows, columns = tables[0].shape[0] - 1, tables[0].shape[1] - 1
        top, bottom = _bins(0, rows, height)
        left, right = _bins(0, columns, width)
        level = np.empty((len(tables), 3, height, width), np.float32)
        for planes, table in zip(level, tables, strict=True):
            for start in range(0, height, _ROWS_AT_ONCE):
                some = slice(start, start + _ROWS_AT_ONCE)
                # Rows first: whole lines are copied, and few are left for the columns.
                bands = table.take(bottom[some], axis=0)
                bands -= table.take(top[some], axis=0)
                sums = bands.take(right, axis=1)
                sums -= bands.take(left, axis=1)
                planes[:, some] = sums.transpose(2, 0, 1)
        level /= np.multiply.outer(bottom - top, right - left).astype(np.float32)
        return level

    def crops(self, pictures: Ints, windows: Ints, size: int) -> Floats:
        start, length = windows[:, :2, None], (windows[:, 2:] - windows[:, :2])[:, :, None]
        first, end = _bins(start, length, size)
        left, top, right, bottom = first[:, 0], first[:, 1], end[:, 0], end[:, 1]
        areas = (bottom - top)[:, :, None] * (right - left)[:, None, :]
        sums = np.empty((len(windows), size, size, 3), np.int32)
        for picture in np.unique(pictures):
            mine = pictures == picture
            table = self._tables[picture]
            # One index into the flattened table is much faster than a pair of indices.
            flat, stride = table.reshape(-1, 3), table.shape[1]
            upper, lower = top[mine, :, None] * stride, bottom[mine, :, None] * stride
            before, behind = left[mine, None, :], right[mine, None, :]
            part = flat.take(lower + behind, axis=0)
            part -= flat.take(lower + before, axis=0)
            part -= flat.take(upper + behind, axis=0)
            part += flat.take(upper + before, axis=0)
            sums[mine] = part
        planes = np.ascontiguousarray(sums.transpose(0, 3, 1, 2), np.float32)
        planes /= areas[:, None].astype(np.float32)
        return planes


def _bins(start: Ints | int, length: Ints | int, count: int) -> tuple[Ints, Ints]:
    """First and one-past-last input index of each of ``count`` output pixels, on the last axis.

    ``start``, ``length``: where the input begins and how long it is, of shape () or (..., 1).
    """
    i = np.arange(count)
    return start + i * length // count, start - (-(i + 1) * length // count)
