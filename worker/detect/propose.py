"""MTCNN's first step: the P-Net on each level of a pyramid of shrunken pictures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.detect.boxes import CELL, cell_boxes, shift, square
from worker.detect.nms import nms_by_group
from worker.detect.resample import Sampler
from worker.records import Floats

Ints = npt.NDArray[np.int64]

# A larger call is slower for each picture, not faster: its layers leave the cache.
_PIXELS_AT_ONCE = 300_000
"""Pixels of a level in one call of the P-Net, unless one picture's level has more."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes on their way to becoming faces, of several pictures: parallel arrays."""

    pictures: Ints
    """(K,): index of each box's picture."""
    boxes: Floats
    """(K, 4)"""

    def pick(self, chosen: npt.NDArray[np.bool_] | Ints) -> Candidates:
        return Candidates(self.pictures[chosen], self.boxes[chosen])


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Which levels a picture has."""

    min_face: float
    """Side of the smallest face to find, in pixels: P-Net cells are that large on the first."""
    factor: float
    """Size of each level in parts of the one before."""

    def scales(self, height: int, width: int) -> list[float]:
        """How much each level is shrunk; none for a picture that is too small."""
        scales = []
        scale = CELL / self.min_face
        # The shorter side shrinks by repeated products, as in the original: a power would round to
        # another number of levels for some sizes.
        shorter = min(height, width) * scale
        while shorter >= CELL:
            scales.append(scale)
            scale *= self.factor
            shorter *= self.factor
        return scales


def propose(
    pnet: ort.InferenceSession,
    pyramid: Pyramid,
    threshold: float,
    sampler: Sampler,
    sizes: Ints,
) -> Candidates:
    """What may be a face, in pictures of ``sizes`` (N, 2), height and width; each has a level."""
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (height, width) in enumerate(sizes.tolist()):
        by_size[height, width].append(i)
    calls = []
    for (height, width), same in by_size.items():
        for scale in pyramid.scales(height, width):
            shape = int(height * scale + 1), int(width * scale + 1)
            at_once = max(1, _PIXELS_AT_ONCE // (shape[0] * shape[1]))
            calls += [
                (same[start : start + at_once], scale, shape)
                for start in range(0, len(same), at_once)
            ]

    def scan(call: tuple[list[int], float, tuple[int, int]]) -> tuple[Ints, Floats, Floats, Floats]:
        """Pictures (K,), boxes (K, 4), scores (K,) and regression (K, 4) of one call's cells."""
        some, scale, shape = call
        faces, regression = pnet.run(None, {"images": sampler.level(some, *shape)})
        which, rows, columns = np.nonzero(faces >= threshold)
        return (
            np.array(some)[which],
            cell_boxes(rows, columns, scale),
            faces[which, rows, columns],
            regression[which, :, rows, columns],
        )

    for i in range(len(sizes)):
        sampler.prepare(i)
    found = [scan(call) for call in calls]
    pictures, boxes, scores, moves = (np.concatenate(part) for part in zip(*found, strict=True))
    # First among the cells of one level of a picture, then among all of the picture.
    levels = np.repeat(np.arange(len(found)), [len(part[0]) for part in found])
    kept = nms_by_group(boxes, scores, levels * len(sizes) + pictures, 0.5)
    pictures, boxes, scores, moves = pictures[kept], boxes[kept], scores[kept], moves[kept]
    kept = nms_by_group(boxes, scores, pictures, 0.7)
    boxes = square(shift(boxes[kept], moves[kept], inclusive=False))
    return Candidates(pictures[kept], boxes)
