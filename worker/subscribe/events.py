"""Events back in: an iterator that survives a reconnect and reports what retention trimmed."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from worker.errors import ServerUnavailable, SettingsError
from worker.records import FrameEvent
from worker.wire.codec import decode_event
from worker.wire.keys import FeedKeys, check_feed_name
from worker.wire.registry import registered
from worker.wire.server import Backoff, Server, text

log = logging.getLogger("mien")

_ID = re.compile(r"\d+(-\d+)?")
_BLOCK_MS = 250
_READ_AT_ONCE = 100
_LOOK_FOR_FEEDS_S = 1.0

Since = str | datetime | FrameEvent
"""Where to begin: "now", "start" (the oldest event kept), an id (after it), a time (from it on),
or the last event seen (after it, and what was trimmed since is counted exactly)."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that retention had trimmed before they could be read."""

    feed: str
    missing: int | None
    """How many; None if that cannot be known, because no earlier event of the feed was seen."""
    before: str
    """Id of the first event that is still there."""


@dataclass(slots=True)
class _Cursor:
    after: str
    """Id of the last event seen, or the one to begin after."""
    ordinal: int | None
    """Ordinal of the last event seen; None if unknown."""


def events(
    feed: str | None = None,
    *,
    redis: str | None = None,
    since: Since = "now",
    follow: bool = True,
    stop: threading.Event | None = None,
    on_gap: Callable[[Gap], None] | None = None,
) -> Iterator[FrameEvent]:
    """The events of one feed, or of all (also of those that are registered later).

    A feed's events come in their order, each once. To go on after a restart exactly where you
    were, keep the last event that you have dealt with and pass it as ``since``.

    Args:
        redis: the server's URL; None for what ``MIEN_REDIS`` says, or the default.
        follow: wait for new events; otherwise end after what is there.
        stop: set it from elsewhere to end the iteration within a quarter of a second.
        on_gap: told of events that retention had trimmed; a warning is logged if it is None.

    Raises:
        FeedNameError, SettingsError: the feed's name or ``since`` cannot be used.
        ServerUnavailable: nobody answers at the first attempt; later it is waited for.
    """
    _check_since(since)
    if feed is not None:
        check_feed_name(feed)
    if isinstance(since, FrameEvent) and since.feed != feed:
        raise SettingsError("since is an event: name its feed as well")
    server = Server(redis)
    subscription = _Subscription(server, feed, since, on_gap or _log_gap)
    return _iterate(server, subscription, follow, stop or threading.Event())


def _iterate(
    server: Server, subscription: _Subscription, follow: bool, stop: threading.Event
) -> Iterator[FrameEvent]:
    backoff = Backoff()
    connected = False
    try:
        while not stop.is_set():
            try:
                found = subscription.read(_BLOCK_MS if follow else None)
            except ServerUnavailable as error:
                if not connected:
                    raise
                log.debug("events wait for the server: %s", error)
                backoff.wait(stop)
                continue
            connected = True
            backoff.reset()
            yield from found or ()
            if not follow and found is None:
                return
    finally:
        server.close()


class _Subscription:
    """The cursors of one subscriber."""

    def __init__(
        self, server: Server, feed: str | None, since: Since, on_gap: Callable[[Gap], None]
    ) -> None:
        self._server = server
        self._feed = feed
        self._since = since
        self._on_gap = on_gap
        self._cursors: dict[str, _Cursor] = {}
        self._looked_at = float("-inf")

    def read(self, block_ms: int | None) -> list[FrameEvent] | None:
        """The next events; None if nothing came within ``block_ms`` (None: is there now)."""
        self._find_feeds()
        if not self._cursors:
            if block_ms:
                time.sleep(block_ms / 1000)
            return None
        feeds = list(self._cursors)
        words: list[str | int] = ["XREAD", "COUNT", _READ_AT_ONCE]
        if block_ms:
            words += ["BLOCK", block_ms]
        words += ["STREAMS", *(FeedKeys.of(feed).events for feed in feeds)]
        words += [self._cursors[feed].after for feed in feeds]
        reply = self._server.command(*words)
        if not reply:
            return None
        by_key = {FeedKeys.of(feed).events: feed for feed in feeds}
        found = []
        for key, entries in reply:
            feed = by_key[text(key)]
            for entry_id, fields in entries:
                event = self._take(feed, text(entry_id), fields)
                if event is not None:
                    found.append(event)
        return found

    def _take(self, feed: str, entry_id: str, fields: dict[bytes, bytes]) -> FrameEvent | None:
        cursor = self._cursors[feed]
        try:
            event = decode_event(fields[b"event"], int(fields[b"n"]))
        except (KeyError, ValueError) as error:
            log.warning("%s %s is not an event: %r", feed, entry_id, error)
            cursor.after = entry_id
            return None
        if cursor.ordinal is not None and event.ordinal > cursor.ordinal + 1:
            self._on_gap(Gap(feed, event.ordinal - cursor.ordinal - 1, entry_id))
        cursor.after, cursor.ordinal = entry_id, event.ordinal
        return event

    def _find_feeds(self) -> None:
        if time.monotonic() - self._looked_at < _LOOK_FOR_FEEDS_S:
            return
        first_look = self._looked_at == float("-inf")
        names = [self._feed] if self._feed else list(registered(self._server)[0])
        for name in names:
            if name not in self._cursors:
                self._cursors[name] = self._begin(name, first_look)
        self._looked_at = time.monotonic()

    def _begin(self, feed: str, first_look: bool) -> _Cursor:
        """Where ``feed`` begins; a feed that turns up later begins at its first event."""
        since = self._since
        events = FeedKeys.of(feed).events
        if since == "now":
            newest = self._server.command("XREVRANGE", events, "+", "-", "COUNT", 1)
            if not newest or not first_look:
                return _Cursor("0-0", 0 if not newest else None)
            entry_id, fields = newest[0]
            return _Cursor(text(entry_id), int(fields.get(b"n", 0)))
        if isinstance(since, FrameEvent):
            return _Cursor(since.frame_id, since.ordinal)
        if since == "start":
            return _Cursor("0-0", 0)
        if isinstance(since, datetime):
            before_ms = int(since.timestamp() * 1000) - 1
            after = f"{before_ms}-{2**64 - 1}" if before_ms >= 0 else "0-0"
        else:
            after = since if "-" in since else f"{since}-0"
        oldest = self._server.command("XRANGE", events, "-", "+", "COUNT", 1)
        if oldest and int(oldest[0][1].get(b"n", 1)) > 1 and _order(oldest[0][0]) > _order(after):
            # What we were to begin at is trimmed. How much of it came after `after` is unknown.
            self._on_gap(Gap(feed, None, text(oldest[0][0])))
        return _Cursor(after, None)


def _order(entry_id: str | bytes) -> tuple[int, int]:
    milliseconds, _, counter = text(entry_id).partition("-")
    return int(milliseconds), int(counter or 0)


def _check_since(since: Since) -> None:
    if isinstance(since, str) and since not in ("now", "start") and not _ID.fullmatch(since):
        raise SettingsError(
            f"since = {since!r} is neither now, start, an id such as 1760000000000-0, nor a time"
        )
    if isinstance(since, datetime) and since.tzinfo is None:
        raise SettingsError(f"since = {since} has no time zone")


def _log_gap(gap: Gap) -> None:
    missing = "some" if gap.missing is None else gap.missing
    log.warning("%s: %s events were trimmed before %s", gap.feed, missing, gap.before)
