"""The faces of a batch as the classifier takes them; cut here, or by worker/emotion/ongraph.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from worker.binding import Rows
from worker.cores import Cores
from worker.emotion.align import Form, crop_faces
from worker.emotion.quality import JUDGED, Sharpness, sharpness
from worker.records import Floats, Image

Boxes = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Crops:
    """N faces; those of the first picture are the first."""

    pixels: Image | Rows
    """(N, size, size, C) uint8, in an order of their own; those on a device stay there."""
    rows: npt.NDArray[np.int64]
    """(N,): which of ``pixels`` is each face's."""
    sharpness: Sharpness
    """Of each face."""

    def classified(self, classify: Callable[[Image | Rows], Floats]) -> Floats:
        """(N, labels): what it says of each face."""
        return classify(self.pixels)[self.rows]


class Cropper(Protocol):
    """Cuts faces out of pictures, and measures how sharp they are."""

    @property
    def has_searched(self) -> bool:
        """Whether a picture that was searched for faces is where it cuts already, as a whole."""
        ...

    def cut(self, images: Sequence[Image], boxes: Sequence[Boxes], form: Form) -> Crops:
        """
        Args:
            images: as ``crop_faces`` takes them.
            boxes: for each picture (n, 4).

        Raises:
            ModelError: on a device, if its memory does not hold one picture or the crops.
        """
        ...


class HostCropper:
    """The ``Cropper`` on these cores."""

    has_searched = False

    def __init__(self, cores: Cores) -> None:
        self._cores = cores

    def cut(self, images: Sequence[Image], boxes: Sequence[Boxes], form: Form) -> Crops:
        def crop(form: Form) -> Image:
            def one(view: tuple[Image, Boxes]) -> Image:
                return crop_faces(*view, **form._asdict())

            views = zip(images, boxes, strict=True)
            return np.concatenate(
                [np.zeros((0, *form.shape), np.uint8), *self._cores.map(one, views)]
            )

        pixels = crop(form)
        judged = pixels if form == JUDGED else crop(JUDGED)
        return Crops(pixels, np.arange(len(pixels)), sharpness(judged))
