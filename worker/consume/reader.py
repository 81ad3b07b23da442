"""Frames of the feeds we hold, each feed in its order, formed into batches across feeds."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from worker.consume.bell import Bell
from worker.consume.leases import Lease, Leases
from worker.errors import ServerError, ServerUnavailable
from worker.wire.keys import CONSUMER, GROUP
from worker.wire.server import Call, Server, fields_of, text

log = structlog.get_logger()

_NEW = ">"
_LONGEST_PAUSE_S = 0.1
"""So soon is noticed what no frame tells: that we are to stop, or have another feed."""
_TRUST_S = 0.5
_ACTIVE_S = 1.0
"""A feed that had frames within so long may have one at any moment: room is left for it."""
_REST_S = 1.0
"""How long a feed is left alone after the server has refused a command on its keys."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One entry of a frame stream in our hands. It must be settled."""

    lease: Lease
    frame_id: str
    body: bytes | None = field(repr=False)
    """The field `frame`; None if the entry has none."""
    gone: bool = False
    """The entry was deleted after it was read: nothing is left but to count it."""
    stale: bool = False
    """A live frame that has waited longer than its feed's staleness budget."""
    attempts: int = 0
    """How many processes, ours included, have had this frame in hand alone; 0 for a new frame."""

    @property
    def feed(self) -> str:
        return self.lease.feed


Request = tuple[Lease, str, int]
"""A feed, the id after which to read (or what is new), and how many frames."""


class Reader:
    """Reads what is pending before what is new, and forms batches that are fair to all feeds."""

    def __init__(self, server: Server, leases: Leases) -> None:
        self._server = server
        self._leases = leases
        self._bell = Bell(server, "XLEN", trust_s=_TRUST_S)
        # By the key of a feed's frames: how many are in flight, as far as we have heard.
        self._lengths: dict[str, int] = {}
        # By lease token. Where the next read begins: after an id in hand, or at what is new.
        self._after: dict[str, str] = {}
        # Feeds that are left alone until then (monotonic seconds), and what was said of feeds.
        self._resting: dict[str, float] = {}
        self._said: dict[str, str] = {}
        # When each feed was last seen to have frames (monotonic seconds).
        self._active: dict[str, float] = {}
        self._last_served = ""
        self._last_was_alone = False

    def forget(self, lease: Lease | None = None) -> None:
        """After any doubt about what is in hand (of all feeds: None): ask the server again."""
        if lease is None:
            self._after.clear()
        else:
            self._after.pop(lease.token, None)

    def drained(self, lease: Lease) -> bool:
        """Whether nothing of the feed is in hand: it can go to another worker and lose no time.

        Only between two batches; what came in the last one must be settled.
        """
        return self._after.get(lease.token) == _NEW

    def close(self) -> None:
        self._bell.close()

    def rest(self, lease: Lease, why: str) -> None:
        """Leave a feed alone for a while, so that its trouble does not take the others' time."""
        self.forget(lease)
        self._resting[lease.token] = time.monotonic() + _REST_S
        if self._said.get(lease.feed) != why:
            log.warning("feed in trouble, trying again", feed=lease.feed, why=why)
        self._said[lease.feed] = why

    def next_batch(
        self, size: int, wait_s: float, stop: threading.Event, idle_s: float = 0.25
    ) -> list[Delivery]:
        """Up to ``size`` deliveries; a feed's own stand in the order of their ids.

        The first one starts the timer: the batch leaves when it is full, or ``wait_s`` later when
        no more frames wait. Nothing comes back after ``idle_s`` without a frame, so that the caller
        looks up. Once ``stop`` is set nothing more is read.

        A feed has no more of a batch than its share among the feeds of the last second, whether the
        others' frames are there or not: they may come while the batch is worked on, and would wait
        for all of it.

        A frame that was in hand before comes alone, so that no other shares its fate, and by turns
        with new frames of other feeds, so that these need not wait for all of them.
        """
        batch = self._form_batch(size, wait_s, stop, idle_s)
        # They will be settled before the next look: by then their streams are shorter.
        self._bell.doubt({delivery.lease.keys.frames for delivery in batch})
        return batch

    def _form_batch(
        self, size: int, wait_s: float, stop: threading.Event, idle_s: float
    ) -> list[Delivery]:
        batch: list[Delivery] = []
        deadline = time.monotonic() + idle_s
        while len(batch) < size and not stop.is_set():
            leases = self._ready()
            if not batch and not self._last_was_alone:
                pending = self._read_pending(leases)
                if pending is not None:
                    self._last_was_alone = True
                    return [pending]
            share = -(-size // max(1, len(self._active)))
            found = self._read_new(leases, batch, size - len(batch), share)
            if found:
                if not batch:
                    deadline = time.monotonic() + wait_s
                batch += found
            elif self._last_was_alone and not batch:
                self._last_was_alone = False
            elif (batch and self._more_waits(batch)) or (
                left_s := deadline - time.monotonic()
            ) <= 0:
                break
            else:
                self._bell.wait(min(left_s, _LONGEST_PAUSE_S))
        self._last_was_alone = False
        return batch

    def _ready(self) -> list[Lease]:
        """The leases we hold, beginning after the feed served last, without those that rest."""
        leases = self._leases.held()
        now = time.monotonic()
        tokens = {lease.token for lease in leases}
        keys = {lease.keys.frames for lease in leases}
        self._lengths = {key: length for key, length in self._lengths.items() if key in keys}
        self._after = {token: after for token, after in self._after.items() if token in tokens}
        self._resting = {token: end for token, end in self._resting.items() if end > now}
        self._active = {
            token: seen
            for token, seen in self._active.items()
            if token in tokens and now - seen < _ACTIVE_S
        }
        feeds = [lease.feed for lease in leases]
        first = feeds.index(self._last_served) + 1 if self._last_served in feeds else 0
        rotated = leases[first:] + leases[:first]
        return [lease for lease in rotated if lease.token not in self._resting]

    def _read_pending(self, leases: list[Lease]) -> Delivery | None:
        """The next frame that was in hand before, of any feed whose pending frames are not done."""
        for lease in leases:
            after = self._after.setdefault(lease.token, "0")
            if after == _NEW:
                continue
            found = self._read([(lease, after, 1)])[0]
            if found:
                self._after[lease.token] = found[0].frame_id
                self._last_served = lease.feed
                return found[0]
            if found is not None:
                self._after[lease.token] = _NEW
                self._bell.doubt([lease.keys.frames])
        return None

    def _read_new(
        self, leases: list[Lease], batch: list[Delivery], room: int, most: int
    ) -> list[Delivery]:
        """Up to ``room`` new frames besides ``batch``, in equal shares of the feeds with any.

        ``most``: of any one feed, with what ``batch`` has of it.
        """
        in_hand = Counter(delivery.lease.token for delivery in batch)
        waiting = self._waiting(leases, in_hand)
        # The others' frames wait until the whole batch is settled: no feed has more of it than the
        # next one. The rest of a flood has its turn in batches of its own.
        wanted = in_hand + Counter({lease.token: number for number, lease in waiting})
        most = min([most, *sorted(wanted.values())[-2:-1]])
        hungry = [
            (min(number, most - in_hand[lease.token]), lease)
            for number, lease in waiting
            if in_hand[lease.token] < most
        ][:room]
        if hungry:
            self._last_served = hungry[-1][1].feed
        # Those with few frames first: what they leave of their share goes to the others.
        hungry.sort(key=lambda pair: pair[0])
        requests: list[Request] = []
        for i, (number, lease) in enumerate(hungry):
            share = min(number, -(-room // (len(hungry) - i)))
            requests.append((lease, _NEW, share))
            room -= share
        replies = self._read(requests)
        for (lease, *_), found in zip(requests, replies, strict=True):
            if found == []:
                self.rest(lease, "somebody else has read or acknowledged frames of this feed")
        return [delivery for found in replies for delivery in found or []]

    def _more_waits(self, batch: list[Delivery]) -> bool:
        """Whether a feed has more for us than its share of the batch."""
        in_hand = Counter(delivery.lease.keys.frames for delivery in batch)
        return any(self._lengths.get(key, 0) > number for key, number in in_hand.items())

    def _waiting(self, leases: list[Lease], in_hand: Mapping[str, int]) -> list[tuple[int, Lease]]:
        """How many frames nobody has read, for each feed that has any and is ready."""
        ready = [lease for lease in leases if self._after.get(lease.token) == _NEW]
        news = self._bell.news(lease.keys.frames for lease in ready)
        found: list[tuple[int, Lease]] = []
        for lease in ready:
            length = news.get(lease.keys.frames, self._lengths.get(lease.keys.frames, 0))
            if isinstance(length, ServerError):
                self.rest(lease, str(length))
                continue
            self._lengths[lease.keys.frames] = length
            if length > in_hand[lease.token]:
                self._active[lease.token] = time.monotonic()
                found.append((length - in_hand[lease.token], lease))
        return found

    def _read(self, requests: list[Request]) -> list[list[Delivery] | None]:
        """For each request what came; None if the feed cannot be read now."""
        if not requests:
            return []
        calls: list[Call] = [
            (
                [lease.keys.lease, lease.keys.frames, lease.keys.stats],
                [lease.token, GROUP, CONSUMER, after, count, self._leases.me],
            )
            for lease, after, count in requests
        ]
        replies: Sequence[Any]
        try:
            replies = self._server.run_many("read", calls)
        except ServerUnavailable as error:
            if not self._server.spread:
                raise
            # They are all on shards that are gone. The other feeds' may be well.
            replies = [error] * len(requests)
        return [
            self._received(lease, reply)
            for (lease, *_), reply in zip(requests, replies, strict=True)
        ]

    def _received(self, lease: Lease, reply: Any) -> list[Delivery] | None:
        if isinstance(reply, ServerError):
            self.rest(lease, str(reply))
            return None
        if reply[0] == b"lost":
            self.forget(lease)
            self._leases.lost(lease)
            return None
        _, now_ms, entries, attempts = reply
        return [_delivery(lease, text(name), flat, now_ms, attempts) for name, flat in entries]


def _delivery(
    lease: Lease, frame_id: str, flat: list[bytes] | None, now_ms: int, attempts: int
) -> Delivery:
    age_s = (now_ms - int(frame_id.partition("-")[0])) / 1000
    return Delivery(
        lease=lease,
        frame_id=frame_id,
        body=None if flat is None else fields_of(flat).get(b"frame"),
        gone=flat is None,
        stale=lease.settings.policy == "live" and age_s > lease.settings.staleness_s,
        attempts=attempts,
    )
