"""Crops on a GPU: cut there out of the pictures that the detector has sent there, and judged there.

``worker.emotion.align.crop_faces`` and ``worker.emotion.quality.sharpness`` are the references:
pixels are the same but for one level of 256 where rounding differs. What the graphs crop.onnx and
sharpness.onnx do is said in training/export_crop.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.binding import Rows, rounded
from worker.device import Device, Tables
from worker.emotion.align import Colour, Form, square_around
from worker.emotion.crops import Boxes, Crops
from worker.emotion.quality import JUDGED, Sharpness
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
"""Of crops that are cut at once: each takes some 500 bytes of memory meanwhile."""

Groups = dict[Tables, dict[int, int]]
"""Where pictures are on the device: by table, the row of each picture's index."""


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

    has_searched = True

    def __init__(
        self, device: Device, crop: ort.InferenceSession, sharpness: ort.InferenceSession
    ) -> None:
        """``crop``, ``sharpness``: the graphs, opened on the device."""
        self._device = device
        self._crop = crop
        self._sharpness = sharpness

    def cut(self, images: Sequence[Image], boxes: Sequence[Boxes], form: Form) -> Crops:
        """See ``Cropper``. Images that are not on the device are sent there."""
        counts = [len(some) for some in boxes]
        pixels = self._device.new_crops(sum(counts), *form.shape)
        filled = 0

        def add(some: Sequence[int]) -> list[tuple[npt.NDArray[np.int64], Sharpness]]:
            """Cut the faces of some pictures of one size; for each its rows, and how sharp."""
            nonlocal filled
            groups: Groups = defaultdict(dict)
            for i, place in zip(some, self._device.locate([images[i] for i in some]), strict=True):
                groups[place.tables][i] = place.row
            count = sum(counts[i] for i in some)
            mine = judged = pixels[filled : filled + count]
            self._fill(mine, form, groups, images, boxes)
            if form != JUDGED:
                judged = Rows.new(self._device.kind, count, *JUDGED.shape)
                self._fill(judged, JUDGED, groups, images, boxes)
            order = [i for group in groups.values() for i in group]
            ends = np.cumsum([counts[i] for i in order])[:-1]
            rows = dict(zip(order, np.split(filled + np.arange(count), ends), strict=True))
            sharp = dict(zip(order, np.split(self._judge(judged), ends), strict=True))
            filled += count
            return [(rows[i], sharp[i]) for i in some]

        with_faces = [i for i, count in enumerate(counts) if count]
        found = self._device.in_batches(images, with_faces, add)
        rows = [np.zeros(0, np.int64), *(found[i][0] for i in with_faces)]
        sharp = [np.zeros(0), *(found[i][1] for i in with_faces)]
        return Crops(pixels, np.concatenate(rows), np.concatenate(sharp))

    def _fill(
        self,
        crops: Rows,
        form: Form,
        groups: Groups,
        images: Sequence[Image],
        boxes: Sequence[Boxes],
    ) -> None:
        """With the crops of the faces of each group's pictures, one group after the other.

        Rows behind them are overwritten, too.
        """
        together = _together(form.size)
        for tables, group in groups.items():
            faces = np.array(
                [
                    (row, *(square_around(box, form.margin, *images[i].shape[:2]) or (0, 0, 0)))
                    for i, row in group.items()
                    for box in boxes[i].astype(np.float64)
                ],
                np.int64,
            )
            for start in range(0, len(faces), together):
                some = faces[start : start + together]
                # What has no side fills up.
                given = np.zeros((rounded(len(some)), 4), np.int64)
                given[: len(some)] = some
                inputs = {
                    "pictures": given[:, 0].copy(),
                    "squares": given[:, 1:].copy(),
                    "side": np.array(form.size, np.int64),
                    "mix": _MIX[form.colour],
                }
                into = {"crops": crops[: len(some)].padded()}
                self._device.run(self._crop, {**tables.inputs, **inputs}, into)
                crops = crops[len(some) :]

    def _judge(self, crops: Rows) -> Sharpness:
        """(N,): of crops as JUDGED says."""
        found = []
        together = _together(JUDGED.size)
        for start in range(0, len(crops), together):
            some = crops[start : start + together]
            said = self._device.run(self._sharpness, {"crops": some.padded()})["sharpness"]
            found.append(said.numpy()[: len(some)].astype(np.float64))
        return np.concatenate(found)


def _together(size: int) -> int:
    """How many crops are cut at once, a power of two."""
    return 1 << max(0, (_PIXELS_A_CALL // size**2).bit_length() - 1)
