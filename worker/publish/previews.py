"""Small pictures for those who watch, where pictures are asked for; kept for seconds.

They are made and sent beside the pipeline: a worker that has no time for them, or a server that
does not take them, costs previews and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
import structlog

from worker.capture.encode import encode_jpeg
from worker.consume.leases import Lease
from worker.errors import ServerError
from worker.picture import FramePicture
from worker.records import Face, Image, PreviewMode
from worker.wire.server import Server

log = structlog.get_logger()

WIDTH = 320
"""Pixels; smaller pictures stay as they are."""
_HEIGHT = 4 * WIDTH
"""Nor is any picture higher than this, whatever its shape."""
KEPT_S = 10.0
_EVERY_S = 0.4
"""Between two previews of one feed."""
_ENTRIES = 4
_QUALITY = 70

_CELLS = 4
"""A known face is painted over with so many times so many cells of one colour."""
_BLUR = 1 / 28
"""Standard deviation over the picture's width: also a face that was not found, even one that
takes a third of the picture, has no more than three or four distinguishable spots a side."""


@dataclass(frozen=True, slots=True)
class _Offer:
    lease: Lease
    frame_id: str
    picture: FramePicture
    faces: Sequence[Face]
    late_at: float
    """When it would be shown too long after (monotonic seconds)."""


class Previews:
    """Publishes previews from a thread of its own."""

    def __init__(self, server: Server, mode: PreviewMode) -> None:
        self._server, self._mode = server, mode
        self._next: dict[str, float] = {}
        """Feed -> when it is to have its next preview (monotonic seconds)."""
        self._offers: dict[str, _Offer] = {}
        """The newest of each feed: at most one picture waits for each."""
        self._something = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="previews", daemon=True)
        if mode != "off":
            self._thread.start()

    def offer(
        self, lease: Lease, frame_id: str, picture: FramePicture, faces: Sequence[Face]
    ) -> None:
        """Here is a picture that was analysed. Never waits."""
        if self._mode == "off":
            return
        now = time.monotonic()
        with self._something:
            if now < self._next.get(lease.feed, 0.0):
                return
            self._next = {feed: at for feed, at in self._next.items() if at > now}
            self._next[lease.feed] = now + _EVERY_S
            self._offers[lease.feed] = _Offer(lease, frame_id, picture, faces, now + KEPT_S)
            self._something.notify()

    def close(self) -> None:
        with self._something:
            self._closing = True
            self._something.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._something:
                self._something.wait_for(lambda: self._offers or self._closing)
                if self._closing:
                    return
                offer = self._offers.pop(next(iter(self._offers)))
            if time.monotonic() > offer.late_at:  # the server was away
                continue
            try:
                with suppress(ServerError):  # of an outage the pipeline tells
                    self._publish(offer)
            except Exception:
                # This thread must not die: the other feeds' previews come from it, too.
                log.exception("no preview", feed=offer.lease.feed, frame_id=offer.frame_id)

    def _publish(self, offer: _Offer) -> None:
        small = preview_of(offer.picture, offer.faces, blurred=self._mode == "blurred")
        height, width = small.shape[:2]
        jpeg = encode_jpeg(small, _QUALITY)
        keys = offer.lease.keys
        self._server.run(
            "preview",
            [keys.lease, keys.preview],
            [
                offer.lease.token, int(1000 * KEPT_S), _ENTRIES,
                offer.frame_id, jpeg, width, height,
            ],
        )  # fmt: skip


def preview_of(picture: FramePicture, faces: Sequence[Face], *, blurred: bool) -> Image:
    """The picture, RGB, at most WIDTH wide; ``blurred``: so that nobody can be recognised in it.

    Faces that were found are painted over with a few cells of their mean colour, and then all of
    the picture is blurred, because a face may be there that was not found.
    """
    scale = min(1.0, WIDTH / picture.width, _HEIGHT / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    image = picture.there if scale <= 0.5 else picture.whole
    small = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    if not blurred:
        return small
    if small is image or np.shares_memory(small, image):
        small = small.copy()
    for face in faces:
        _paint_over(small, np.asarray(face.box) * scale)
    sigma = max(1.0, _BLUR * max(size))
    return np.ascontiguousarray(cv2.GaussianBlur(small, (0, 0), sigma), np.uint8)


def _paint_over(image: Image, box: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """Leave _CELLS x _CELLS colours of the box and a quarter around it, in place."""
    margin = (box[2:] - box[:2]) / 4
    left, top = np.maximum(np.floor(box[:2] - margin), 0).astype(int)
    right, bottom = np.minimum(np.ceil(box[2:] + margin), image.shape[1::-1]).astype(int)
    if right <= left or bottom <= top:
        return
    part = image[top:bottom, left:right]
    cells = cv2.resize(part, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    part[:] = cv2.resize(cells, part.shape[1::-1], interpolation=cv2.INTER_NEAREST)
