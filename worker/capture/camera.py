"""A camera of this machine, through OpenCV: one interface for Linux, macOS and Windows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction

import cv2
import numpy as np

from worker.capture.base import Source
from worker.errors import SourceError, SourceLost
from worker.records import Picture

_MICROSECOND = Fraction(1, 1_000_000)


def open_camera(index: int) -> CameraSource:
    """Open camera ``index`` and take one picture from it.

    Raises:
        SourceError: there is no such camera, it is in use, or it gives no picture.
    """
    # OpenCV reports a missing camera on stderr, in several lines; ours is the one sentence.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    device = cv2.VideoCapture(index)
    if not device.isOpened():
        device.release()
        raise SourceError(f"camera {index} cannot be opened: it is missing or in use")
    return CameraSource(index, device)


class CameraSource(Source):
    """Pictures as the camera delivers them; pts is the time since the first, in microseconds."""

    live = True
    frames = None
    duration_s = None

    def __init__(self, index: int, device: cv2.VideoCapture) -> None:
        self.name = f"camera {index}"
        self._device = device
        self._started: float | None = None
        rate = device.get(cv2.CAP_PROP_FPS)
        self.rate = rate if rate > 0 else None
        try:
            self._first = self._take()
        except SourceError:
            self.close()
            raise
        self.height, self.width = self._first.image.shape[:2]

    def pictures(self) -> Iterator[Picture]:
        yield self._first
        while True:
            yield self._take()

    def close(self) -> None:
        self._device.release()

    def _take(self) -> Picture:
        good, bgr = self._device.read()
        if not good:
            raise SourceLost(f"{self.name} stopped delivering pictures")
        now = time.monotonic()
        if self._started is None:
            self._started = now
        return Picture(
            image=np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8),
            pts=round((now - self._started) * 1_000_000),
            time_base=_MICROSECOND,
            captured_at=datetime.now(UTC),
        )
