"""MTCNN's arithmetic on boxes, as facenet-pytorch 2.5.3 (MIT) does it, its odd pixels included.

Boxes are (K, 4) float32: left, top, right, bottom in pixels of the picture. Everything stays in
float32 and in the original's order of operations: a box one rounding error away can be cut to
another whole pixel, and the faces then differ by more than rounding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.records import Detections, Floats

Ints = npt.NDArray[np.int64]

CELL = 12
"""Side of the P-Net's receptive field: the face that it sees at scale 1, in pixels."""

_STRIDE = 2
"""Pixels between neighbouring cells of the P-Net's output."""


def cell_boxes(rows: Ints, columns: Ints, scale: float) -> Floats:
    """Boxes of the P-Net's cells, in whole pixels of the picture.

    ``rows``, ``columns`` (K,): cells of the output map of the level that was shrunk by ``scale``.
    """
    corner = np.stack([columns, rows], axis=1).astype(np.float32) * _STRIDE
    edges = np.concatenate([corner + 1, corner + CELL], axis=1) / np.float32(scale)
    return np.floor(edges, dtype=np.float32)


def shift(boxes: Floats, regression: Floats, *, inclusive: bool) -> Floats:
    """Move each edge by ``regression`` (K, 4), in parts of the box's width or height.

    ``inclusive`` counts the last pixel as part of the side, as the R- and O-Net's steps do.
    """
    width, height = sides(boxes, inclusive=inclusive)
    return boxes + regression * np.stack([width, height, width, height], axis=1)


def square(boxes: Floats) -> Floats:
    """The square around each box's centre whose side is the box's longer one."""
    width, height = sides(boxes)
    side = np.maximum(width, height)
    left = boxes[:, 0] + width * 0.5 - side * 0.5
    top = boxes[:, 1] + height * 0.5 - side * 0.5
    return np.stack([left, top, left + side, top + side], axis=1)


def sides(boxes: Floats, *, inclusive: bool = False) -> tuple[Floats, Floats]:
    """Widths and heights, each (K,)."""
    extra = np.float32(inclusive)
    return boxes[:, 2] - boxes[:, 0] + extra, boxes[:, 3] - boxes[:, 1] + extra


def halved(boxes: Floats) -> Floats:
    """Boxes of a picture in one of half its size. As pixels are counted from 1, left and top differ
    from right and bottom: a box over all of it begins at 1 in both."""
    return np.asarray((boxes + np.array([1, 1, 0, 0], np.float32)) / 2, np.float32)


def doubled(faces: Detections) -> Detections:
    """Faces of a picture of half the size in the whole one."""
    boxes = 2 * faces.boxes - np.array([1, 1, 0, 0], np.float32)
    return Detections(boxes, faces.scores, 2 * faces.landmarks)


def windows(boxes: Floats, widths: Ints, heights: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """The pixels of the picture that each box covers, and whether it covers any.

    ``widths``, ``heights`` (K,): size of each box's picture. Windows (K, 4) are left, top, right,
    bottom with right and bottom exclusive. The original counts pixels from 1 here, so a window
    begins one pixel before its box.

    A box outside its picture has no window. The original skips such a box's crop but keeps the box,
    so that scores and boxes are of different lengths and it fails; callers here drop both.
    """
    edges = np.trunc(boxes).astype(np.int64)
    left = np.maximum(edges[:, 0], 1) - 1
    top = np.maximum(edges[:, 1], 1) - 1
    right = np.minimum(edges[:, 2], widths)
    bottom = np.minimum(edges[:, 3], heights)
    return np.stack([left, top, right, bottom], axis=1), (right > left) & (bottom > top)
