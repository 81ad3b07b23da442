"""The pictures of a measurement: a clip's as JPEGs at a size, and crowds of the sample's face."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from worker.capture.encode import encode_jpeg
from worker.capture.sources import may_come_back, open_source
from worker.demo import sample_clip
from worker.errors import SettingsError, SourceError
from worker.records import Image
from worker.sample.portrait import portrait_with_face

_COLUMNS, _ROWS = 6, 5
MOST_FACES = _COLUMNS * _ROWS
_PORTRAIT, _FACE = 220, 100
"""Side of the portrait, and about that of its face, in pixels."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames of one source, encoded."""

    source: str
    width: int
    height: int
    jpegs: tuple[bytes, ...]
    seconds: tuple[float, ...]
    """When each is shown, from the first one's time on."""

    @property
    def rate(self) -> float:
        """Frames a second, on average; 25 for a single one."""
        return (len(self.jpegs) - 1) / self.seconds[-1] if self.seconds[-1] > 0 else 25.0

    def lasting(self, frames: int) -> Clip:
        """The clip over and over, whole each time, until it has so many frames at least."""
        times = max(1, -(-frames // len(self.jpegs)))
        # From the last frame to the first one of the next time as long as between two, on average.
        lap_s = self.seconds[-1] * len(self.jpegs) / max(1, len(self.jpegs) - 1) or 1.0
        seconds = tuple(lap * lap_s + at for lap in range(times) for at in self.seconds)
        return replace(self, jpegs=times * self.jpegs, seconds=seconds)

    def write(self, folder: Path) -> None:
        """As files whose names sort in the frames' order, for another process."""
        for i, data in enumerate(self.jpegs):
            (folder / f"{i:06}.jpg").write_bytes(data)


def size_of(text: str) -> tuple[int, int]:
    """Width and height of ``1280x720``.

    Raises:
        SettingsError: it is not written so, or out of bounds.
    """
    match = re.fullmatch(r"(\d{2,5})x(\d{2,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if min(size) < 48 or max(size) > 8192:
        raise SettingsError(
            f"--size {text} cannot be used: write WIDTHxHEIGHT, each 48 to 8192, as in 1280x720"
        )
    return size


def load_clip(video: str | None, size: tuple[int, int] | None, count: int) -> Clip:
    """The first ``count`` pictures of a video, or all if it has fewer.

    Args:
        video: None for the sample clip.
        size: scaled to fit into this, its shape kept; None for its own size.

    Raises:
        SourceError: the video cannot be read, or has no pictures.
        SettingsError: it is a camera or a URL, which shows something else each time.
    """
    if video is not None and may_come_back(video):
        raise SettingsError(f"--video {video} is no file: a benchmark must see the same each time")
    with open_source(video or str(sample_clip())) as source:
        some = [
            (fitted(picture.image, size), float(picture.pts * picture.time_base))
            for picture in islice(source.pictures(), count)
        ]
        name = "sample clip" if video is None else source.name
    if not some:
        raise SourceError(f"{video} has no pictures")
    height, width = some[0][0].shape[:2]
    jpegs = tuple(encode_jpeg(image) for image, _ in some)
    return Clip(name, width, height, jpegs, tuple(at for _, at in some))


def fitted(image: Image, size: tuple[int, int] | None) -> Image:
    """The picture as large as fits into ``size`` (width, height)."""
    height, width = image.shape[:2]
    if size is None or (width, height) == size:
        return image
    scale = min(size[0] / width, size[1] / height)
    wanted = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, wanted, interpolation=method), np.uint8)


def crowd(faces: int, size: tuple[int, int], count: int) -> Clip:
    """Pictures with ``faces`` (1 to MOST_FACES) times the sample's face, all swaying a little."""
    width, height = size
    cell_width, cell_height = width // _COLUMNS, height // _ROWS
    side = min(cell_width, cell_height) * 0.9
    portrait = portrait_with_face(int(side * _FACE / _PORTRAIT))
    drawn = portrait.shape[0]
    # From the middle outwards, so that one face is not in a corner.
    cells = sorted(
        ((column, row) for row in range(_ROWS) for column in range(_COLUMNS)),
        key=lambda cell: math.dist(cell, ((_COLUMNS - 1) / 2, (_ROWS - 1) / 2)),
    )
    room = (cell_width - drawn, cell_height - drawn)
    jpegs = []
    for k in range(count):
        image = np.full((height, width, 3), 96, np.uint8)
        for i, (column, row) in enumerate(cells[:faces]):
            phase = k / 8 + i
            left = column * cell_width + round(room[0] / 2 * (1 + math.sin(phase) / 4))
            top = row * cell_height + round(room[1] / 2 * (1 + math.cos(phase) / 4))
            image[top : top + drawn, left : left + drawn] = portrait
        jpegs.append(encode_jpeg(image))
    seconds = tuple(k / 25 for k in range(count))
    return Clip(f"crowd of {faces}", width, height, tuple(jpegs), seconds)
