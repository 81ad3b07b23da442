"""Pictures as a worker has them of large JPEGs: either size is made when it is asked for."""

from __future__ import annotations

from worker.picture import FramePicture, Scale
from worker.records import Image


def reducible(image: Image) -> tuple[FramePicture, list[Scale]]:
    """The picture, and a list that tells at which scales it was made."""
    made: list[Scale] = []
    halves = FramePicture.of(image)

    def decode(scale: Scale) -> Image:
        made.append(scale)
        return halves.at(scale)

    return FramePicture(*image.shape[:2], decode=decode), made
