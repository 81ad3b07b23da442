"""The frames in a worker's hands, from being read to being settled: all that its threads share.

Between the threads a frame waits three times: decoded, for the detection to take it (it is *ready*
then); with its faces detected, for the rest of the analysis; and analysed, for its outcome to be
settled. What is ready is one batch at the most, and it stays open until it is taken: a frame that
comes meanwhile still finds the room left for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from worker.consume.leases import Lease

_BATCHES = 5
"""In hand at the most: one that is ready, one in detection, one that is analysed, and two on the
way to the server, so that one slow answer holds up nobody and a slow server is noticed."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One entry of a frame stream in our hands. It must be settled."""

    lease: Lease
    frame_id: str
    body: bytes | None = field(repr=False)
    """The field `frame`; None if the entry has none."""
    gone: bool = False
    """The entry was deleted after it was read: nothing is left but to count it."""
    stale_at: float = math.inf
    """When its feed's staleness budget is spent (monotonic seconds)."""
    attempts: int = 0
    """How many processes, ours included, have had this frame in hand alone; 0 for a new frame."""
    doubts: int = 0
    """How often there had been doubts about its feed when it was asked for."""

    @property
    def feed(self) -> str:
        return self.lease.feed

    @property
    def stale(self) -> bool:
        """Whether it is a live frame that has waited too long by now."""
        return time.monotonic() > self.stale_at


class _Held(Protocol):
    @property
    def delivery(self) -> Delivery: ...


class _Decoded(_Held, Protocol):
    @property
    def pixels(self) -> int: ...


Ready = TypeVar("Ready", bound=_Decoded)
Detected = TypeVar("Detected")
Done = TypeVar("Done", bound=_Held)
_Item = TypeVar("_Item", bound=_Held)


@dataclass(frozen=True, slots=True)
class Look:
    """What the reader has to know of one moment. Counters are by lease token."""

    unsettled: Counter[str]
    """Everything in hand."""
    ready: Counter[str]
    """What of it waits for the analysis."""
    room: int
    """How many more frames may be read."""
    settled: set[str]
    """Keys of the frame streams of which something has left our hands since the last look."""
    refused: list[tuple[Lease, str]]
    """Feeds of which the server did not settle a frame since then, and why."""


class InHand(Generic[Ready, Detected, Done]):
    """Counts what is in hand and passes it on. Every method may be called from any thread.

    After a doubt about a feed (:meth:`doubt`) whatever had been read of it before is void: it goes
    no further than the thread that has it now, and is pending on the server, to be read again.
    """

    def __init__(self, *, size: int, wait_s: float, pixels: int) -> None:
        """
        Args:
            size: frames in a batch at the most.
            wait_s: how long a batch that is not full waits for more, from its first frame on.
            pixels: a batch with so many is full as well, however few its frames.
        """
        self.size = size
        self.ring: Callable[[], None] = lambda: None
        """Wakes the reader, who sets it."""
        self._wait_s = wait_s
        self._most_pixels = pixels
        self._changed = threading.Condition()
        self._unsettled: Counter[str] = Counter()
        self._doubts: Counter[str] = Counter()
        self._settled: set[str] = set()
        self._refused: list[tuple[Lease, str]] = []
        self._ready: list[Ready] = []
        self._due_at = 0.0
        """When the batch that waits may be taken (monotonic seconds)."""
        self._wanted = False
        """Whether the detection waits for it."""
        self._detected: list[Detected] = []
        """A batch, if one waits for the rest of the analysis."""
        self._all_detected = False
        self._done: list[Done] = []
        self._all_read = self._ended = False
        self._failure: BaseException | None = None

    # For the thread that reads.

    def look(self) -> Look:
        with self._changed:
            settled, self._settled = self._settled, set()
            refused, self._refused = self._refused, []
            ready = Counter(item.delivery.lease.token for item in self._ready)
            unsettled = self._unsettled.total()
            room = min(self.size - len(self._ready), _BATCHES * self.size - unsettled)
            return Look(self._unsettled.copy(), ready, room, settled, refused)

    def doubts(self, lease: Lease) -> int:
        """How often there were doubts about the feed: to be asked before it is read."""
        with self._changed:
            return self._doubts[lease.token]

    def holds(self, lease: Lease) -> bool:
        """Whether anything of the feed is in hand."""
        with self._changed:
            return lease.token in self._unsettled

    def took(self, deliveries: Sequence[Delivery]) -> None:
        """They have been read."""
        with self._changed:
            self._unsettled.update(delivery.lease.token for delivery in deliveries)

    def offer(self, item: Ready, timeout_s: float) -> bool:
        """Let ``item`` wait for the analysis.

        False if it found no room for so long, or all is over.
        """
        with self._changed:
            if not self._fits(item):
                self._due_now()
                self._changed.wait_for(lambda: self._fits(item) or self.over, timeout_s)
            if self.over or not self._fits(item):
                return False
            if not self._ready:
                self._due_at = time.monotonic() + self._wait_s
            self._ready.append(item)
            if len(self._ready) == self.size:
                self._due_now()
            elif len(self._ready) == 1:
                self._changed.notify_all()
            return True

    def hurry(self) -> None:
        """The batch that waits need not wait for more."""
        with self._changed:
            if self._ready and self._due_at:
                self._due_now()

    def rest(self, timeout_s: float) -> None:
        """If the detection has a batch to go on with, wait so long or until it wants it."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or not self._ready or self.over, timeout_s)

    def all_read(self) -> None:
        """Nothing more will be offered."""
        with self._changed:
            self._all_read = True
            self._changed.notify_all()

    # For the thread that detects.

    def batch(self, timeout_s: float) -> list[Ready] | None:
        """What is ready, as soon as it is due; a feed's own stand in the order of their ids.

        Each feed's frames wait until the whole batch is analysed: so none has more of it than the
        next one, and what else is ready of a flood is for the next batch.

        Nothing comes back after ``timeout_s``; None when there will be no more.
        """
        ends = time.monotonic() + timeout_s
        with self._changed:
            self._wanted = True
            self._changed.notify_all()
            batch = self._due()
            while batch == [] and (now := time.monotonic()) < ends:
                due_at = self._due_at if self._ready else ends
                self._changed.wait(max(0.0, min(due_at, ends) - now))
                batch = self._due()
            self._wanted = False
            self.ring()
            return batch

    def detected(self, batch: Detected) -> None:
        """Wait until the batch is taken for the rest of the analysis, or all is over."""
        with self._changed:
            self._detected.append(batch)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._detected or self.over)

    def all_detected(self) -> None:
        """Nothing more will come from detection."""
        with self._changed:
            self._all_detected = True
            self._changed.notify_all()

    # For the thread that analyses.

    def to_analyse(self, timeout_s: float) -> list[Detected] | None:
        """The batch that comes from detection, alone in a list.

        Nothing comes back after ``timeout_s``; None when there will be no more.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._detected or self._all_detected or self._failure, timeout_s
            )
            taken, self._detected = self._detected, []
            self._changed.notify_all()
            if self._failure or (self._all_detected and not taken):
                return None
            return taken

    def analysed(self, outcomes: Sequence[Done]) -> None:
        """They wait to be settled."""
        with self._changed:
            self._done += outcomes
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more will be analysed: what has been is to be settled."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            self.ring()

    # For the thread that settles.

    def outcomes(self, timeout_s: float) -> list[Done] | None:
        """All that waits to be settled, each feed's own in the order of their ids.

        Nothing comes back after ``timeout_s``; None when there will be no more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._done or self.over, timeout_s)
            if self._failure or (self._ended and not self._done):
                return None
            done, self._done = self._done, []
            return self._without_void(done)

    def settled(self, deliveries: Iterable[Delivery]) -> None:
        """They have an outcome, or somebody is in doubt about them: they leave our hands."""
        with self._changed:
            self._let_go(deliveries)

    # For all of them.

    def doubt(self, lease: Lease, why: str = "") -> None:
        """Make void what is in hand of a feed: what is pending of it must be read again.

        ``why``: what the server has refused; the feed is to be left alone for a while.
        """
        with self._changed:
            self._doubts[lease.token] += 1
            if why:
                self._refused.append((lease, why))

    def fail(self, error: BaseException) -> None:
        """Throw away everything: a thread cannot go on."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()
            self.ring()

    @property
    def empty(self) -> bool:
        return not self._unsettled

    @property
    def over(self) -> bool:
        """Whether nothing more is wanted."""
        return self._ended or self._failure is not None

    @property
    def failure(self) -> BaseException | None:
        """Why one of the threads could not go on."""
        return self._failure

    def _fits(self, item: Ready) -> bool:
        pixels = sum(other.pixels for other in self._ready)
        return not self._ready or pixels + item.pixels <= self._most_pixels

    def _due_now(self) -> None:
        self._due_at = 0.0
        self._changed.notify_all()

    def _due(self) -> list[Ready] | None:
        self._ready = self._without_void(self._ready)
        if self.over or (self._all_read and not self._ready):
            return None
        if not self._all_read and self._due_at > time.monotonic():
            return []
        batch, self._ready = _fair(self._ready)
        return batch

    def _without_void(self, items: list[_Item]) -> list[_Item]:
        valid = [
            item
            for item in items
            if item.delivery.doubts == self._doubts[item.delivery.lease.token]
        ]
        if len(valid) < len(items):
            kept = {id(item) for item in valid}
            self._let_go(item.delivery for item in items if id(item) not in kept)
        return valid

    def _let_go(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            token = delivery.lease.token
            self._settled.add(delivery.lease.keys.frames)
            self._unsettled[token] -= 1
            if not self._unsettled[token]:
                del self._unsettled[token]
        self.ring()


def _fair(items: list[Ready]) -> tuple[list[Ready], list[Ready]]:
    """The batch, to which no feed gives more than the one with the next most, and what is left."""
    counts = Counter(item.delivery.lease.token for item in items)
    if len(counts) < 2:
        return items, []
    most = sorted(counts.values())[-2]
    chosen: list[Ready] = []
    left: list[Ready] = []
    given: Counter[str] = Counter()
    for item in items:
        given[item.delivery.lease.token] += 1
        (chosen if given[item.delivery.lease.token] <= most else left).append(item)
    return chosen, left
