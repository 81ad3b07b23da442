"""MTCNN with its steps inside ONNX graphs, for a GPU: pictures go in, and only faces come back.

worker/detect/mtcnn.py is the reference, and on a CPU the faster one. The four graphs in graphs/
(training/export_graph.py says what is in them) do its steps, and this module runs one after the
other; what passes between them stays on the device (IO binding).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.detect.boxes import sides, square
from worker.detect.propose import Pyramid
from worker.errors import ModelError
from worker.inference import open_network
from worker.records import Detections, Floats, Image, ModelInfo, Provider

Ints = npt.NDArray[np.int64]

_STEPS = ("table", "scan", "refine", "decide")

_FRAMES_AT_ONCE = 16
"""Pictures that go through the graphs together; a power of two."""

_NO_MEMORY = ("failed to allocate memory", "out of memory", "smaller than requested bytes")
"""What onnxruntime's errors say where the device's memory is full; they have no type for it."""

Inputs = Mapping[str, ort.OrtValue | npt.NDArray[np.generic]]


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
    for step in _STEPS:
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
        {step: network.session for step, network in networks.items()},
        info=ModelInfo(name="mtcnn", version=versions.pop(), digest=digest),
        pyramid=pyramid,
        thresholds=thresholds,
    )


class GraphDetector:
    """Finds faces in batches of pictures, as ``worker.detect.mtcnn.FaceDetector`` does.

    Pictures of one size go together; empty ones fill up a batch to a power of two, so that the
    runtime meets few shapes. Where the device's memory does not suffice, batches are halved, for
    good. Several threads may call at once.
    """

    def __init__(
        self,
        sessions: Mapping[str, ort.InferenceSession],
        *,
        info: ModelInfo,
        pyramid: Pyramid,
        thresholds: tuple[float, float, float],
    ) -> None:
        """``sessions``: those of the four graphs, by their names, all on one device."""
        self.info = info
        self._sessions = sessions
        self._pyramid = pyramid
        self._thresholds = [np.array(threshold, np.float32) for threshold in thresholds]
        on_cpu = sessions["table"].get_providers()[0] == "CPUExecutionProvider"
        self._device = "cpu" if on_cpu else "cuda"
        self._at_once = _FRAMES_AT_ONCE

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        """The faces of each picture: one result for each, in the order given, best face first.

        ``images``: RGB, uint8, (height, width, 3), of any sizes; one smaller than the smallest face
        has none.

        Raises:
            ValueError: a picture has another shape or type.
            ModelError: the device's memory does not hold one picture.
        """

        def find(some: Sequence[int]) -> list[Detections]:
            return self.detect_on_device(self.put([images[i] for i in some]))[: len(some)]

        check_pictures(images)
        large = [i for i, image in enumerate(images) if self._pyramid.scales(*image.shape[:2])]
        found = self._batches(images, large, find)
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
            frames = self.put([images[i] for i in some])
            batch, height, width, _ = frames.shape()
            # Few shapes here, too.
            room = 2 ** max(len(boxes[i]) for i in some).bit_length()
            squares = np.zeros((batch, room, 4), np.float32)
            there = np.zeros((batch, room), np.float32)
            for row, i in enumerate(some):
                known = boxes[i].astype(np.float32, copy=False).reshape(-1, 4)
                across, down = sides(known)
                usable = np.isfinite(known).all(axis=1) & (across > 0) & (down > 0)
                squares[row, np.flatnonzero(usable)] = square(known[usable])
                there[row, : len(known)] = usable
            table = self._run("table", {"frames": frames})["table"]
            size = np.array([height, width], np.int64)
            return self._decide(table, size, {"boxes": squares, "scores": there})[: len(some)]

        if len(images) != len(boxes):
            raise ValueError(f"there are {len(images)} pictures, and boxes for {len(boxes)}")
        check_pictures(images)
        some = [i for i, known in enumerate(boxes) if len(known)]
        found = self._batches(images, some, find)
        return [found.get(i, Detections.none()) for i in range(len(images))]

    def put(self, images: Sequence[Image]) -> ort.OrtValue:
        """Pictures of one size on the device, (batch, height, width, 3), the last ones empty."""
        batch = np.zeros((2 ** (len(images) - 1).bit_length(), *images[0].shape), np.uint8)
        for place, image in zip(batch, images, strict=False):
            place[...] = image
        return ort.OrtValue.ortvalue_from_numpy(batch, self._device, 0)

    def detect_on_device(self, frames: ort.OrtValue) -> list[Detections]:
        """The faces in pictures that :meth:`put` has put there, large enough for a level.

        Raises:
            Exception: of onnxruntime; where memory does not suffice, it says so in words only.
        """
        batch, height, width, _ = frames.shape()
        size = np.array([height, width], np.int64)
        table = self._run("table", {"frames": frames})["table"]
        # One that is none: not every provider takes an empty tensor.
        candidates: ort.OrtValue | npt.NDArray[np.generic] = np.zeros((batch, 1, 9), np.float32)
        for scale in self._pyramid.scales(height, width):
            level = {
                "table": table,
                "size": size,
                "shape": np.array([int(height * scale + 1), int(width * scale + 1)], np.int64),
                "scale": np.array(scale, np.float32),
                "threshold": self._thresholds[0],
                "before": candidates,
            }
            candidates = self._run("scan", level)["after"]
        refined = {"table": table, "size": size, "candidates": candidates}
        boxes = self._run("refine", {**refined, "threshold": self._thresholds[1]})
        return self._decide(table, size, boxes)

    def _decide(self, table: ort.OrtValue, size: Ints, boxes: Inputs) -> list[Detections]:
        """The O-Net on ``boxes`` and ``scores``; then faces leave the device."""
        given = {"table": table, "size": size, **boxes, "threshold": self._thresholds[2]}
        found = self._run("decide", given)["faces"].numpy()
        results = []
        for faces in found:
            faces = faces[faces[:, 0] > 0]
            landmarks = faces[:, 5:].reshape(-1, 5, 2)
            results.append(Detections(faces[:, 1:5], faces[:, 0], landmarks))
        return results

    def _run(self, step: str, inputs: Inputs) -> dict[str, ort.OrtValue]:
        """One graph; its outputs stay on the device."""
        session = self._sessions[step]
        binding = session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, ort.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, value)
        names = [output.name for output in session.get_outputs()]
        for name in names:
            binding.bind_output(name, self._device)
        session.run_with_iobinding(binding)
        return dict(zip(names, binding.get_outputs(), strict=True))

    def _batches(
        self,
        images: Sequence[Image],
        chosen: Sequence[int],
        find: Callable[[Sequence[int]], list[Detections]],
    ) -> dict[int, Detections]:
        """What ``find`` says of the ``chosen`` pictures, given to it in batches of one size."""
        by_size = defaultdict(list)
        for i in chosen:
            by_size[images[i].shape].append(i)
        results: dict[int, Detections] = {}
        for (height, width, _), waiting in by_size.items():
            while waiting:
                some = waiting[: self._at_once]
                try:
                    found = find(some)
                except Exception as error:  # onnxruntime raises a dozen unrelated types here
                    if not any(words in str(error).lower() for words in _NO_MEMORY):
                        raise
                    if len(some) == 1:
                        raise ModelError(
                            f"the device's memory does not hold one picture of {width}x{height}"
                        ) from None
                    half = 2 ** ((len(some) - 1).bit_length() - 1)
                    self._at_once = min(self._at_once, half)
                    continue
                results.update(zip(some, found, strict=True))
                waiting = waiting[len(some) :]
        return results


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
