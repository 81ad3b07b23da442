"""A folder of images, or one image, as a source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from worker.capture.base import Source
from worker.config import MAX_PIXELS
from worker.errors import SettingsError, SourceError
from worker.records import Image, Picture

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""What counts as an image, by the end of its name in lower case."""

_MOST_BYTES = 256 << 20


def open_stills(path: Path, *, rate: float) -> StillsSource:
    """Open the images of a folder (not of its subfolders), or the one image ``path``.

    Images come in natural order of their names (2 before 10); hidden files are left out.

    Raises:
        SourceError: there is no image, or the first one cannot be read.
        SettingsError: ``rate`` is not above 0.
    """
    if not 0 < rate <= 1000:
        raise SettingsError(f"the image rate must be above 0 and at most 1000, not {rate:g}")
    if path.is_dir():
        try:
            entries = list(path.iterdir())
        except OSError as error:
            raise SourceError(f"cannot read the folder {path}: {error.strerror}") from None
        files = [
            file
            for file in entries
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        ]
        files.sort(key=lambda file: _natural(file.name))
    else:
        files = [path]
    if not files:
        raise SourceError(f"the folder {path} holds no images")
    return StillsSource(path.resolve().name, files, rate)


class StillsSource(Source):
    """Images of a list of files, ``rate`` a second."""

    live = False

    def __init__(self, name: str, files: list[Path], rate: float) -> None:
        self.name = name
        self.rate = rate
        self.frames = len(files)
        self.duration_s = len(files) / rate
        self._files = files
        self._time_base = 1 / Fraction(rate).limit_denominator(1000)
        self._first = read_image(files[0])
        self.height, self.width = self._first.shape[:2]

    def pictures(self) -> Iterator[Picture]:
        yield Picture(self._first, 0, self._time_base)
        for pts, file in enumerate(self._files[1:], start=1):
            yield Picture(read_image(file), pts, self._time_base)

    def close(self) -> None:
        """Nothing is held open between two images."""


def read_image(path: Path) -> Image:
    """Decode an image file of any colour type and depth to (height, width, 3), RGB, uint8.

    The EXIF orientation is applied. Transparency is flattened on white (in TIFF on
    black). Of an animation or a document with many pages, the first is taken.

    Raises:
        SourceError: the file cannot be read, or is not an image that OpenCV decodes.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SourceError(f"{path.name} has more than {_MOST_BYTES >> 20} MiB: it is refused")
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read the image {path.name}: {error.strerror}") from None
    image = _decode(data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise SourceError(
            f"{path.name} is not an image that can be decoded, or has more than {MAX_PIXELS} pixels"
        )
    if _may_be_transparent(data):
        image = _flatten(_decode(data, cv2.IMREAD_UNCHANGED), image)
    return np.ascontiguousarray(image, np.uint8)


def _decode(data: bytes, flags: int) -> npt.NDArray[Any] | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # no bytes at all, or more pixels than OpenCV allows
        return None


def _may_be_transparent(data: bytes) -> bool:
    """True when a second decoding for the alpha channel is worth it.

    JPEG has no alpha, and TIFF comes flattened on black. OpenCV turns by EXIF only when it drops
    alpha, so a file with EXIF data is turned, and keeps the colours under its transparent parts.
    """
    flat = data.startswith((b"\xff\xd8", b"II*\0", b"MM\0*"))
    return not flat and b"eXIf" not in data and b"EXIF" not in data


def _flatten(stored: npt.NDArray[Any] | None, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``image`` over white where ``stored`` (..., 4; BGRA, 8 or 16 bits) has an alpha channel."""
    if stored is None or stored.ndim != 3 or stored.shape[2] != 4:
        return image
    opacity = stored[..., 3:].astype(np.float32) / np.iinfo(stored.dtype).max
    return np.rint(image * opacity + 255 * (1 - opacity)).astype(np.uint8)


def _natural(name: str) -> tuple[list[str | int], str]:
    """A sort key under which numbers within a name count as numbers.

    ``re.split`` with a group alternates text and digits, so that like is compared with like.
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
