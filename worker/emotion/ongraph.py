"""Crops on a GPU: cut there out of the pictures that the detector has sent there, and judged there.

``worker.emotion.align.crop_faces`` and ``worker.emotion.quality.sharpness`` are the references:
pixels are the same but for one level of 256 where rounding differs. What the graphs crop.onnx and
sharpness.onnx do is said in training/export_crop.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.binding import Rows
from worker.device import Device, Tables
from worker.emotion.align import CHANNELS, Colour, square_around
from worker.emotion.crops import Boxes, Crops
from worker.emotion.quality import JUDGED_COLOUR, JUDGED_SIZE
from worker.errors import ModelError
from worker.inference import open_network
from worker.records import Floats, Image

GRAPHS = Path(__file__).parent

_MIX: dict[Colour, Floats] = {
    "gray": np.array([[0.299], [0.587], [0.114]], np.float32),
    "rgb": np.eye(3, dtype=np.float32),
}
"""(3, C): what red, green and blue count in each channel, by ITU-R BT.601."""

_PIXELS_A_CALL = 2**18
"""Of crops that are cut or judged at once: each takes some 500 bytes of memory meanwhile."""


def load_device_cropper(device: Device, folder: Path = GRAPHS) -> DeviceCropper:
    """
    Raises:
        ModelError: a file is missing, corrupt, or another graph.
        SettingsError: the device's provider cannot be had any more.
    """
    graphs = []
    for name in ("crop", "sharpness"):
        path = folder / f"{name}.onnx"
        # No network is in them that TensorRT would make faster.
        network = open_network(path, provider=device.kind)
        if network.metadata.get("name") != name:
            raise ModelError(f"{path} is not the graph {name}: its metadata differs")
        graphs.append(network.session)
    return DeviceCropper(device, *graphs)


class DeviceCropper:
    """The ``Cropper`` on a device. Several threads may call at once."""

    def __init__(
        self, device: Device, crop: ort.InferenceSession, sharpness: ort.InferenceSession
    ) -> None:
        """``crop``, ``sharpness``: the graphs, opened on the device."""
        self._device = device
        self._crop = crop
        self._sharpness = sharpness

    def cut(
        self,
        images: Sequence[Image],
        boxes: Sequence[Boxes],
        *,
        size: int,
        margin: float,
        colour: Colour,
    ) -> Crops:
        """See ``Cropper``. Images that are not on the device are sent there.

        The array of the crops has room for as many again.
        """
        pixels, rows = judged, there = self._crops(images, boxes, size, margin, colour)
        if (size, colour) != (JUDGED_SIZE, JUDGED_COLOUR):
            judged, there = self._crops(images, boxes, JUDGED_SIZE, margin, JUDGED_COLOUR)
        return Crops(pixels, rows, self._judge(judged)[there])

    def _crops(
        self,
        images: Sequence[Image],
        boxes: Sequence[Boxes],
        size: int,
        margin: float,
        colour: Colour,
    ) -> tuple[Rows, npt.NDArray[np.int64]]:
        """The crops, and which of them is each box's."""
        squares = [
            [
                square_around(box, margin, *image.shape[:2]) or (0, 0, 0)
                for box in some.astype(np.float64)
            ]
            for image, some in zip(images, boxes, strict=True)
        ]
        total = sum(len(some) for some in squares)
        crops = Rows.room(self._device.kind, 0, size, size, CHANNELS[colour])

        def add(some: Sequence[int]) -> list[npt.NDArray[np.int64]]:
            """Add the crops of some pictures of one size; the rows of each."""
            nonlocal crops
            if not crops.count:
                crops = Rows.room(self._device.kind, 2 * total, *crops.shape[1:])
            by_tables: dict[Tables, list[tuple[int, int]]] = defaultdict(list)
            for i, place in zip(some, self._device.locate([images[i] for i in some]), strict=True):
                by_tables[place.tables].append((i, place.row))
            rows, first = {}, crops.count
            for tables, mine in by_tables.items():
                faces = [(row, *square) for i, row in mine for square in squares[i]]
                self._put(tables, np.array(faces, np.int64), crops, first, _MIX[colour])
                for i, _ in mine:
                    rows[i] = np.arange(first, first + len(squares[i]))
                    first += len(squares[i])
            crops = crops.at(0, first)
            return [rows[i] for i in some]

        with_faces = [i for i, some in enumerate(squares) if some]
        rows = self._device.in_batches(images, with_faces, add)
        return crops, np.concatenate([np.zeros(0, np.int64), *(rows[i] for i in with_faces)])

    def _judge(self, crops: Rows) -> npt.NDArray[np.float64]:
        """(N,): their sharpness."""
        found = [np.zeros(0)]
        for start, count, room in _calls(len(crops), crops.shape[1]):
            given = {"crops": crops.at(start, room)}
            said = self._device.run(self._sharpness, given)["sharpness"].numpy()
            found.append(said[:count].astype(np.float64))
        return np.concatenate(found)

    def _put(
        self, tables: Tables, faces: npt.NDArray[np.int64], crops: Rows, first: int, mix: Floats
    ) -> None:
        """Put there, from row ``first`` on: ``faces`` (N, 4) are a picture's row, left, top, side.

        The rows behind them may be overwritten, too.
        """
        size = crops.shape[1]
        for start, count, room in _calls(len(faces), size):
            pictures, squares = np.zeros(room, np.int64), np.zeros((room, 3), np.int64)
            some = faces[start : start + count]
            pictures[:count], squares[:count] = some[:, 0], some[:, 1:]
            inputs = {
                "pictures": pictures,
                "squares": squares,
                "side": np.array(size, np.int64),
                "mix": mix,
            }
            into = {"crops": crops.at(first + start, room)}
            self._device.run(self._crop, {**tables.inputs, **inputs}, into)


def _calls(faces: int, size: int) -> Iterator[tuple[int, int, int]]:
    """First, number, and number rounded up to a power of two, of the crops of each call.

    The runtime is to meet few shapes.
    """
    together = max(1, _PIXELS_A_CALL // size**2)
    for start in range(0, faces, together):
        count = min(together, faces - start)
        yield start, count, 2 ** (count - 1).bit_length()
