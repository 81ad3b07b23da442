"""Crops cut on a GPU, out of the pictures that the detector has sent there.

``worker.emotion.align.crop_faces`` is the reference: pixels are the same but for one level of 256
where rounding differs. What crop.onnx does is said in training/export_crop.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.device import Device, Tables
from worker.emotion.align import CHANNELS, Colour, square_around
from worker.errors import ModelError
from worker.inference import open_network
from worker.records import Floats, Image

CROP_GRAPH = Path(__file__).with_name("crop.onnx")

_MIX: dict[Colour, Floats] = {
    "gray": np.array([[0.299], [0.587], [0.114]], np.float32),
    "rgb": np.eye(3, dtype=np.float32),
}
"""(3, C): what red, green and blue count in each channel, by ITU-R BT.601."""

_PIXELS_A_CALL = 2**18
"""Of crops that are cut at once: each takes some 500 bytes of memory meanwhile."""


def load_device_cropper(device: Device, path: Path = CROP_GRAPH) -> DeviceCropper:
    """
    Raises:
        ModelError: the file is missing, corrupt, or another graph.
        SettingsError: the device's provider cannot be had any more.
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
    ) -> Image:
        """(N, size, size, C) uint8: a crop for each box, those of the first picture first.

        Args:
            images: as ``crop_faces`` takes them; those that are not on the device are sent there.
            boxes: for each picture (N, 4).
            size, margin, colour: as for ``crop_faces``.

        Raises:
            ModelError: the device's memory does not hold one picture and its crops.
        """
        squares = [
            [
                square_around(box, margin, *image.shape[:2]) or (0, 0, 0)
                for box in some.astype(np.float64)
            ]
            for image, some in zip(images, boxes, strict=True)
        ]

        def cut(some: Sequence[int]) -> list[Image]:
            """The crops of each of some pictures of one size."""
            by_tables: dict[Tables, list[tuple[int, int]]] = defaultdict(list)
            for i, place in zip(some, self._device.locate([images[i] for i in some]), strict=True):
                by_tables[place.tables].append((i, place.row))
            found: dict[int, Image] = {}
            for tables, mine in by_tables.items():
                faces = [(row, *square) for i, row in mine for square in squares[i]]
                crops = self._cut(tables, np.array(faces, np.int64), size, _MIX[colour])
                ends = np.cumsum([len(squares[i]) for i, _ in mine])
                found.update(zip((i for i, _ in mine), np.split(crops, ends[:-1]), strict=True))
            return [found[i] for i in some]

        with_faces = [i for i, some in enumerate(squares) if some]
        crops = self._device.in_batches(images, with_faces, cut)
        none = np.zeros((0, size, size, CHANNELS[colour]), np.uint8)
        return np.concatenate([none, *(crops[i] for i in with_faces)])

    def _cut(self, tables: Tables, faces: npt.NDArray[np.int64], size: int, mix: Floats) -> Image:
        """(N, size, size, C): ``faces`` (N, 4) are a row of the tables, left, top, side."""
        together = max(1, _PIXELS_A_CALL // size**2)
        crops = []
        for start in range(0, len(faces), together):
            some = faces[start : start + together]
            # Few shapes here, too: what has no side fills up to a power of two.
            room = 2 ** (len(some) - 1).bit_length()
            pictures, squares = np.zeros(room, np.int64), np.zeros((room, 3), np.int64)
            pictures[: len(some)], squares[: len(some)] = some[:, 0], some[:, 1:]
            inputs = {
                "pictures": pictures,
                "squares": squares,
                "side": np.array(size, np.int64),
                "mix": mix,
            }
            found = self._device.run(self._graph, {**tables.inputs, **inputs})["crops"]
            crops.append(found.numpy()[: len(some)])
        return np.concatenate(crops)
