"""Frames of the feeds we hold, each feed in its order, in fair shares for batches across feeds."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog

from worker.consume.bell import Bell
from worker.consume.inhand import Delivery, InHand, Look
from worker.consume.leases import Lease, Leases
from worker.errors import ServerError, ServerUnavailable
from worker.wire.keys import CONSUMER, GROUP
from worker.wire.server import Call, Server, fields_of, text

log = structlog.get_logger()

_FIRST, _NEW = "0", ">"
_LONGEST_PAUSE_S = 0.1
"""So soon is noticed what no frame tells: that we are to stop, or have another feed."""
_GLANCE_S = 0.002
"""So often a batch that waits for the analysis is looked after."""
_TRUST_S = 0.5
_ACTIVE_S = 1.0
"""A feed that had frames within so long may have one at any moment: room is left for it."""
_COMPANY_S = 30.0
"""While a second feed had frames within so long, batches are shorter: its next one would wait."""
_SHORT = 8
"""Frames in a batch of several feeds: so many, or one of each feed up to twice as many."""
_REST_S = 1.0
"""How long a feed is left alone after the server has refused a command on its keys."""


Request = tuple[Lease, str, int]
"""A feed, the id after which to read (or what is new), and how many frames."""


class Reader:
    """Reads what is pending before what is new, in shares that are fair to all feeds.

    For one thread alone. What it reads is in hand until others say that it is settled.
    """

    def __init__(self, server: Server, leases: Leases, hands: InHand[Any, Any, Any]) -> None:
        self._server = server
        self._leases = leases
        self._hands = hands
        self._bell = Bell(server, "XLEN", trust_s=_TRUST_S)
        self._rung, self._ringer = socket.socketpair()
        self._rung.setblocking(False)
        self._ringer.setblocking(False)
        hands.ring = self._ring
        # By the key of a feed's frames: how many nobody has read, as far as we have heard.
        self._unread: dict[str, int] = {}
        # By lease token. Where the next read begins, after an id in hand or at what is new; and how
        # many doubts there had been then.
        self._after: dict[str, tuple[int, str]] = {}
        # Feeds that are left alone until then (monotonic seconds), and what was said of feeds.
        self._resting: dict[str, float] = {}
        self._said: dict[str, str] = {}
        # When each feed was last seen to have frames (monotonic seconds).
        self._active: dict[str, float] = {}
        self._last_served = ""
        self._last_was_alone = False

    def drained(self, lease: Lease) -> bool:
        """Whether nothing of the feed is in hand: it can go to another worker and lose no time."""
        return self._begins_after(lease) == _NEW and not self._hands.holds(lease)

    def close(self) -> None:
        self._bell.close()
        self._rung.close()
        self._ringer.close()

    def read(self, stop: threading.Event, idle_s: float = 0.25) -> list[Delivery]:
        """What the next batch has room for, as soon as there is any; a feed's own in their order.

        Nothing comes back after ``idle_s`` without a frame, so that the caller looks up. Once
        ``stop`` is set nothing more is read.

        A feed has no more of a batch than its share among the feeds of the last second, whether the
        others' frames are there or not: they may come while the batch before is worked on, and
        would wait for all of the next one. For that reason batches are shorter, too, while another
        feed had frames lately.

        A frame that was in hand before comes alone, so that no other shares its fate: when nothing
        else is in hand, and nothing else is read until it is settled. It does so by turns with new
        frames of other feeds, so that these need not wait for all of them.
        """
        deadline = time.monotonic() + idle_s
        while not stop.is_set() and not self._hands.over:
            found = self._look()
            left_s = deadline - time.monotonic()
            if found or left_s <= 0:
                return found
            # A look costs time that the analysis may need: while it is busy and has a batch to go
            # on with, what comes late for that batch is looked for now and then.
            self._hands.rest(min(left_s, _GLANCE_S))
            self._bell.wait(max(0.0, min(left_s, _LONGEST_PAUSE_S)), self._rung)
            with suppress(BlockingIOError):
                self._rung.recv(4096)
        return []

    def _ring(self) -> None:
        with suppress(OSError):  # it has rung often enough, or nobody listens any more
            self._ringer.send(b"!")

    def _rest(self, lease: Lease, why: str) -> None:
        """Leave a feed alone for a while, so that its trouble does not take the others' time."""
        self._hands.doubt(lease)
        self._resting[lease.token] = time.monotonic() + _REST_S
        if self._said.get(lease.feed) != why:
            log.warning("feed in trouble, trying again", feed=lease.feed, why=why)
        self._said[lease.feed] = why

    def _begins_after(self, lease: Lease) -> str:
        """After which id of the feed the next read begins; the first one in hand after a doubt."""
        doubts, after = self._after.get(lease.token, (0, _FIRST))
        return after if doubts == self._hands.doubts(lease) else _FIRST

    def _look(self) -> list[Delivery]:
        hand = self._hands.look()
        for lease, why in hand.refused:
            self._rest(lease, why)
        # Their streams are shorter now, and we may be quicker than the server's word.
        self._bell.doubt(hand.settled)
        leases = self._ready()
        if self._last_was_alone:
            if hand.unsettled:
                return []
            self._last_was_alone = False
            if found := self._read_new(leases, hand):
                return found
        if any(self._begins_after(lease) != _NEW for lease in leases):
            if hand.unsettled:
                self._hands.hurry()
                return []
            if pending := self._read_pending(leases):
                self._last_was_alone = True
                return [pending]
        return self._read_new(leases, hand)

    def _ready(self) -> list[Lease]:
        """The leases we hold, beginning after the feed served last, without those that rest."""
        leases = self._leases.held()
        now = time.monotonic()
        tokens = {lease.token for lease in leases}
        keys = {lease.keys.frames for lease in leases}
        self._unread = {key: number for key, number in self._unread.items() if key in keys}
        self._after = {token: after for token, after in self._after.items() if token in tokens}
        self._resting = {token: end for token, end in self._resting.items() if end > now}
        self._active = {
            token: seen
            for token, seen in self._active.items()
            if token in tokens and now - seen < _COMPANY_S
        }
        feeds = [lease.feed for lease in leases]
        first = feeds.index(self._last_served) + 1 if self._last_served in feeds else 0
        rotated = leases[first:] + leases[:first]
        return [lease for lease in rotated if lease.token not in self._resting]

    def _read_pending(self, leases: list[Lease]) -> Delivery | None:
        """The next frame that was in hand before, of any feed whose pending frames are not done."""
        for lease in leases:
            doubts = self._hands.doubts(lease)
            after = self._begins_after(lease)
            if after == _NEW:
                continue
            self._after[lease.token] = doubts, after
            found = self._read([(lease, after, 1)])[0]
            if found:
                self._after[lease.token] = doubts, found[0].frame_id
                self._last_served = lease.feed
                return found[0]
            if found is not None:
                self._after[lease.token] = doubts, _NEW
                self._bell.doubt([lease.keys.frames])
        return None

    def _read_new(self, leases: list[Lease], hand: Look) -> list[Delivery]:
        """What there is room for of new frames, in equal shares of the feeds with any."""
        ready, taken = hand.ready, hand.ready.total()
        most, share = self._shares()
        if hand.room <= 0:
            return []
        if taken >= most:
            self._hands.hurry()
            return []
        below = [lease for lease in leases if ready[lease.token] < share]
        waiting = self._waiting(below, hand.unsettled)
        most, share = self._shares()  # with those that have just become active
        room = max(0, min(hand.room, most - taken))
        hungry = [
            (min(number, share - ready[lease.token]), lease)
            for number, lease in waiting
            if ready[lease.token] < share
        ][:room]
        if not hungry:
            if any(self._unread.get(lease.keys.frames) for lease in leases if ready[lease.token]):
                self._hands.hurry()  # there is enough for the batch after this one
            return []
        self._last_served = hungry[-1][1].feed
        # Those with few frames first: what they leave of their share goes to the others.
        hungry.sort(key=lambda pair: pair[0])
        requests: list[Request] = []
        for i, (number, lease) in enumerate(hungry):
            share = min(number, -(-room // (len(hungry) - i)))
            requests.append((lease, _NEW, share))
            room -= share
        replies = self._read(requests)
        for (lease, _, asked), found in zip(requests, replies, strict=True):
            if found == []:
                self._rest(lease, "somebody else has read or acknowledged frames of this feed")
            elif found is not None:
                key = lease.keys.frames
                self._unread[key] = max(0, self._unread.get(key, 0) - len(found))
                if len(found) < asked:
                    self._bell.doubt([key])
        return [delivery for found in replies for delivery in found or []]

    def _shares(self) -> tuple[int, int]:
        """How many frames a batch may have; and how many of them a feed that had any just now.

        Several feeds have a short batch, or a frame each: what comes of one while the others' batch
        is worked on waits for that, and the longer the batch the longer.
        """
        size, now = self._hands.size, time.monotonic()
        feeds = sum(now - seen < _ACTIVE_S for seen in self._active.values())
        most = size if len(self._active) < 2 else min(size, max(_SHORT, min(feeds, 2 * _SHORT)))
        return most, -(-most // max(1, feeds))

    def _waiting(self, leases: list[Lease], unsettled: Counter[str]) -> list[tuple[int, Lease]]:
        """How many frames nobody has read, for each feed that has any and is to be read.

        ``unsettled``: what was in hand *before* the sizes are asked for here. It is never less than
        what is pending on the server then, so that we never take a frame in hand for a new one.
        """
        read = [
            lease
            for lease in leases
            if self._begins_after(lease) == _NEW and not self._leases.leaving(lease)
        ]
        news = self._bell.news(lease.keys.frames for lease in read)
        found: list[tuple[int, Lease]] = []
        for lease in read:
            key = lease.keys.frames
            if (length := news.get(key)) is not None:
                if isinstance(length, ServerError):
                    self._rest(lease, str(length))
                    continue
                self._unread[key] = max(0, length - unsettled[lease.token])
            if number := self._unread.get(key, 0):
                self._active[lease.token] = time.monotonic()
                found.append((number, lease))
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
            self._rest(lease, str(reply))
            return None
        if reply[0] == b"lost":
            self._hands.doubt(lease)
            self._leases.lost(lease)
            return None
        _, now_ms, entries, attempts = reply
        # Not those of this moment: what was doubted while we read is void.
        doubts, _ = self._after[lease.token]
        found = [
            _delivery(lease, text(name), flat, now_ms, attempts, doubts) for name, flat in entries
        ]
        self._hands.took(found)
        return found


def _delivery(
    lease: Lease,
    frame_id: str,
    flat: list[bytes] | None,
    now_ms: int,
    attempts: int,
    doubts: int,
) -> Delivery:
    age_s = (now_ms - int(frame_id.partition("-")[0])) / 1000
    live = lease.settings.policy == "live"
    return Delivery(
        lease=lease,
        frame_id=frame_id,
        body=None if flat is None else fields_of(flat).get(b"frame"),
        gone=flat is None,
        stale_at=time.monotonic() + lease.settings.staleness_s - age_s if live else math.inf,
        attempts=attempts,
        doubts=doubts,
    )
