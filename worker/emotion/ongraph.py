"""Crops cut on a GPU, out of pictures that are there already, for a classifier that is there, too.

``worker.emotion.align.crop_faces`` is the reference: pixels are the same but for one level of 256
where rounding differs. What crop.onnx does is said in training/export_crop.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.device import Device, Place, Tables, short_of_memory
from worker.emotion.align import BLANK, CHANNELS, MIX, Colour, square_around
from worker.errors import ModelError
from worker.inference import open_network
from worker.records import Floats, Image

CROP_GRAPH = Path(__file__).with_name("crop.onnx")

CROPS_A_CALL = 63
"""Faces that the classifier is given at once: a power of two with the empty crop before them."""

_PIXELS_A_CALL = 2**18
"""Of crops that are cut at once: each takes some 300 bytes of memory meanwhile."""

Ints = npt.NDArray[np.int64]

Square = tuple[int, int, int]
"""Left, top and side, in pixels."""

_NO_SQUARE: Square = (0, 0, 0)
"""The graph makes mid-grey of it."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceCrops:
    """N crops on a device, as ``crop_faces`` gives them; ``np.asarray`` brings them here."""

    device: Device
    shape: tuple[int, int, int, int]
    """(N, size, size, channels)"""
    calls: tuple[tuple[ort.OrtValue, Ints], ...]
    """For each call of the classifier its crops, (m, size, size, channels) uint8, m a power of two,
    and which of them are the next of the N."""

    dtype: ClassVar = np.dtype(np.uint8)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        crops = [np.zeros((0, *self.shape[1:]), np.uint8)]
        crops += [value.numpy()[rows] for value, rows in self.calls]
        return np.asarray(np.concatenate(crops), dtype)


def load_device_cropper(device: Device, path: Path = CROP_GRAPH) -> DeviceCropper:
    """
    Raises:
        ModelError: the file is missing, corrupt, or another graph.
    """
    # No network is in it that TensorRT would make faster.
    network = open_network(path, provider=device.kind)
    if network.metadata.get("name") != "crop":
        raise ModelError(f"{path} is not the graph that cuts crops: its metadata differs")
    return DeviceCropper(device, network.session)


class DeviceCropper:
    """Cuts faces out of pictures on a device. Several threads may call at once."""

    def __init__(self, device: Device, graph: ort.InferenceSession) -> None:
        """``graph``: crop.onnx, opened on the device."""
        self._device = device
        self._graph = graph

    def crop(
        self,
        images: Sequence[Image],
        boxes: Sequence[npt.NDArray[np.floating]],
        *,
        size: int,
        margin: float,
        colour: Colour,
    ) -> DeviceCrops:
        """One crop for each box: those of the first picture, then those of the next, and so on.

        Args:
            images: as ``crop_faces`` takes them; those that are not on the device are sent there.
            boxes: for each picture (N, 4).
            size, margin, colour: as for ``crop_faces``.

        Raises:
            ModelError: the device's memory does not hold one picture.
            Exception: of onnxruntime, also where memory does not suffice for the crops.
        """
        shown = [(image, some) for image, some in zip(images, boxes, strict=True) if len(some)]
        squares = [
            [square_around(box, margin, *image.shape[:2]) or _NO_SQUARE for box in some]
            for image, some in ((image, some.astype(np.float64)) for image, some in shown)
        ]

        def cut() -> DeviceCrops:
            places = self._device.places([image for image, _ in shown])
            faces = [
                (p, square) for p, some in zip(places, squares, strict=True) for square in some
            ]
            calls = [
                self._cut(faces[start : start + CROPS_A_CALL], size, MIX[colour])
                for start in range(0, len(faces), CROPS_A_CALL)
            ]
            shape = len(faces), size, size, CHANNELS[colour]
            return DeviceCrops(self._device, shape, tuple(calls))

        try:
            return cut()
        except Exception as error:  # onnxruntime raises a dozen unrelated types here
            if not short_of_memory(error):
                raise
        # Behind the block above, whose traceback holds on to what is to be freed.
        self._device.forget()
        return cut()

    def _cut(
        self, faces: Sequence[tuple[Place, Square]], size: int, mix: Floats
    ) -> tuple[ort.OrtValue, Ints]:
        """The crops of some faces, after empty ones; and which crop each face has."""
        by_tables: dict[Tables, list[int]] = defaultdict(list)
        for i, (place, _) in enumerate(faces):
            by_tables[place.tables].append(i)
        together = max(1, _PIXELS_A_CALL // size**2)
        empty = 2 ** len(faces).bit_length() - len(faces)
        crops: ort.OrtValue | npt.NDArray[np.uint8]
        crops = np.full((empty, size, size, mix.shape[1]), BLANK, np.uint8)
        rows = np.zeros(len(faces), np.int64)
        done = empty
        for tables, mine in by_tables.items():
            for start in range(0, len(mine), together):
                some = mine[start : start + together]
                given = {
                    "pictures": np.array([faces[i][0].row for i in some], np.int64),
                    "squares": np.array([faces[i][1] for i in some], np.int64),
                    "mix": mix,
                    "before": crops,
                }
                crops = self._device.run(self._graph, {**tables.inputs, **given})["after"]
                rows[some] = np.arange(done, done + len(some))
                done += len(some)
        return crops, rows
