"""Small pushes for tests: frames made here, through the real writer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import cv2
import numpy as np

from worker.capture.writer import Writer
from worker.records import Encoding, Frame
from worker.wire.server import Server

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def jpeg(width: int = 64, height: int = 48, value: int = 128) -> bytes:
    image = np.full((height, width, 3), value, np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def frame_of(writer: Writer, sequence: int, data: bytes | None = None) -> Frame:
    """A frame of 64x48 at 25 a second."""
    return Frame(
        feed=writer.feed,
        session=writer.session,
        sequence=sequence,
        captured_at=START + timedelta(seconds=sequence / 25),
        pts=sequence,
        time_base=Fraction(1, 25),
        width=0,
        height=0,
        encoding=Encoding.JPEG,
        data=jpeg() if data is None else data,
    )


def push_frames(server: Server, feed: str, count: int, **options: object) -> Writer:
    """Push ``count`` small frames, lossless and deep unless told otherwise."""
    settings = {"policy": "lossless", "depth": 1000, **options}
    writer = Writer(server, feed, stop=threading.Event(), **settings)  # type: ignore[arg-type]
    for sequence in range(count):
        assert writer.push(frame_of(writer, sequence)).status == "accepted"
    return writer


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Poll until ``condition`` holds; an AssertionError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.01)
