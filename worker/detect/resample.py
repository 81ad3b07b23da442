"""Exact area resampling: pyramid levels and crops of a picture from one table of running sums.

MTCNN in facenet-pytorch shrinks pictures with ``interpolate(mode="area")``, an adaptive average
pool: output pixel i of n averages the input pixels floor(i*m/n) up to ceil((i+1)*m/n), whole pixels
only, neighbours overlapping. Which faces are found depends on it: with OpenCV's INTER_AREA, which
weighs pixels by the part covered, 5 % of the original's faces in hard pictures are lost (IoU of
0.5), 2 % are extra, and boxes move; with each level made from the one before it is 6 and 4 %, with
levels made from the picture at half its size 7 and 7 %. With a summed-area table (Crow 1984) each
output pixel is four look-ups however large its window is, so one table per picture serves all
levels of the pyramid and all crops, exactly. Where few windows are wanted and no level, each window
has a small table.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from worker.records import Floats, Image

Ints = npt.NDArray[np.int64]

Table = npt.NDArray[np.int32]
"""(height + 1, width + 1, 3): sums over all that lies above and to the left.

A sum can wrap around in pictures beyond 8.4 million pixels; differences of wrapped sums are right
all the same.
"""

_ROWS_AT_ONCE = 16
"""Output rows of a level made in one step: what is read and written then stays in the cache."""

_KEPT_BYTES = 128 * 2**20
"""The most memory for tables that is kept from one batch to the next."""


class Sampler(Protocol):
    """Pieces of a list of pictures, resampled, as the networks take them: RGB planes, 0 to 255."""

    def prepare(self, picture: int) -> None:
        """Get a picture (by its index) ready for levels: once, before the first of them."""
        ...

    def level(self, pictures: Sequence[int], height: int, width: int) -> Floats:
        """Whole pictures (by their index; all of one size) as (len(pictures), 3, height, width)."""
        ...

    def crops(self, pictures: Ints, windows: Ints, size: int) -> Floats:
        """Windows of pictures as squares (K, 3, size, size), stretched where they are not square.

        ``pictures`` (K,): index of each window's picture. ``windows`` (K, 4): left, top, right,
        bottom in pixels, right and bottom exclusive, inside the picture and not empty.
        """
        ...


class TableMemory(threading.local):
    """Memory for tables, kept from one batch to the next: fresh pages cost more than the sums.

    Each thread has its own.
    """

    def __init__(self) -> None:
        self._kept = np.empty(0, np.int32)
        self._window = np.empty(0, np.int32)

    def window(self, height: int, width: int) -> Table:
        """A table, not yet filled, for one window of this size; the one of before ends."""
        shape = (height + 1, width + 1, 3)
        memory = self._window
        if len(memory) < math.prod(shape):
            memory = np.empty(math.prod(shape), np.int32)
            if memory.nbytes <= _KEPT_BYTES:
                self._window = memory
        return memory[: math.prod(shape)].reshape(shape)

    def take(self, sizes: Sequence[tuple[int, int]]) -> list[Table]:
        """Tables, not yet filled, for pictures of these (height, width); those taken before end."""
        shapes = [(height + 1, width + 1, 3) for height, width in sizes]
        lengths = [math.prod(shape) for shape in shapes]
        memory = self._kept
        if len(memory) < sum(lengths):
            memory = np.empty(sum(lengths), np.int32)
            if memory.nbytes <= _KEPT_BYTES:
                self._kept = memory
        ends = np.cumsum(lengths).tolist()
        return [
            memory[end - length : end].reshape(shape)
            for end, length, shape in zip(ends, lengths, shapes, strict=True)
        ]


class AreaSampler:
    """The sampler that ships: adaptive average pooling by summed-area tables.

    ``memory`` serves one sampler at a time in each thread. Several threads may share the sampler.
    """

    def __init__(self, images: Sequence[Image], memory: TableMemory) -> None:
        self._images = [np.ascontiguousarray(image) for image in images]
        self._memory = memory
        self._whole = memory.take([image.shape[:2] for image in images])
        self._tables: dict[int, Table] = {}

    def prepare(self, picture: int) -> None:
        cv2.integral(self._images[picture], self._whole[picture])
        self._tables[picture] = self._whole[picture]

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
        length = (windows[:, 2:] - windows[:, :2])[:, :, None]
        first, end = _bins(windows[:, :2, None], length, size)
        sums = np.empty((len(windows), size, size, 3), np.int32)
        for picture in np.unique(pictures).tolist():
            mine = np.flatnonzero(pictures == picture)
            if picture in self._tables:
                sums[mine] = _sums(self._tables[picture], first[mine], end[mine])
                continue
            for i in mine.tolist():
                left, top, right, bottom = windows[i].tolist()
                table = self._memory.window(bottom - top, right - left)
                cv2.integral(self._images[picture][top:bottom, left:right], table)
                corner = windows[i, :2, None]
                sums[i] = _sums(table, first[i] - corner, end[i] - corner)
        planes = np.ascontiguousarray(sums.transpose(0, 3, 1, 2), np.float32)
        sides = (end - first).astype(np.float32)
        planes /= sides[:, 1, :, None][:, None] * sides[:, 0, None][:, None]
        return planes


def _sums(table: Table, first: Ints, end: Ints) -> npt.NDArray[np.int32]:
    """Sums over bins, (..., size, size, 3): their edges are (..., 2, size), first x, then y."""
    # One index into the flattened table is much faster than a pair of indices.
    flat, stride = table.reshape(-1, 3), table.shape[1]
    before, behind = first[..., 0, None, :], end[..., 0, None, :]
    upper, lower = first[..., 1, :, None] * stride, end[..., 1, :, None] * stride
    sums: npt.NDArray[np.int32] = flat.take(lower + behind, axis=0)
    sums -= flat.take(lower + before, axis=0)
    sums -= flat.take(upper + behind, axis=0)
    sums += flat.take(upper + before, axis=0)
    return sums


def _bins(start: Ints | int, length: Ints | int, count: int) -> tuple[Ints, Ints]:
    """First and one-past-last input index of each of ``count`` output pixels, on the last axis.

    ``start``, ``length``: where the input begins and how long it is, of shape () or (..., 1).
    """
    i = np.arange(count)
    return start + i * length // count, start - (-(i + 1) * length // count)
