"""MTCNN face detection on ONNX Runtime, for batches of pictures.

After Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks" (IEEE SPL 23(10), 2016), in the form of facenet-pytorch 2.5.3 (MIT), whose weights the
three files beside this module carry (training/export_mtcnn.py) and whose faces this module
reproduces (tests/agreement.py). The P-Net scans a pyramid of shrunken pictures for anything that
may be a face; the R-Net and then the O-Net look at each candidate again, reject most, and move the
box; the O-Net adds five landmarks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.detect.boxes import CELL, shift, sides, square, windows
from worker.detect.nms import covered, nms_by_group
from worker.detect.ongraph import GraphDetector, check_pictures, load_graph_detector
from worker.detect.propose import Candidates, Map, Pyramid, propose
from worker.detect.resample import AreaSampler, Sampler, TableMemory
from worker.errors import ModelError, SettingsError
from worker.inference import Network, open_network
from worker.records import Detections, Floats, Image, ModelInfo, Provider

Ints = npt.NDArray[np.int64]

_PIXELS_AT_ONCE = 8_000_000
"""Pictures in one call of the detector, in pixels, where a sign of life is wanted in between."""

_PIXELS_TOGETHER = 1_000_000
"""Pictures that go through the networks together, in pixels: larger groups leave the cache."""

_CROPS_AT_ONCE = 64
"""Candidates in one call of the R- or O-Net: with 256, each takes a third longer."""

_LIKELY = 0.9
"""The P-Net's probability from which a glance takes its candidates: a third of them."""

_SAME_FACE = 0.7
"""Overlap, in parts of the smaller box, above which two results are one face."""


def load_detector(
    *,
    min_face: float = 40,
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
    factor: float = 0.709,
    alike: float = 0.8,
    threads: int = 1,
    provider: Provider = "auto",
    engine_cache: Path | None = None,
    folder: Path = Path(__file__).parent,
    sampler: Callable[[Sequence[Image]], Sampler] | None = None,
) -> Detector:
    """Open the three networks; on a GPU the graphs around them, which look at each candidate.

    Args:
        min_face: side of the smallest face to find, in pixels; time grows with its inverse square.
        thresholds: probability that a candidate needs to pass the P-, R- and O-Net.
        factor: size of each level of the pyramid in parts of the one before.
        alike: overlap (intersection over union) from which candidates count as one face's: the
            O-Net looks at the best of these, and at the others only where it sees no face. That is
            a third of its work; a face's box is then another candidate's, and overlaps with the
            original's by 0.96. 1: it looks at each, and the faces are exactly the original's.
        threads: how many calls of the networks run side by side on the CPU.
        provider: where the networks run.
        engine_cache: where TensorRT keeps what it has built; None for the user's cache folder.
        folder: where pnet.onnx, rnet.onnx and onet.onnx are.
        sampler: how pictures are shrunk; None for the way that ships.

    Raises:
        SettingsError: a value that makes no sense, named; or CUDA was asked for and is not there.
        ModelError: a file is missing, corrupt, or not one of MTCNN's.
    """
    if not min_face >= CELL:
        raise SettingsError(f"min_face must be {CELL} pixels or more, not {min_face}")
    if len(thresholds) != 3 or not all(0 < t < 1 for t in thresholds):
        raise SettingsError(f"thresholds must be three numbers between 0 and 1, not {thresholds}")
    if not 0.1 <= factor <= 0.95:
        raise SettingsError(f"factor must be between 0.1 and 0.95, not {factor}")
    if not 0 <= alike <= 1:
        raise SettingsError(f"alike must be between 0 and 1, not {alike}")
    # Nothing that OpenCV does here gains from threads, and its pool would compete with ONNX
    # Runtime's. The setting holds for the whole process.
    cv2.setNumThreads(1)
    networks: list[Network] = []
    for stage in ("pnet", "rnet", "onet"):
        # Calls side by side use the cores better than threads inside a call of so small a network,
        # where only the large layers gain.
        network = open_network(
            folder / f"{stage}.onnx", provider=provider, threads=1, engine_cache=engine_cache
        )
        if network.metadata.get("name") != f"mtcnn-{stage}" or "version" not in network.metadata:
            raise ModelError(f"{folder / stage}.onnx is not MTCNN's {stage}: its metadata differs")
        networks.append(network)
    versions = {network.metadata["version"] for network in networks}
    if len(versions) != 1:
        raise ModelError(f"the networks in {folder} are of different versions: {sorted(versions)}")
    if networks[0].session.get_providers()[0] != "CPUExecutionProvider":
        return load_graph_detector(
            pyramid=Pyramid(min_face, factor),
            thresholds=thresholds,
            provider=provider,
            engine_cache=engine_cache,
            folder=folder / "graphs",
        )
    digest = hashlib.sha256("".join(network.digest for network in networks).encode()).hexdigest()
    pnet, rnet, onet = (network.session for network in networks)
    return FaceDetector(
        pnet,
        rnet,
        onet,
        info=ModelInfo(name="mtcnn", version=versions.pop(), digest=digest[:16]),
        pyramid=Pyramid(min_face, factor),
        thresholds=thresholds,
        alike=alike,
        threads=threads,
        sampler=sampler or partial(AreaSampler, memory=TableMemory()),
    )


class _Found(NamedTuple):
    """What the O-Net takes for faces, of several pictures: parallel arrays."""

    pictures: Ints
    origins: Ints
    """As those of the candidates."""
    boxes: Floats
    scores: Floats
    landmarks: Floats


class FaceDetector:
    """Finds faces in batches of pictures. Made by ``load_detector``; holds no state of a feed.

    On the CPU, groups of pictures go through the networks side by side, one thread each; where
    there are fewer groups than threads, the calls of one step do.
    """

    def __init__(
        self,
        pnet: ort.InferenceSession,
        rnet: ort.InferenceSession,
        onet: ort.InferenceSession,
        *,
        info: ModelInfo,
        pyramid: Pyramid,
        thresholds: tuple[float, float, float],
        alike: float,
        threads: int,
        sampler: Callable[[Sequence[Image]], Sampler],
    ) -> None:
        self.info = info
        self._pnet, self._rnet, self._onet = pnet, rnet, onet
        self._pyramid = pyramid
        self._thresholds = thresholds
        self._alike = alike
        self._sampler = sampler
        self._threads = threads
        self._run: Map = ThreadPoolExecutor(threads, "detect").map if threads > 1 else map

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """The faces of each picture: one result for each, in the order given, best face first.

        ``images``: RGB, uint8, (height, width, 3), of any sizes; one smaller than the smallest face
        has none.

        Raises:
            ValueError: a picture has another shape or type.
        """
        check_pictures(images)
        return self._detect(images, self._thresholds[0])

    def glance(self, images: Sequence[Image]) -> list[Detections]:
        """As :meth:`detect`, but only faces of twice the smallest size, at a third of the cost.

        It looks at pictures of half the size, and there at the likeliest candidates alone.
        """
        check_pictures(images)
        found = self._detect([_half(i) for i in images], max(self._thresholds[0], _LIKELY))
        return [Detections(2 * f.boxes, f.scores, 2 * f.landmarks) for f in found]

    def _detect(self, images: Sequence[Image], threshold: float) -> list[Detections]:
        """``threshold``: the P-Net's."""
        results = [Detections.none()] * len(images)
        large = [i for i, image in enumerate(images) if self._pyramid.scales(*image.shape[:2])]
        chosen = [images[i] for i in large]
        groups = [chosen[some] for some in runs(chosen, _PIXELS_TOGETHER)]
        if len(groups) < self._threads:
            found = [self._detect_together(group, threshold, self._run) for group in groups]
        else:
            found = list(
                self._run(lambda group: self._detect_together(group, threshold, map), groups)
            )
        for i, faces in zip(large, (faces for group in found for faces in group), strict=True):
            results[i] = faces
        return results

    def follow(
        self, images: Sequence[Image], boxes: Sequence[Floats]
    ) -> list[tuple[Ints, Detections]]:
        """The faces that the O-Net alone sees where faces should be.

        With the R-Net before it, fewer of the faces that ``detect`` finds are found, and their
        boxes are no better.

        Args:
            images: as for :meth:`detect`.
            boxes: for each picture (N, 4), where its known faces should be now; a box that is not
                finite, has no extent or lies outside the picture gives no face.

        Returns:
            One result for each picture, in the order given: which of its boxes each face came from
            (F,), and the faces, best face first. A box gives one face at most, and of faces that
            overlap too much only the best one stays, as in :meth:`detect`.

        Raises:
            ValueError: a picture has another shape or type, or the lists differ in length.
        """
        if len(images) != len(boxes):
            raise ValueError(f"there are {len(images)} pictures, and boxes for {len(boxes)}")
        check_pictures(images)
        if not images:
            return []
        counts = [len(some) for some in boxes]
        candidates = Candidates(
            np.repeat(np.arange(len(images)), counts),
            np.concatenate(boxes).astype(np.float32, copy=False).reshape(-1, 4),
            np.concatenate([np.arange(count) for count in counts]),
        )
        width, height = sides(candidates.boxes)
        usable = np.isfinite(candidates.boxes).all(axis=1) & (width > 0) & (height > 0)
        candidates = candidates.pick(usable)
        candidates = replace(candidates, boxes=square(candidates.boxes))
        sizes = np.array([image.shape[:2] for image in images])
        found = self._judge(self._sampler(images), sizes, candidates, self._run)
        return _settled(found, len(images))

    def _detect_together(
        self, images: Sequence[Image], threshold: float, run: Map
    ) -> list[Detections]:
        sampler = self._sampler(images)
        sizes = np.array([image.shape[:2] for image in images])
        candidates = propose(self._pnet, self._pyramid, threshold, sampler, sizes, run)
        best, others = self._refine(sampler, sizes, candidates, run)
        found = self._judge(sampler, sizes, best, run)
        # What lies on a face, by the measure of the last suppression, would be that face again.
        again = covered(others.boxes, others.pictures, found.boxes, found.pictures, _SAME_FACE)
        more = self._judge(sampler, sizes, others.pick(~again), run)
        found = _joined(found, more)
        return [faces for _, faces in _settled(found, len(images))]

    def _refine(
        self, sampler: Sampler, sizes: Ints, candidates: Candidates, run: Map
    ) -> tuple[Candidates, Candidates]:
        """The R-Net, on each candidate: the best one of those that are alike, and the others."""
        candidates, (scores, moves) = self._look(self._rnet, sampler, sizes, candidates, 24, run)
        passed = scores > self._thresholds[1]
        candidates, scores, moves = candidates.pick(passed), scores[passed], moves[passed]
        kept = nms_by_group(candidates.boxes, scores, candidates.pictures, 0.7)
        candidates, scores = candidates.pick(kept), scores[kept]
        boxes = square(shift(candidates.boxes, moves[kept], inclusive=True))
        candidates = replace(candidates, boxes=boxes)
        best = np.zeros(len(boxes), bool)
        best[nms_by_group(boxes, scores, candidates.pictures, self._alike)] = True
        return candidates.pick(best), candidates.pick(~best)

    def _judge(self, sampler: Sampler, sizes: Ints, candidates: Candidates, run: Map) -> _Found:
        """The O-Net, on each candidate: those that are faces, some perhaps more than once."""
        candidates, (scores, moves, landmarks) = self._look(
            self._onet, sampler, sizes, candidates, 48, run
        )
        passed = scores > self._thresholds[2]
        candidates = candidates.pick(passed)
        extent = np.stack(sides(candidates.boxes, inclusive=True), axis=1)
        corner = candidates.boxes[:, :2]
        landmarks = extent[:, None] * landmarks[passed] + corner[:, None] - 1
        boxes = shift(candidates.boxes, moves[passed], inclusive=True)
        return _Found(candidates.pictures, candidates.origins, boxes, scores[passed], landmarks)

    def _look(
        self,
        network: ort.InferenceSession,
        sampler: Sampler,
        sizes: Ints,
        candidates: Candidates,
        size: int,
        run: Map,
    ) -> tuple[Candidates, list[Floats]]:
        """Run a network on each candidate's crop; candidates outside their picture fall away here.

        Returns the others and the network's outputs, all of one length.
        """
        heights, widths = sizes[candidates.pictures].T
        areas, visible = windows(candidates.boxes, widths, heights)
        candidates, areas = candidates.pick(visible), areas[visible]

        # A call for each thread at least, where threads share a step.
        at_once = max(
            1, min(_CROPS_AT_ONCE, -(-len(areas) // (1 if run is map else self._threads)))
        )

        def look(start: int) -> list[Floats]:
            some = slice(start, start + at_once)
            crops = sampler.crops(candidates.pictures[some], areas[some], size)
            outputs: list[Floats] = network.run(None, {"images": crops})
            return outputs

        # An empty batch is no batch: not every provider runs one.
        none = [np.zeros((0, *output.shape[1:]), np.float32) for output in network.get_outputs()]
        calls = [none, *run(look, range(0, len(areas), at_once))]
        return candidates, [np.concatenate(output) for output in zip(*calls, strict=True)]


def _half(image: Image) -> Image:
    if not image.size:
        return image
    # A line or column more, not less, where the size is odd: its last pixel counts whole.
    height, width = ((side + 1) // 2 for side in image.shape[:2])
    half: Image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return half


def _joined(some: _Found, others: _Found) -> _Found:
    pairs: Iterator[tuple[Any, Any]] = zip(some, others, strict=True)
    return _Found(*map(np.concatenate, pairs))


def _settled(found: _Found, count: int) -> list[tuple[Ints, Detections]]:
    """Each face once, best first: origins and faces, one result for each of ``count`` pictures."""
    pictures, origins, boxes, scores, landmarks = found
    kept = nms_by_group(boxes, scores, pictures, _SAME_FACE, minimum=True)
    owners = pictures[kept]
    return [
        (origins[mine], Detections(boxes[mine], scores[mine], landmarks[mine]))
        for mine in (kept[owners == picture] for picture in range(count))
    ]


Detector = FaceDetector | GraphDetector


def runs(images: Sequence[Image], pixels: int = _PIXELS_AT_ONCE) -> Iterator[slice]:
    """Cut a list of pictures into runs of at most ``pixels`` pixels, one picture at least."""
    start = taken = 0
    for i, image in enumerate(images):
        size = image.shape[0] * image.shape[1]
        if i > start and taken + size > pixels:
            yield slice(start, i)
            start, taken = i, 0
        taken += size
    if images:
        yield slice(start, len(images))
