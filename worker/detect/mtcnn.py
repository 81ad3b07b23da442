"""MTCNN face detection on ONNX Runtime, for batches of pictures.

After Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
Networks" (IEEE SPL 23(10), 2016), in the form of facenet-pytorch 2.5.3 (MIT), whose weights the
three files beside this module carry (training/export_mtcnn.py) and whose faces this module
reproduces (tests/agreement.py). Its steps are in ``cascade``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2

from worker.cores import Cores
from worker.detect.boxes import CELL
from worker.detect.cascade import Cascade
from worker.detect.nms import nms_operator
from worker.detect.ongraph import GraphDetector, check_pictures, load_graph_detector
from worker.detect.pool import DetectionPool
from worker.detect.propose import Pyramid
from worker.detect.resample import AreaSampler, Sampler, TableMemory
from worker.errors import ModelError, SettingsError
from worker.inference import Network, open_network
from worker.records import Detections, Floats, Image, ModelInfo, Provider

_PIXELS_AT_ONCE = 8_000_000
"""Pictures in one call of the detector, in pixels, where a sign of life is wanted in between."""

_PIXELS_TOGETHER = 1_000_000
"""Pictures that go through the networks together, in pixels: larger groups leave the cache."""

_FACES_TOGETHER = 16
"""Known faces that are followed together."""

_ALIKE = 0.4, 0.8
"""Overlap from which the R-Net and the O-Net take candidates for one face's. Between 0.3 and 0.6
the first finds the same faces; the lower, the fewer candidates, and the more boxes differ."""

_LIKELY = 0.9
"""The P-Net's probability from which a glance takes its candidates."""


def load_detector(
    *,
    min_face: float = 40,
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
    factor: float = 0.709,
    exact: bool = False,
    cores: Cores | None = None,
    pooled: bool = False,
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
        exact: the R- and O-Net look at each candidate, and the faces are exactly the original's.
            Otherwise they look at the best one of those that are alike, and at the others only
            where no face is seen. That is 0.7 to 0.8 of the R-Net's work and a third of the
            O-Net's; a face's box is then another candidate's, and overlaps with the original's by
            0.94.
        cores: on which groups of pictures are searched side by side, where the networks run on the
            CPU; None for one.
        pooled: whether, of several cores, each has a process for it (``DetectionPool``). They start
            now, and end with ours.
        provider: where the networks run.
        engine_cache: where TensorRT keeps what it has built; None for the user's cache folder.
        folder: where pnet.onnx, rnet.onnx and onet.onnx are.
        sampler: how pictures are shrunk; None for the way that ships.

    Raises:
        SettingsError: a value that makes no sense, named; or CUDA was asked for and is not there.
        ModelError: a file is missing, corrupt, or not one of MTCNN's; or a process does not start.
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
    # Only a network that is open tells whether a provider that is there works.
    pnet = open_network(folder / "pnet.onnx", provider=provider, engine_cache=engine_cache)
    if not pnet.on_cpu:
        return load_graph_detector(
            pyramid=Pyramid(min_face, factor),
            thresholds=thresholds,
            provider=provider,
            engine_cache=engine_cache,
            folder=folder / "graphs",
        )
    load = partial(
        load_cascade,
        pyramid=Pyramid(min_face, factor),
        thresholds=thresholds,
        alike=(1.0, 1.0) if exact else _ALIKE,
        folder=folder,
        sampler=sampler,
    )
    cores = cores or Cores()
    cascade = load()  # first of all, so that what is wrong with a file is told once
    pool = DetectionPool(cores, load) if pooled and cores.count > 1 else None
    return FaceDetector(cascade, cores, pool)


def load_cascade(
    *,
    pyramid: Pyramid,
    thresholds: tuple[float, float, float],
    alike: tuple[float, float],
    folder: Path,
    sampler: Callable[[Sequence[Image]], Sampler] | None,
) -> Cascade:
    """Open the three networks on the CPU; arguments are those of the cascade, or ``load_detector``.

    Raises:
        ModelError: a file is missing, corrupt, or not one of MTCNN's.
    """
    cv2.setNumThreads(1)  # as in load_detector, for a process that loads this alone
    networks: list[Network] = []
    for stage in ("pnet", "rnet", "onet"):
        # Calls side by side use the cores better than threads inside a call of so small a network,
        # where only the large layers gain.
        network = open_network(folder / f"{stage}.onnx", provider="cpu", threads=1)
        if network.metadata.get("name") != f"mtcnn-{stage}" or "version" not in network.metadata:
            raise ModelError(f"{folder / stage}.onnx is not MTCNN's {stage}: its metadata differs")
        networks.append(network)
    versions = {network.metadata["version"] for network in networks}
    if len(versions) != 1:
        raise ModelError(f"the networks in {folder} are of different versions: {sorted(versions)}")
    nms_operator()  # so that what is wrong with it is told now
    digest = hashlib.sha256("".join(network.digest for network in networks).encode()).hexdigest()
    pnet, rnet, onet = (network.session for network in networks)
    return Cascade(
        pnet,
        rnet,
        onet,
        info=ModelInfo(name="mtcnn", version=versions.pop(), digest=digest[:16]),
        pyramid=pyramid,
        thresholds=thresholds,
        alike=alike,
        sampler=sampler or partial(AreaSampler, memory=TableMemory()),
    )


class FaceDetector:
    """Finds faces in batches of pictures. Made by ``load_detector``; holds no state of a feed.

    Groups of pictures go through the cascade side by side, one core each: inside one picture's
    steps two threads wait for each other more than they gain. Several threads may call at once.
    """

    def __init__(self, cascade: Cascade, cores: Cores, pool: DetectionPool | None = None) -> None:
        """``pool``: where pictures are searched for faces; None: in our own process."""
        self.info = cascade.info
        self._cascade = cascade
        self._pool = pool
        self._likely = cascade.thresholds[0]
        self._cores = cores

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """The faces of each picture: one result for each, in the order given, best face first.

        ``images``: RGB, uint8, (height, width, 3), of any sizes; one smaller than the smallest face
        has none.

        Raises:
            ValueError: a picture has another shape or type.
            ModelError, RuntimeError: as ``DetectionPool.detect``, where there is one.
        """
        check_pictures(images)
        return self._detect(images, self._likely)

    def glance(self, images: Sequence[Image]) -> list[Detections]:
        """As :meth:`detect`, but only the likeliest candidates are looked at: a third."""
        check_pictures(images)
        return self._detect(images, max(self._likely, _LIKELY))

    def _detect(self, images: Sequence[Image], likely: float) -> list[Detections]:
        """``likely``: the P-Net's threshold."""
        results = [Detections.none()] * len(images)
        large = [
            i for i, image in enumerate(images) if self._cascade.pyramid.scales(*image.shape[:2])
        ]
        chosen = [images[i] for i in large]
        sizes = [image.shape[0] * image.shape[1] for image in chosen]
        searching = self._pool or self._cascade
        found = self._cores.map(
            lambda some: searching.detect(chosen[some], likely), runs(sizes, _PIXELS_TOGETHER)
        )
        for i, faces in zip(large, (faces for group in found for faces in group), strict=True):
            results[i] = faces
        return results

    def follow(self, images: Sequence[Image], boxes: Sequence[Floats]) -> list[Detections]:
        """The faces that the O-Net alone sees where faces should be.

        With the R-Net before it, fewer of the faces that ``detect`` finds are found, and their
        boxes are no better.

        Args:
            images: as for :meth:`detect`.
            boxes: for each picture (N, 4), where its known faces should be now; a box that is not
                finite, has no extent or lies outside the picture gives no face.

        Returns:
            The faces of each picture, in the order given, best face first. A box gives one face at
            most, and of faces that overlap too much only the best one stays, as in :meth:`detect`.

        Raises:
            ValueError: a picture has another shape or type, or the lists differ in length.
        """
        if len(images) != len(boxes):
            raise ValueError(f"there are {len(images)} pictures, and boxes for {len(boxes)}")
        check_pictures(images)
        found = self._cores.map(
            lambda some: self._cascade.follow(images[some], boxes[some]),
            runs([len(known) for known in boxes], _FACES_TOGETHER),
        )
        return [faces for group in found for faces in group]


Detector = FaceDetector | GraphDetector


def runs(sizes: Sequence[int], most: int = _PIXELS_AT_ONCE) -> Iterator[slice]:
    """Cut a list of pictures into runs of at most ``most`` pixels or faces, one picture at least.

    ``sizes``: how many each has.
    """
    start = taken = 0
    for i, size in enumerate(sizes):
        if i > start and taken + size > most:
            yield slice(start, i)
            start, taken = i, 0
        taken += size
    if sizes:
        yield slice(start, len(sizes))
