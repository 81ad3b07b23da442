"""A reader without the rest of a pipeline: what its threads do, step by step in the test's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from worker.consume.inhand import Delivery, InHand
from worker.consume.leases import Leases
from worker.consume.reader import Reader
from worker.wire.keys import GROUP
from worker.wire.server import Server


@dataclass(frozen=True, slots=True)
class Unopened:
    """What the analysis takes, as it was read."""

    delivery: Delivery
    pixels: int = 1


class Reading:
    """A reader and its hands. Close it, or use it as a context."""

    def __init__(
        self, server: Server, leases: Leases, *, size: int = 8, wait_s: float = 0.0
    ) -> None:
        self.hands: InHand[Unopened, Unopened] = InHand(size=size, wait_s=wait_s, pixels=10**9)
        self.reader = Reader(server, leases, self.hands)
        self.stop = threading.Event()

    def batch(self, idle_s: float = 0.25) -> list[Delivery]:
        """The next batch, when it is due; nothing if no frame comes for ``idle_s``."""
        deadline = time.monotonic() + idle_s
        while True:
            found = self.reader.read(self.stop, idle_s=0.02)
            for delivery in found:
                assert self.hands.offer(Unopened(delivery), timeout_s=0.0)
            batch = self.hands.batch(0.0) or []
            if batch or (not self.hands.look().ready and time.monotonic() > deadline):
                return [item.delivery for item in batch]

    def batches(self, idle_s: float = 0.1) -> list[list[Delivery]]:
        """All that come, each settled before the next."""
        found = []
        while batch := self.batch(idle_s):
            found.append(batch)
            self.settle(batch)
        return found

    def settle(self, batch: Iterable[Delivery]) -> None:
        """As the server and the settling thread do it, without an event."""
        for delivery in batch:
            frames = delivery.lease.keys.frames
            server = self.reader._server
            server.command("XACK", frames, GROUP, delivery.frame_id)
            server.command("XDEL", frames, delivery.frame_id)
            self.hands.settled([delivery])

    def throw_away(self, batch: Iterable[Delivery]) -> None:
        """There is a doubt: the frames are pending, and nobody has them."""
        for delivery in batch:
            self.hands.doubt(delivery.lease)
            self.hands.settled([delivery])

    def __enter__(self) -> Reading:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.reader.close()
