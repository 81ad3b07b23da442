"""Which feeds are ours: one lease for each, taken, renewed and released in the background.

A lease is a key with a random token and a time-to-live on the server's clock. Every read and
every settling names the token, so what matters is the key alone: this worker's own idea of what
it holds may be late, and then the scripts refuse it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from worker.errors import ServerError
from worker.wire.keys import FeedKeys
from worker.wire.registry import FeedSettings, registered
from worker.wire.server import Server

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to read and settle one feed."""

    feed: str
    token: str
    keys: FeedKeys
    settings: FeedSettings


class Leases:
    """Holds the leases of all registered feeds that no other worker holds."""

    def __init__(
        self,
        server: Server,
        *,
        ttl_s: float = 5.0,
        feeds: Collection[str] | None = None,
        progressing: Callable[[], bool] = lambda: True,
    ) -> None:
        """``progressing``: whether the pipeline moves. While it does not, nothing is renewed."""
        self._server = server
        self._ttl_ms = int(ttl_s * 1000)
        self._only = None if feeds is None else frozenset(feeds)
        self._held: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._progressing = progressing
        self._complaints: dict[str, str] = {}
        self._refusals: dict[str, str] = {}
        self.trouble: ServerError | None = None
        """Why the leases could not be looked after the last time; None when they could."""
        self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)

    def start(self) -> None:
        """Begin to take leases. Call it when the models are loaded, not before."""
        self._thread.start()

    def close(self) -> None:
        """Release all leases, so that other workers need not wait for them to run out."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            held, self._held = list(self._held.values()), {}
        try:
            self._run("release", held)
        except ServerError as error:
            log.warning("leases left to run out", why=str(error))

    def held(self) -> list[Lease]:
        with self._lock:
            return list(self._held.values())

    def lost(self, lease: Lease) -> None:
        """The server said that ``lease`` is not ours any more."""
        with self._lock:
            if self._held.get(lease.feed, lease).token == lease.token:
                self._held.pop(lease.feed, None)
        log.info("lease lost", feed=lease.feed)

    def _keep(self) -> None:
        # Three tries fit into one time-to-live; new feeds are found at least twice a second.
        period_s = min(self._ttl_ms / 3000, 0.5)
        while not self._closing.is_set():
            try:
                self._refresh()
                self.trouble = None
            except ServerError as error:
                if self.trouble is None:
                    log.warning("leases are not renewed", why=str(error))
                self.trouble = error
            except Exception:
                # This thread must not die: without it the worker would seem well and do nothing.
                log.exception("leases are not renewed")
            self._closing.wait(period_s)

    def _refresh(self) -> None:
        if not self._progressing():
            log.error("no progress: leases are not renewed")
            return
        feeds, complaints = registered(self._server)
        self._complain(complaints)
        if self._only is not None:
            feeds = {name: settings for name, settings in feeds.items() if name in self._only}

        held = {lease.feed: lease for lease in self.held()}
        kept = [
            Lease(name, held[name].token, held[name].keys, settings)
            for name, settings in feeds.items()
            if name in held
        ]
        wanted = [
            Lease(name, secrets.token_hex(16), FeedKeys.of(name), settings)
            for name, settings in feeds.items()
            if name not in held
        ]
        self._run("release", [lease for name, lease in held.items() if name not in feeds])
        renewed = self._run("renew", kept)
        gained = self._run("acquire", wanted)
        with self._lock:
            self._held = {lease.feed: lease for lease in [*renewed, *gained]}
        for lease in gained:
            log.info("lease taken", feed=lease.feed)

    def _run(self, verb: str, leases: list[Lease]) -> list[Lease]:
        """The leases that are ours after ``verb``."""
        if not leases:
            return []
        replies = self._server.run_many(
            "lease", [([lease.keys.lease], [verb, lease.token, self._ttl_ms]) for lease in leases]
        )
        for lease, reply in zip(leases, replies, strict=True):
            if isinstance(reply, ServerError) and self._refusals.get(lease.feed) != str(reply):
                log.warning("lease refused", feed=lease.feed, why=str(reply))
                self._refusals[lease.feed] = str(reply)
        return [lease for lease, reply in zip(leases, replies, strict=True) if reply == 1]

    def _complain(self, complaints: dict[str, str]) -> None:
        for feed, complaint in complaints.items():
            if self._complaints.get(feed) != complaint:
                log.warning("bad entry in the registry", feed=ascii(feed), why=complaint)
        self._complaints = complaints
