"""Deliveries -> pictures, spread over threads: what can be analysed, and what cannot."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from worker.consume.images import open_picture
from worker.consume.inhand import Delivery
from worker.consume.leases import Lease
from worker.cores import Cores
from worker.errors import EntryError
from worker.picture import FramePicture, Scale
from worker.records import Frame
from worker.wire.codec import decode_frame, time_of_id


@dataclass(frozen=True, slots=True)
class Opened:
    """A frame that can be analysed."""

    delivery: Delivery
    frame: Frame
    picture: FramePicture = field(repr=False)
    decode_s: float
    """How long its thread has worked on it."""

    @property
    def pixels(self) -> int:
        return self.picture.pixels


@dataclass(frozen=True, slots=True)
class Unfit:
    """A frame with nothing to analyse, and what becomes of it."""

    delivery: Delivery
    kind: Literal["dropped", "skipped", "dead"]
    error: EntryError | None = None
    """dead: what is wrong with it."""
    decode_s = 0.0
    pixels = 0


class Opener:
    """Opens deliveries in threads of its own."""

    def __init__(
        self,
        cores: Cores,
        *,
        max_pixels: int,
        max_attempts: int,
        first: Callable[[Lease], Scale] | None = None,
    ) -> None:
        """
        Args:
            cores: for each picture one is taken while it is decoded. So many stand decoded in line
                at the most.
            max_pixels: a larger picture is not decoded.
            max_attempts: after how many ends of a process a frame is to blame for them.
            first: at which scale a large picture of the feed is best decoded; None: they are needed
                whole.
        """
        self._cores = cores
        self._max_pixels = max_pixels
        self._max_attempts = max_attempts
        self._first = first
        self._pool = ThreadPoolExecutor(cores.count, "decode")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def open(self, deliveries: Sequence[Delivery]) -> Iterator[Opened | Unfit]:
        """Each delivery opened, in the order given; no entry can raise."""
        if len(deliveries) == 1 or self._cores.count == 1:
            yield from map(self._open, deliveries)
            return
        line: deque[Future[Opened | Unfit]] = deque()
        for delivery in deliveries:
            if len(line) > self._cores.count:
                yield line.popleft().result()
            line.append(self._pool.submit(self._open, delivery))
        while line:
            yield line.popleft().result()

    def _open(self, delivery: Delivery) -> Opened | Unfit:
        if delivery.gone:
            return Unfit(delivery, "dropped")
        if delivery.stale:
            return Unfit(delivery, "skipped")
        if delivery.attempts > self._max_attempts:
            ended = delivery.attempts - 1
            why = f"{ended} workers in a row had this frame alone in hand and ended or lost it"
            return Unfit(delivery, "dead", EntryError("poison", why))
        try:
            frame = decode_frame(delivery.body, delivery.feed, time_of_id(delivery.frame_id))
            with self._cores:
                began = time.perf_counter()
                picture = self._picture(frame, delivery.lease)
                return Opened(delivery, frame, picture, time.perf_counter() - began)
        except EntryError as error:
            return Unfit(delivery, "dead", error)

    def _picture(self, frame: Frame, lease: Lease) -> FramePicture:
        first = None if self._first is None else self._first(lease)
        return open_picture(frame, self._max_pixels, first=first)
