"""The faces of a batch as the classifier takes them; cut here, or by worker/emotion/ongraph.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from worker.binding import Rows
from worker.cores import Cores
from worker.emotion.align import CHANNELS, Colour, crop_faces
from worker.emotion.quality import JUDGED_COLOUR, JUDGED_SIZE, sharpness
from worker.records import Image

Boxes = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Crops:
    """N faces, those of the first picture first."""

    pixels: Image | Rows
    """(N, size, size, C) uint8, in an order of their own; those on a device stay there."""
    rows: npt.NDArray[np.int64]
    """(N,): which of them is each face's."""
    sharpness: npt.NDArray[np.float64]
    """(N,): of each face; see worker/emotion/quality.py."""


class Cropper(Protocol):
    """Cuts faces out of pictures, and measures how sharp they are."""

    def cut(
        self,
        images: Sequence[Image],
        boxes: Sequence[Boxes],
        *,
        size: int,
        margin: float,
        colour: Colour,
    ) -> Crops:
        """
        Args:
            images: as ``crop_faces`` takes them.
            boxes: for each picture (n, 4).
            size, margin, colour: as for ``crop_faces``.

        Raises:
            ModelError: on a device, if its memory does not hold one picture and its crops.
        """
        ...


class HostCropper:
    """The ``Cropper`` on these cores."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores

    def cut(
        self,
        images: Sequence[Image],
        boxes: Sequence[Boxes],
        *,
        size: int,
        margin: float,
        colour: Colour,
    ) -> Crops:
        def crop(size: int, colour: Colour) -> Image:
            def one(view: tuple[Image, Boxes]) -> Image:
                return crop_faces(*view, size=size, margin=margin, colour=colour)

            none = np.zeros((0, size, size, CHANNELS[colour]), np.uint8)
            return np.concatenate([none, *self._cores.map(one, zip(images, boxes, strict=True))])

        pixels = judged = crop(size, colour)
        if (size, colour) != (JUDGED_SIZE, JUDGED_COLOUR):
            judged = crop(JUDGED_SIZE, JUDGED_COLOUR)
        return Crops(pixels, np.arange(len(pixels)), sharpness(judged))
