"""A frame's picture, decoded as finely as those who look at it need.

A JPEG is decoded at half its size in less than half the time: its decoder transforms fewer
frequencies, and what is written is a quarter. That is enough to see what moves, for a glance at
large faces, and for large faces that are known; the rest needs the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from worker.records import Image

_NETWORKS_SIDE = 48
"""Side of a face, in pixels, as the O-Net and the classifier take it: more would be shrunk."""


class FramePicture:
    """A picture at two sizes; each is made when it is first asked for.

    Which one serves whom goes by the frame and the faces alone, never by what happens to be decoded
    already: the same frames give the same faces.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        whole: Image | None = None,
        half: Image | None = None,
        decode: Callable[[], Image] | None = None,
    ) -> None:
        """
        Args:
            height, width: of the whole picture.
            whole: the picture, RGB, uint8, (height, width, 3); or ``half`` and ``decode``.
            half: the same with both sides halved, rounded up.
            decode: makes the whole picture.
        """
        self.height, self.width = height, width
        self.cheap_half = half is not None
        """Whether the half costs less than the whole: there is use for it alone."""
        self._whole, self._half, self._decode = whole, half, decode

    @classmethod
    def of(cls, image: Image) -> FramePicture:
        """A picture that is there."""
        return cls(*image.shape[:2], whole=image)

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def whole(self) -> Image:
        """(height, width, 3), RGB.

        Raises:
            EntryError: it cannot be decoded.
        """
        if self._whole is None:
            assert self._decode is not None
            self._whole = self._decode()
        return self._whole

    @property
    def half(self) -> Image:
        """The same with both sides halved, rounded up."""
        if self._half is None:
            self._half = _halved(self.whole)
        return self._half

    @property
    def first(self) -> Image:
        """The cheapest one, and which is the same size for all frames of a feed."""
        return self.half if self.cheap_half else self.whole

    def scale_for(self, boxes: npt.NDArray[np.floating], side: float = _NETWORKS_SIDE) -> int:
        """How much smaller, 2 or 1, the picture can be for faces to be looked at, (N, 4).

        ``side``: of the longer side of each face, so many pixels must be left.
        """
        if not self.cheap_half:
            return 1
        longer = np.max(boxes[:, 2:] - boxes[:, :2], axis=1, initial=0)
        return 2 if np.all(longer >= 2 * side) else 1

    def at(self, scale: int) -> Image:
        """So much smaller: 1 or 2."""
        return self.half if scale == 2 else self.whole


def _halved(image: Image) -> Image:
    if not image.size:
        return image
    # A line or column more, not less, where the size is odd: its last pixel counts whole.
    height, width = ((side + 1) // 2 for side in image.shape[:2])
    half: Image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return half
