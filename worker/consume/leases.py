"""Which feeds are ours: one lease for each, taken, renewed and released in the background.

A lease is a key with a random token and a time-to-live on the server's clock. Every read and
every settling names the token, so what matters is the key alone: this worker's own idea of what
it holds may be late, and then the scripts refuse it. Which leases to take and which to let go of
is said by :mod:`worker.consume.sharing`, from what the workers tell each other in their heartbeats.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import structlog

from worker.consume.bell import Bell
from worker.consume.load import LoadMeter
from worker.consume.sharing import plan
from worker.errors import ServerError, ServerUnavailable
from worker.wire.keys import FEEDS, FeedKeys
from worker.wire.registry import FeedSettings, registered
from worker.wire.server import Server
from worker.wire.workers import WORKERS, WorkerEntry, beat, leave

log = structlog.get_logger()

_PERIOD_S = 0.5
"""How often we say that we live, and look for feeds."""
_SOON_S = 0.1
"""... while others are about to hand feeds over to us: nobody reads these in between."""
_LEFT_OVER_S = 0.6
"""After so long anybody takes a free feed: he for whom it was meant has looked, and has not."""
_REGISTRY_S = 10.0
"""How often the registry is read again though nothing says that it has changed."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to read and settle one feed."""

    feed: str
    token: str
    """Our id, a full stop, and a part that is random for each acquisition."""
    keys: FeedKeys
    settings: FeedSettings


class Leases:
    """Holds the leases of our share of the registered feeds."""

    def __init__(
        self,
        server: Server,
        *,
        ttl_s: float = 5.0,
        feeds: Collection[str] | None = None,
        progressing: Callable[[], bool] = lambda: True,
        meter: LoadMeter | None = None,
    ) -> None:
        """
        Args:
            ttl_s: so many seconds after our end at the latest others have our feeds.
            feeds: the only ones to hold; None for all.
            progressing: whether the pipeline moves. While it does not, nothing is renewed.
            meter: what the feeds cost us; without one they are shared out by number.
        """
        self.me = secrets.token_hex(8)
        """Our id, as long as this process."""
        self.trouble: ServerError | None = None
        """Why the leases could not be looked after the last time; None when they could."""
        self._server = server
        # Others look once in a period: what has run out before it ends is taken over in time.
        self._ttl_s = ttl_s - min(2 * _PERIOD_S, ttl_s / 5)
        self._only = None if feeds is None else frozenset(feeds)
        self._progressing = progressing
        self._meter = meter or LoadMeter()

        self._lock = threading.Lock()
        self._held: dict[str, Lease] = {}
        self._giving: frozenset[str] = frozenset()
        self._expecting = False

        self._bell = Bell(server, "HLEN", trust_s=_REGISTRY_S)
        self._registry_changed = True
        self._registered: dict[str, FeedSettings] = {}
        self._loads: dict[str, float] = {}
        """The last that any worker said of each feed's load."""
        self._had: set[str] = set()
        """Feeds that we lost and nobody has taken since."""
        self._free_since: dict[str, float] = {}
        self._patient_until = 0.0
        self._renew_at = 0.0
        self._complaints: dict[str, str] = {}
        self._warned: dict[str, str] = {}

        self._closing = threading.Event()
        self._look = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)

    def start(self) -> None:
        """Begin to take leases. Call it when the models are loaded, not before."""
        self._thread.start()

    def close(self) -> None:
        """Release all leases and leave, so that other workers need not wait for us to run out."""
        self._closing.set()
        self._look.set()
        if self._thread.is_alive():
            self._thread.join()
        self._bell.close()
        with self._lock:
            held, self._held = list(self._held.values()), {}
        try:
            self._run("release", held)
            leave(self._server, self.me)
        except ServerError as error:
            log.warning("leases left to run out", why=str(error))

    def held(self) -> list[Lease]:
        with self._lock:
            return list(self._held.values())

    def leaving(self, lease: Lease) -> bool:
        """Whether the feed is to go to another worker as soon as nothing of it is in hand."""
        return lease.feed in self._giving

    def lost(self, lease: Lease) -> None:
        """The server said that ``lease`` is not ours any more."""
        if self._drop(lease):
            self._had.add(lease.feed)
            log.info("lease lost", feed=lease.feed)

    def hand_over(self, drained: Callable[[Lease], bool]) -> None:
        """Release the feeds that are to go to others and of which nothing is in our hands.

        Only the thread that reads may call it.
        """
        ready = [lease for lease in self.held() if self.leaving(lease) and drained(lease)]
        if not ready:
            return
        self._run("release", ready)
        for lease in ready:
            self._drop(lease)
            log.info("lease handed over", feed=lease.feed)
        self._look.set()  # the others hear of it at once

    def _keep(self) -> None:
        # Three renewals fit into one time-to-live.
        period_s = min(self._ttl_s / 3, _PERIOD_S)
        while not self._closing.is_set():
            self._look.clear()
            try:
                self._refresh()
                self.trouble = None
            except ServerError as error:
                if self.trouble is None:
                    log.warning("leases are not renewed", why=str(error))
                self.trouble = error
                self._recover()
            except Exception:
                # This thread must not die: without it the worker would seem well and do nothing.
                log.exception("leases are not renewed")
            self._look.wait(min(period_s, _SOON_S) if self._expecting else period_s)

    def _refresh(self) -> None:
        if not self._progressing():
            log.error("no progress: leases are not renewed")
            return
        self._renew()
        try:
            self._share()
        except ServerUnavailable as error:
            # In a Cluster the shard with the workers may be gone while our feeds' shards are well.
            self._recover()
            if not self.held():
                raise
            self._renew()
            self._warn_once(WORKERS, "feeds are not shared out", str(error))

    def _recover(self) -> None:
        """After an outage look at every lease, and let all workers find their own feeds again.

        They all come back within two looks.
        """
        self._patient_until = time.monotonic() + 2 * _PERIOD_S
        self._free_since.clear()
        self._renew_at = 0.0

    def _share(self) -> None:
        """Tell the others that we live, and carry out our part of the plan."""
        self._follow_registry()
        workers = beat(self._server, self._entry(), self._ttl_s)
        feeds = self._registered.keys()
        for worker in workers.values():
            self._loads |= worker.feeds
        self._loads = {feed: load for feed, load in self._loads.items() if feed in feeds}
        free = feeds - {feed for worker in workers.values() for feed in worker.feeds}
        self._had &= free
        claims = self._had | self._left_over(free)
        ours = plan(self.me, workers, feeds, loads=self._loads, claims=claims)
        self._giving, self._expecting = frozenset(ours.give), bool(ours.expect)
        patient = time.monotonic() < self._patient_until
        self._acquire(feed for feed in ours.take if not patient or feed in self._had)

    def _left_over(self, free: Collection[str]) -> set[str]:
        """The free feeds that somebody should have taken by now, and that we may take."""
        now = time.monotonic()
        ours = free if self._only is None else self._only.intersection(free)
        self._free_since = {feed: self._free_since.get(feed, now) for feed in ours}
        return {feed for feed, since in self._free_since.items() if now - since > _LEFT_OVER_S}

    def _read_registry(self) -> None:
        """Which feeds there are, read again only when that has changed."""
        self._registry_changed |= bool(self._bell.news([FEEDS]))
        if self._registry_changed:
            self._registered, complaints = registered(self._server)
            self._complain(complaints)
            self._registry_changed = False

    def _follow_registry(self) -> None:
        """Let go of the feeds that are not there any more, and take up what is set."""
        try:
            self._read_registry()
        except ServerUnavailable as error:
            # In a Cluster its shard may be gone while the workers' and the feeds' are well.
            if not self._registered:
                raise
            self._warn_once(FEEDS, "the registry is not read", str(error))
        changed = [
            (lease, self._registered.get(lease.feed))
            for lease in self.held()
            if self._registered.get(lease.feed) != lease.settings
        ]
        self._run("release", [lease for lease, settings in changed if settings is None])
        for lease, settings in changed:
            if settings is None:
                self._drop(lease)
            else:
                self._keep_as(lease, replace(lease, settings=settings))

    def _renew(self) -> None:
        if time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + self._ttl_s / 4
        held = self.held()
        for lease, reply in zip(held, self._replies("renew", held), strict=True):
            # No answer is no refusal: it may be ours still, and whoever reads or settles will hear.
            if reply != 1 and not isinstance(reply, ServerUnavailable):
                self.lost(lease)

    def _acquire(self, feeds: Iterable[str]) -> None:
        wanted = [
            Lease(
                feed,
                f"{self.me}.{secrets.token_hex(8)}",
                FeedKeys.of(feed),
                self._registered[feed],
            )
            for feed in feeds
        ]
        gained = self._run("acquire", wanted)
        for lease in gained:
            self._meter.expect(lease.feed, self._loads.get(lease.feed, 0.0))
            self._had.discard(lease.feed)
            log.info("lease taken", feed=lease.feed)
        with self._lock:
            self._held |= {lease.feed: lease for lease in gained}
        if gained:
            self._look.set()  # the others hear of it at once

    def _entry(self) -> WorkerEntry:
        loads = self._meter.loads([lease.feed for lease in self.held()])
        return WorkerEntry(
            id=self.me,
            host=socket.gethostname(),
            pid=os.getpid(),
            busy=round(self._meter.busy(), 3),
            feeds={feed: round(load, 4) for feed, load in loads.items()},
            only=None if self._only is None else tuple(sorted(self._only)),
        )

    def _drop(self, lease: Lease) -> bool:
        """Hold ``lease`` no more; whether we did."""
        with self._lock:
            ours = self._held.get(lease.feed)
            if ours is None or ours.token != lease.token:
                return False
            del self._held[lease.feed]
            return True

    def _keep_as(self, lease: Lease, changed: Lease) -> None:
        with self._lock:
            if self._held.get(lease.feed) == lease:
                self._held[lease.feed] = changed

    def _run(self, verb: str, leases: list[Lease]) -> list[Lease]:
        """The leases that are ours after ``verb``."""
        replies = self._replies(verb, leases)
        return [lease for lease, reply in zip(leases, replies, strict=True) if reply == 1]

    def _replies(self, verb: str, leases: list[Lease]) -> list[Any]:
        """For each lease 1 if it is ours after ``verb``, else 0; or why that is not known."""
        if not leases:
            return []
        ttl_ms = int(self._ttl_s * 1000)
        replies = self._server.run_many(
            "lease", [([lease.keys.lease], [verb, lease.token, ttl_ms]) for lease in leases]
        )
        for lease, reply in zip(leases, replies, strict=True):
            if isinstance(reply, ServerError):
                self._warn_once(lease.keys.lease, "lease refused", str(reply))
        return replies

    def _warn_once(self, key: str, what: str, why: str) -> None:
        if self._warned.get(key) != why:
            log.warning(what, key=key, why=why)
            self._warned[key] = why

    def _complain(self, complaints: dict[str, str]) -> None:
        for feed, complaint in complaints.items():
            if self._complaints.get(feed) != complaint:
                log.warning("bad entry in the registry", feed=ascii(feed), why=complaint)
        self._complaints = complaints
