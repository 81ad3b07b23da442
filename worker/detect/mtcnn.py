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
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.detect.boxes import CELL, cell_boxes, shift, sides, square, windows
from worker.detect.nms import nms_by_group
from worker.detect.resample import AreaSampler, Sampler
from worker.errors import ModelError, SettingsError
from worker.inference import Network, open_network
from worker.records import Detections, Floats, Image, ModelInfo, Provider

Ints = npt.NDArray[np.int64]

_PIXELS_AT_ONCE = 8_000_000
"""Pictures looked at together, in pixels: their tables of sums take 12 bytes for each."""

# On the CPU larger calls are slower for each picture and crop, not faster: their layers leave the
# cache. Measured with onnxruntime 1.32: 256 crops at once cost a third more than 64 four times.
_LEVEL_PIXELS_AT_ONCE = 300_000
"""Pyramid pixels in one call of the P-Net, unless one picture's level has more."""

_CROPS_AT_ONCE = 64
"""Candidates in one call of the R- or O-Net."""


def load_detector(
    *,
    min_face: float = 40,
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
    factor: float = 0.709,
    threads: int = 1,
    provider: Provider = "auto",
    folder: Path = Path(__file__).parent,
    sampler: Callable[[Sequence[Image]], Sampler] = AreaSampler,
) -> FaceDetector:
    """Open the three networks.

    Args:
        min_face: side of the smallest face to find, in pixels; time grows with its inverse square.
        thresholds: probability that a candidate needs to pass the P-, R- and O-Net.
        factor: size of each level of the pyramid in parts of the one before.
        threads: threads of ONNX Runtime inside one call.
        provider: where the networks run.
        folder: where pnet.onnx, rnet.onnx and onet.onnx are.
        sampler: how pictures are shrunk; tests put the original's own way here.

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
    # Nothing that OpenCV does here gains from threads, and its pool would compete with ONNX
    # Runtime's. The setting holds for the whole process.
    cv2.setNumThreads(1)
    networks: list[Network] = []
    for stage in ("pnet", "rnet", "onet"):
        network = open_network(folder / f"{stage}.onnx", provider=provider, threads=threads)
        if network.metadata.get("name") != f"mtcnn-{stage}" or "version" not in network.metadata:
            raise ModelError(f"{folder / stage}.onnx is not MTCNN's {stage}: its metadata differs")
        networks.append(network)
    versions = {network.metadata["version"] for network in networks}
    if len(versions) != 1:
        raise ModelError(f"the networks in {folder} are of different versions: {sorted(versions)}")
    digest = hashlib.sha256("".join(network.digest for network in networks).encode()).hexdigest()
    pnet, rnet, onet = (network.session for network in networks)
    return FaceDetector(
        pnet,
        rnet,
        onet,
        info=ModelInfo(name="mtcnn", version=versions.pop(), digest=digest[:16]),
        min_face=min_face,
        thresholds=thresholds,
        factor=factor,
        sampler=sampler,
    )


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Boxes on their way to becoming faces, of all pictures of a chunk: parallel arrays."""

    pictures: Ints
    """(K,): index of each box's picture."""
    boxes: Floats
    """(K, 4)"""

    def pick(self, chosen: npt.NDArray[np.bool_] | Ints) -> _Candidates:
        return _Candidates(self.pictures[chosen], self.boxes[chosen])


class FaceDetector:
    """Finds faces in batches of pictures. Made by ``load_detector``; holds no state of a feed."""

    def __init__(
        self,
        pnet: ort.InferenceSession,
        rnet: ort.InferenceSession,
        onet: ort.InferenceSession,
        *,
        info: ModelInfo,
        min_face: float,
        thresholds: tuple[float, float, float],
        factor: float,
        sampler: Callable[[Sequence[Image]], Sampler],
    ) -> None:
        self.info = info
        self._pnet, self._rnet, self._onet = pnet, rnet, onet
        self._min_face = min_face
        self._thresholds = thresholds
        self._factor = factor
        self._sampler = sampler

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """The faces of each picture: one result for each, in the order given, best face first.

        ``images``: RGB, uint8, (height, width, 3), of any sizes; one smaller than the smallest face
        has none.

        Raises:
            ValueError: a picture has another shape or type.
        """
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"a picture is uint8 (height, width, 3), not {image.dtype} {image.shape}"
                )
        results = [Detections.none()] * len(images)
        large_enough = [i for i, image in enumerate(images) if self._scales(*image.shape[:2])]
        chosen = [images[i] for i in large_enough]
        found = [faces for some in runs(chosen) for faces in self._detect_together(chosen[some])]
        for i, faces in zip(large_enough, found, strict=True):
            results[i] = faces
        return results

    def _detect_together(self, images: Sequence[Image]) -> list[Detections]:
        sampler = self._sampler(images)
        sizes = np.array([image.shape[:2] for image in images])
        candidates = self._propose(sampler, sizes)
        candidates = self._refine(sampler, sizes, candidates)
        return self._decide(sampler, sizes, candidates)

    def _propose(self, sampler: Sampler, sizes: Ints) -> _Candidates:
        """The P-Net, on each level of the pyramid."""
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, (height, width) in enumerate(sizes.tolist()):
            by_size[height, width].append(i)
        parts = []
        for (height, width), same_size in by_size.items():
            for scale in self._scales(height, width):
                shape = int(height * scale + 1), int(width * scale + 1)
                at_once = max(1, _LEVEL_PIXELS_AT_ONCE // (shape[0] * shape[1]))
                for start in range(0, len(same_size), at_once):
                    some = same_size[start : start + at_once]
                    level = sampler.level(some, *shape)
                    faces, regression = self._pnet.run(None, {"images": level})
                    which, rows, columns = np.nonzero(faces >= self._thresholds[0])
                    boxes = cell_boxes(rows, columns, scale)
                    scores = faces[which, rows, columns]
                    kept = nms_by_group(boxes, scores, which, 0.5)
                    which, rows, columns = which[kept], rows[kept], columns[kept]
                    moves = regression[which, :, rows, columns]
                    parts.append((np.array(some)[which], boxes[kept], scores[kept], moves))
        pictures, boxes, scores, moves = (np.concatenate(part) for part in zip(*parts, strict=True))
        kept = nms_by_group(boxes, scores, pictures, 0.7)
        boxes = square(shift(boxes[kept], moves[kept], inclusive=False))
        return _Candidates(pictures[kept], boxes)

    def _scales(self, height: int, width: int) -> list[float]:
        """How much each level of the pyramid is shrunk; none for a picture that is too small."""
        scales = []
        scale = CELL / self._min_face
        # The shorter side shrinks by repeated products, as in the original: a power would round to
        # another number of levels for some sizes.
        shorter = min(height, width) * scale
        while shorter >= CELL:
            scales.append(scale)
            scale *= self._factor
            shorter *= self._factor
        return scales

    def _refine(self, sampler: Sampler, sizes: Ints, candidates: _Candidates) -> _Candidates:
        """The R-Net, on each candidate."""
        candidates, (scores, moves) = _look(self._rnet, sampler, sizes, candidates, 24)
        passed = scores > self._thresholds[1]
        candidates, scores, moves = candidates.pick(passed), scores[passed], moves[passed]
        kept = nms_by_group(candidates.boxes, scores, candidates.pictures, 0.7)
        candidates, moves = candidates.pick(kept), moves[kept]
        boxes = square(shift(candidates.boxes, moves, inclusive=True))
        return _Candidates(candidates.pictures, boxes)

    def _decide(self, sampler: Sampler, sizes: Ints, candidates: _Candidates) -> list[Detections]:
        """The O-Net, on each candidate that is left: faces and landmarks, one result a picture."""
        candidates, (scores, moves, landmarks) = _look(self._onet, sampler, sizes, candidates, 48)
        passed = scores > self._thresholds[2]
        candidates, scores = candidates.pick(passed), scores[passed]
        extent = np.stack(sides(candidates.boxes, inclusive=True), axis=1)
        corner = candidates.boxes[:, :2]
        landmarks = extent[:, None] * landmarks[passed] + corner[:, None] - 1
        boxes = shift(candidates.boxes, moves[passed], inclusive=True)
        kept = nms_by_group(boxes, scores, candidates.pictures, 0.7, minimum=True)
        owners = candidates.pictures[kept]
        return [
            Detections(boxes[mine], scores[mine], landmarks[mine])
            for mine in (kept[owners == picture] for picture in range(len(sizes)))
        ]


def _look(
    network: ort.InferenceSession,
    sampler: Sampler,
    sizes: Ints,
    candidates: _Candidates,
    size: int,
) -> tuple[_Candidates, list[Floats]]:
    """Run a network on each candidate's crop; candidates outside their picture fall away here.

    Returns the others and the network's outputs, all of one length.
    """
    heights, widths = sizes[candidates.pictures].T
    areas, visible = windows(candidates.boxes, widths, heights)
    candidates, areas = candidates.pick(visible), areas[visible]
    # An empty batch is no batch: not every provider runs one.
    calls = [[np.zeros((0, *output.shape[1:]), np.float32) for output in network.get_outputs()]]
    for start in range(0, len(areas), _CROPS_AT_ONCE):
        some = slice(start, start + _CROPS_AT_ONCE)
        crops = sampler.crops(candidates.pictures[some], areas[some], size)
        calls.append(network.run(None, {"images": crops}))
    return candidates, [np.concatenate(output) for output in zip(*calls, strict=True)]


def runs(images: Sequence[Image]) -> Iterator[slice]:
    """Cut a list of pictures into runs of at most _PIXELS_AT_ONCE pixels, one picture at least."""
    start = pixels = 0
    for i, image in enumerate(images):
        size = image.shape[0] * image.shape[1]
        if i > start and pixels + size > _PIXELS_AT_ONCE:
            yield slice(start, i)
            start, pixels = i, 0
        pixels += size
    if images:
        yield slice(start, len(images))
