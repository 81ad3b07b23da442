"""A frame's picture, decoded as finely as those who look at it need.

A JPEG is decoded at half its size in less than half the time: its decoder transforms fewer
frequencies, and what is written is a quarter. That is enough to see what moves, for a glance at
large faces, and for large faces that are known; the rest needs the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from worker.records import Image

Scale = Literal[1, 2]
"""By how much a picture's sides are shrunk."""

FOLLOWED_SIDE = 48
"""Side of a face, in pixels, as the network takes it that follows faces: more would be shrunk."""


class FramePicture:
    """A picture, whole and at half its size; each is made when it is first asked for.

    Which one serves which faces goes by the frame and the faces alone, never by what happens to be
    there already. Only what is asked of the whole scene (:meth:`samples`) takes what is there.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        decode: Callable[[Scale], Image] | None = None,
        whole: Image | None = None,
    ) -> None:
        """
        Args:
            height, width: of the whole picture.
            decode: makes the picture, RGB, uint8, (height, width, 3), or half of that rounded up;
                where it is given, half costs less than the whole.
            whole: the whole picture, where there is nothing to decode.
        """
        self.height, self.width = height, width
        self.reducible = decode is not None
        """Whether half costs less than the whole, so that there is use for half alone."""
        self._decode = decode
        self._at: dict[Scale, Image] = {} if whole is None else {1: whole}

    @classmethod
    def of(cls, image: Image) -> FramePicture:
        """A picture that is there."""
        return cls(*image.shape[:2], whole=image)

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def whole(self) -> Image:
        """(height, width, 3), RGB."""
        return self.at(1)

    @property
    def half(self) -> Image:
        """The same with both sides halved, rounded up."""
        return self.at(2)

    @property
    def there(self) -> Image:
        """The smaller of those that have been made; half where none has been."""
        return self.at(2 if 2 in self._at or 1 not in self._at else 1)

    def at(self, scale: Scale) -> Image:
        """Both sides divided by ``scale``, rounded up.

        Raises:
            EntryError: it cannot be decoded.
        """
        if scale not in self._at:
            self._at[scale] = self._decode(scale) if self._decode else _halved(self._at[1])
        return self._at[scale]

    def scale_for(self, side: float, needed: float = FOLLOWED_SIDE) -> Scale:
        """The scale at which faces of at least this side have as many pixels as are needed."""
        return 2 if self.reducible and side >= 2 * needed else 1

    def samples(self, rows: int, columns: int) -> npt.NDArray[np.uint8]:
        """Green, in a regular pattern of as many pixels of half the picture, or a few more.

        All of them where it has less. Of a whole picture that is there it is the mean of the four
        pixels that are one of half's, which a JPEG's half is but for a level or two.
        """
        image = self.there if self.reducible else self.whole
        # A last line or column of a side that is odd is left out; a single one is its own half.
        height, width = (max(1, side // 2) for side in (self.height, self.width))
        step = max(1, min(height // rows, width // columns))
        first = step // 2
        if min(self.height, self.width) < 2 or image.shape[0] < self.height:
            return np.ascontiguousarray(image[first:height:step, first:width:step, 1])
        parts = [
            image[2 * first + y : 2 * height : 2 * step, 2 * first + x : 2 * width : 2 * step, 1]
            for y in (0, 1)
            for x in (0, 1)
        ]
        return np.rint(np.mean(parts, axis=0, dtype=np.float32)).astype(np.uint8)


def smallest(boxes: npt.NDArray[np.floating]) -> float:
    """The longer side of the smallest face, by boxes (N, 4); infinite for none."""
    return float(np.min(np.max(boxes[:, 2:] - boxes[:, :2], axis=1), initial=np.inf))


def _halved(image: Image) -> Image:
    if not image.size:
        return image
    # A line or column more, not less, where the size is odd: its last pixel counts whole.
    height, width = ((side + 1) // 2 for side in image.shape[:2])
    half: Image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return half
