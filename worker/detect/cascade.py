"""MTCNN's cascade on pictures that go through its networks together, in the thread that calls.

The P-Net scans a pyramid of shrunken pictures for anything that may be a face; the R-Net and then
the O-Net look at each candidate again, reject most, and move the box; the O-Net adds landmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.detect.boxes import shift, sides, square, windows
from worker.detect.nms import covered, nms_by_group, nms_of_smaller
from worker.detect.propose import Candidates, Pyramid, propose
from worker.detect.resample import Sampler
from worker.records import Detections, Floats, Image, ModelInfo

Ints = npt.NDArray[np.int64]

_CROPS_AT_ONCE = 64
"""Candidates in one call of the R- or O-Net: with 256, each takes a third longer."""

_SAME_FACE = 0.7
"""Overlap, in parts of the smaller box, above which two results are one face."""


class _Found(NamedTuple):
    """What the O-Net takes for faces, of several pictures: parallel arrays."""

    pictures: Ints
    boxes: Floats
    scores: Floats
    landmarks: Floats


@dataclass(frozen=True, slots=True)
class Cascade:
    """The three networks and what they go by. Holds no state: any thread may use it."""

    pnet: ort.InferenceSession
    rnet: ort.InferenceSession
    onet: ort.InferenceSession
    info: ModelInfo
    pyramid: Pyramid
    thresholds: tuple[float, float, float]
    """Probability that a candidate needs to pass each network."""
    alike: tuple[float, float]
    """Overlap (intersection over union) from which candidates count as one face's, before the R-Net
    and before the O-Net; see ``load_detector``."""
    sampler: Callable[[Sequence[Image]], Sampler]
    """How pictures are shrunk."""

    def detect(self, images: Sequence[Image], likely: float) -> list[Detections]:
        """The faces of each picture, best first; each picture has a level.

        ``likely``: the P-Net's threshold.
        """
        sampler = self.sampler(images)
        sizes = np.array([image.shape[:2] for image in images])
        candidates = propose(self.pnet, self.pyramid, likely, sampler, sizes)
        before_rnet, before_onet = self.alike

        def judge(some: Candidates) -> _Found:
            return self._judge(sampler, sizes, some)

        def refine(some: Candidates) -> _Found:
            return _best_first(self._refine(sampler, sizes, some), before_onet, judge)

        found = _best_first(candidates, before_rnet, refine)
        return _settled(found, len(images))

    def follow(self, images: Sequence[Image], boxes: Sequence[Floats]) -> list[Detections]:
        """As :meth:`FaceDetector.follow`."""
        candidates = Candidates(
            np.repeat(np.arange(len(images)), [len(some) for some in boxes]),
            np.concatenate(boxes).astype(np.float32, copy=False).reshape(-1, 4),
        )
        width, height = sides(candidates.boxes)
        usable = np.isfinite(candidates.boxes).all(axis=1) & (width > 0) & (height > 0)
        candidates = candidates.pick(usable)
        candidates = replace(candidates, boxes=square(candidates.boxes))
        sizes = np.array([image.shape[:2] for image in images])
        found = self._judge(self.sampler(images), sizes, candidates)
        return _settled(found, len(images))

    def _refine(self, sampler: Sampler, sizes: Ints, candidates: Candidates) -> Candidates:
        """The R-Net, on each candidate: those that may be faces, the likeliest first."""
        candidates, (scores, moves) = self._look(self.rnet, sampler, sizes, candidates, 24)
        passed = scores > self.thresholds[1]
        candidates, scores, moves = candidates.pick(passed), scores[passed], moves[passed]
        kept = nms_by_group(candidates.boxes, scores, candidates.pictures, 0.7)
        candidates = candidates.pick(kept)
        boxes = square(shift(candidates.boxes, moves[kept], inclusive=True))
        return replace(candidates, boxes=boxes)

    def _judge(self, sampler: Sampler, sizes: Ints, candidates: Candidates) -> _Found:
        """The O-Net, on each candidate: those that are faces, some perhaps more than once."""
        candidates, (scores, moves, landmarks) = self._look(
            self.onet, sampler, sizes, candidates, 48
        )
        passed = scores > self.thresholds[2]
        candidates = candidates.pick(passed)
        extent = np.stack(sides(candidates.boxes, inclusive=True), axis=1)
        corner = candidates.boxes[:, :2]
        landmarks = extent[:, None] * landmarks[passed] + corner[:, None] - 1
        boxes = shift(candidates.boxes, moves[passed], inclusive=True)
        return _Found(candidates.pictures, boxes, scores[passed], landmarks)

    def _look(
        self,
        network: ort.InferenceSession,
        sampler: Sampler,
        sizes: Ints,
        candidates: Candidates,
        size: int,
    ) -> tuple[Candidates, list[Floats]]:
        """Run a network on each candidate's crop; candidates outside their picture fall away here.

        Returns the others and the network's outputs, all of one length.
        """
        heights, widths = sizes[candidates.pictures].T
        areas, visible = windows(candidates.boxes, widths, heights)
        candidates, areas = candidates.pick(visible), areas[visible]

        def look(start: int) -> list[Floats]:
            some = slice(start, start + _CROPS_AT_ONCE)
            crops = sampler.crops(candidates.pictures[some], areas[some], size)
            outputs: list[Floats] = network.run(None, {"images": crops})
            return outputs

        # An empty batch is no batch: not every provider runs one.
        none = [np.zeros((0, *output.shape[1:]), np.float32) for output in network.get_outputs()]
        calls = [none, *map(look, range(0, len(areas), _CROPS_AT_ONCE))]
        return candidates, [np.concatenate(output) for output in zip(*calls, strict=True)]


def _best_first(
    candidates: Candidates, alike: float, look: Callable[[Candidates], _Found]
) -> _Found:
    """Look at the first of the candidates that overlap by ``alike``, then at others if need be.

    Those are left out that lie on a face then, by the measure of the last suppression: they would
    be that face again. Each picture's candidates stand in their order, the likeliest first.
    """
    order = -np.arange(len(candidates.boxes), dtype=np.float32)
    best = np.zeros(len(order), bool)
    best[nms_by_group(candidates.boxes, order, candidates.pictures, alike)] = True
    found, others = look(candidates.pick(best)), candidates.pick(~best)
    again = covered(others.boxes, others.pictures, found.boxes, found.pictures, _SAME_FACE)
    return _joined(found, look(others.pick(~again)))


def _joined(some: _Found, others: _Found) -> _Found:
    pairs: Iterator[tuple[Any, Any]] = zip(some, others, strict=True)
    return _Found(*map(np.concatenate, pairs))


def _settled(found: _Found, count: int) -> list[Detections]:
    """Each face once, best first: one result for each of ``count`` pictures."""
    pictures, boxes, scores, landmarks = found
    results = []
    for picture in range(count):
        mine = np.flatnonzero(pictures == picture)
        kept = mine[nms_of_smaller(boxes[mine], scores[mine], _SAME_FACE)]
        results.append(Detections(boxes[kept], scores[kept], landmarks[kept]))
    return results
