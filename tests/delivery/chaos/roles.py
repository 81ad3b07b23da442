"""What the processes of a chaos run do: the real writer, and the real worker loop with a stub of
the models. Each runs in a process of its own (see :mod:`tests.delivery.chaos.nursery`)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from tests.delivery.chaos.picture import Kind, Mark, draw, kind_of, read
from tests.doubles import OneFace, Running
from tests.feeds import frame_of
from worker import health
from worker.capture.writer import Writer
from worker.errors import ServerFull, ServerUnavailable, SessionSuperseded
from worker.records import Detections, Floats, Image, Policy
from worker.wire.server import Server

HANGS_AFTER_S = 2.5
"""The watchdog's patience."""
SLOW_S = 0.15
ATTEMPTS = 5
"""Innocent frames are in the hands of workers that are killed, too: but not so often in a row."""
KEPT = 10_000_000

POISONED, HUNG, TWICE = 99, 70, 143
"""How a worker ends that ends by a frame, by the watchdog, by a second SIGTERM."""
SUPERSEDED, NO_SERVER = 3, 4
"""How a writer ends when another has taken over, and when nobody answers at its start."""


class Stub:
    """Finds one face in each picture and does what the picture says.

    The face's first two landmarks are what was read: (writer, sequence) and (feed, kind); an event
    that carries another frame's number was made from another frame's picture.
    """

    info = OneFace.info

    def __init__(self, hung: Path) -> None:
        self._hung = hung

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        marks = [read(image) for image in images]
        for mark in marks:
            if mark is not None:
                self._suffer(mark)
        faces = OneFace().detect(images)
        return [_marked(one, mark) for one, mark in zip(faces, marks, strict=True)]

    def glance(self, images: Sequence[Image]) -> list[Detections]:
        return [Detections.none()] * len(images)

    def follow(self, images: Sequence[Image], boxes: Sequence[Floats]) -> list[Detections]:
        return self.detect(images)

    def _suffer(self, mark: Mark) -> None:
        if mark.kind is Kind.POISON:
            os._exit(POISONED)
        if mark.kind is Kind.FAULTY:
            raise RuntimeError(f"no model can look at frame {mark.sequence}")
        if mark.kind is Kind.SLOW:
            time.sleep(SLOW_S)
        if mark.kind is Kind.HANG:
            try:
                (self._hung / f"{mark.feed}-{mark.writer}-{mark.sequence}").touch(exist_ok=False)
            except FileExistsError:
                return
            threading.Event().wait()


def _marked(face: Detections, mark: Mark | None) -> Detections:
    if mark is None:
        return face
    landmarks = np.zeros((1, 5, 2), np.float32)
    landmarks[0, 0] = mark.writer, mark.sequence
    landmarks[0, 1] = mark.feed, mark.kind
    return replace(face, landmarks=landmarks)


def _begin() -> threading.Event:
    """Log as a worker does, a line for each message; the event is set by SIGTERM, and the second
    SIGTERM ends the process at once, as :mod:`worker.app` has it."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.PrintLoggerFactory(),
    )
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    return stop


def work(url: str, hung: str) -> int:
    """A worker, until it is told to stop."""
    health.ALIVE_S = HANGS_AFTER_S
    stop = _begin()
    worker = Running(
        url, Stub(Path(hung)), lease_ttl_s=0.6, grace_s=5.0, max_attempts=ATTEMPTS,
        events_kept=KEPT, dead_kept=KEPT,
    )  # fmt: skip
    worker.health.watch()
    worker.pipeline.run(stop)
    return 0


@dataclass(frozen=True, slots=True)
class Feed:
    """What is pushed to one feed."""

    name: str
    number: int
    policy: Policy
    fps: float
    replicas: int = 0
    """What so many replicas do not have is kept, and pushed again after a failover."""


def write(url: str, given: dict[str, Any], writer: int, feeds: int, seed: int, journal: str) -> int:
    """The ``writer``-th writer of a feed, until it is told to stop; what it offers, and what of
    that is accepted, goes to a journal."""
    feed = Feed(**given)
    stop = _begin()
    server = Server(url)
    # Without a buffer: what is written stays when the process is killed.
    with Path(journal).open("ab", buffering=0) as notes:
        try:
            pusher = Writer(
                server, feed.name, stop=stop, policy=feed.policy,
                depth=8 if feed.policy == "live" else 24, staleness_s=1.0,
                replicas=feed.replicas, say=print,
            )  # fmt: skip
        except (ServerUnavailable, ServerFull):
            return NO_SERVER
        notes.write(f"session {pusher.session}\n".encode())
        sequence, began = 0, time.monotonic()
        while not stop.is_set():
            kind = kind_of(seed, feeds, feed.number, writer, sequence)
            mark = Mark(feed.number, writer, sequence, kind)
            notes.write(f"offered {sequence}\n".encode())
            try:
                pushed = _push(pusher, mark)
            except SessionSuperseded:
                return SUPERSEDED
            if pushed == "accepted":
                notes.write(f"accepted {sequence}\n".encode())
            sequence += 1
            late_s = time.monotonic() - began - sequence / feed.fps
            began += max(0.0, late_s)  # no burst after a pause
            stop.wait(max(0.0, -late_s))
    return 0


def _push(writer: Writer, mark: Mark) -> str:
    # The time base also lets the event's pts tell its frame, beside the picture.
    frame = frame_of(writer, mark.sequence, draw(mark))
    size = 63 if mark.kind is Kind.MISMATCH else 0
    return writer.push(replace(frame, width=size, height=size, time_base=Fraction(1))).status
