"""MTCNN with its steps inside ONNX graphs, for a GPU: pictures go in, and only faces come back.

worker/detect/mtcnn.py is the reference, and on a CPU the faster one. The four graphs in graphs/
(training/export_graph.py says what is in them) do its steps, and this module runs one after the
other; what passes between them stays on the device (IO binding).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.binding import Inputs
from worker.detect.boxes import sides, square
from worker.detect.propose import Pyramid
from worker.device import Device, Tables
from worker.errors import ModelError
from worker.inference import open_network
from worker.records import Detections, Floats, Image, ModelInfo, Provider

_STEPS = ("scan", "refine", "decide")


def load_graph_detector(
    *,
    pyramid: Pyramid,
    thresholds: tuple[float, float, float],
    provider: Provider,
    engine_cache: Path | None = None,
    folder: Path = Path(__file__).parent / "graphs",
) -> GraphDetector:
    """Open the four graphs.

    Args:
        pyramid: the levels in which faces are looked for.
        thresholds: probability that a candidate needs to pass the P-, R- and O-Net.
        provider: where the graphs run.
        engine_cache: where TensorRT keeps what it has built; None for the user's cache folder.
        folder: where the graphs are.

    Raises:
        SettingsError: the provider cannot be had.
        ModelError: a file is missing, corrupt, or not one of the graphs.
    """
    networks = {}
    for step in ("table", *_STEPS):
        path = folder / f"{step}.onnx"
        network = open_network(path, provider=provider, engine_cache=engine_cache)
        if network.metadata.get("name") != f"mtcnn-{step}" or "version" not in network.metadata:
            raise ModelError(f"{path} is not MTCNN's graph {step}: its metadata differs")
        networks[step] = network
    versions = {network.metadata["version"] for network in networks.values()}
    if len(versions) != 1:
        raise ModelError(f"the graphs in {folder} are of different versions: {sorted(versions)}")
    digests = "".join(network.digest for network in networks.values())
    digest = hashlib.sha256(digests.encode()).hexdigest()[:16]
    return GraphDetector(
        Device(networks["table"]),
        {step: networks[step].session for step in _STEPS},
        info=ModelInfo(name="mtcnn", version=versions.pop(), digest=digest),
        pyramid=pyramid,
        thresholds=thresholds,
    )


class GraphDetector:
    """Finds faces in batches of pictures, as ``worker.detect.mtcnn.FaceDetector`` does.

    Pictures of one size go together, and are held on the device for later steps. Several threads
    may call at once.
    """

    def __init__(
        self,
        device: Device,
        sessions: Mapping[str, ort.InferenceSession],
        *,
        info: ModelInfo,
        pyramid: Pyramid,
        thresholds: tuple[float, float, float],
    ) -> None:
        """
        Args:
            device: where the graphs run.
            sessions: those of the graphs after the table's, by their names.
        """
        self.info = info
        self.device = device
        self._sessions = sessions
        self._pyramid = pyramid
        self._thresholds = [np.array(threshold, np.float32) for threshold in thresholds]

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """The faces of each picture: one result for each, in the order given, best face first.

        ``images``: RGB, uint8, (height, width, 3), of any sizes; one smaller than the smallest face
        has none.

        Raises:
            ValueError: a picture has another shape or type.
            ModelError: the device's memory does not hold one picture.
        """

        def find(some: Sequence[int]) -> list[Detections]:
            return self.detect_in(self.device.hold([images[i] for i in some]))[: len(some)]

        check_pictures(images)
        large = [i for i, image in enumerate(images) if self._pyramid.scales(*image.shape[:2])]
        found = self.device.in_batches(images, large, find)
        return [found.get(i, Detections.none()) for i in range(len(images))]

    def glance(self, images: Sequence[Image]) -> list[Detections]:
        """As :meth:`detect`: looking at fewer candidates gains little here."""
        return self.detect(images)

    def follow(self, images: Sequence[Image], boxes: Sequence[Floats]) -> list[Detections]:
        """The faces that the O-Net alone sees where faces should be, as ``FaceDetector.follow``.

        Args:
            images: as for :meth:`detect`.
            boxes: for each picture (N, 4), where its known faces should be now; a box that is not
                finite, has no extent or lies outside the picture gives no face.

        Returns:
            The faces of each picture, in the order given, best face first.

        Raises:
            ValueError: a picture has another shape or type, or the lists differ in length.
            ModelError: the device's memory does not hold one picture.
        """

        def find(some: Sequence[int]) -> list[Detections]:
            tables = self.device.hold([images[i] for i in some])
            # Few shapes here, too.
            room = 2 ** max(len(boxes[i]) for i in some).bit_length()
            squares = np.zeros((tables.batch, room, 4), np.float32)
            there = np.zeros((tables.batch, room), np.float32)
            for row, i in enumerate(some):
                known = boxes[i].astype(np.float32, copy=False).reshape(-1, 4)
                across, down = sides(known)
                usable = np.isfinite(known).all(axis=1) & (across > 0) & (down > 0)
                squares[row, np.flatnonzero(usable)] = square(known[usable])
                there[row, : len(known)] = usable
            return self._decide(tables, {"boxes": squares, "scores": there})[: len(some)]

        if len(images) != len(boxes):
            raise ValueError(f"there are {len(images)} pictures, and boxes for {len(boxes)}")
        check_pictures(images)
        some = [i for i, known in enumerate(boxes) if len(known)]
        found = self.device.in_batches(images, some, find)
        return [found.get(i, Detections.none()) for i in range(len(images))]

    def detect_in(self, tables: Tables) -> list[Detections]:
        """The faces in pictures that are on the device, large enough for a level.

        Raises:
            Exception: of onnxruntime; where memory does not suffice, it says so in words only.
        """
        height, width = tables.size.tolist()
        # One that is none: not every provider takes an empty tensor.
        candidates: ort.OrtValue | npt.NDArray[np.generic] = np.zeros(
            (tables.batch, 1, 9), np.float32
        )
        for scale in self._pyramid.scales(height, width):
            level = {
                "shape": np.array([int(height * scale + 1), int(width * scale + 1)], np.int64),
                "scale": np.array(scale, np.float32),
                "threshold": self._thresholds[0],
                "before": candidates,
            }
            candidates = self._run("scan", tables, level)["after"]
        given = {"candidates": candidates, "threshold": self._thresholds[1]}
        return self._decide(tables, self._run("refine", tables, given))

    def _decide(self, tables: Tables, boxes: Inputs) -> list[Detections]:
        """The O-Net on ``boxes`` and ``scores``; then faces leave the device."""
        given = {**boxes, "threshold": self._thresholds[2]}
        found = self._run("decide", tables, given)["faces"].numpy()
        results = []
        for faces in found:
            faces = faces[faces[:, 0] > 0]
            landmarks = faces[:, 5:].reshape(-1, 5, 2)
            results.append(Detections(faces[:, 1:5], faces[:, 0], landmarks))
        return results

    def _run(self, step: str, tables: Tables, inputs: Inputs) -> dict[str, ort.OrtValue]:
        return self.device.run(self._sessions[step], {**tables.inputs, **inputs})


def check_pictures(images: Sequence[Image]) -> None:
    """
    Raises:
        ValueError: one is no RGB picture, uint8 (height, width, 3).
    """
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"a picture is uint8 (height, width, 3), not {image.dtype} {image.shape}"
            )
