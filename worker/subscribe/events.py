"""Events back in: an iterator that outlives reconnects and failovers, and says what is missing."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime

from worker.errors import ServerUnavailable, SettingsError
from worker.records import FrameEvent
from worker.subscribe.cursors import Gap, Rewind, Since, Subscription
from worker.wire.keys import check_feed_name
from worker.wire.server import Backoff, Server

__all__ = ["Gap", "Rewind", "Since", "events"]

log = logging.getLogger("mien")

_ID = re.compile(r"\d+(-\d+)?")
_BLOCK_MS = 250


def events(
    feed: str | None = None,
    *,
    redis: str | None = None,
    since: Since = "now",
    follow: bool = True,
    stop: threading.Event | None = None,
    on_gap: Callable[[Gap], None] | None = None,
    on_rewind: Callable[[Rewind], None] | None = None,
) -> Iterator[FrameEvent]:
    """The events of one feed, or of all (also of those that are registered later).

    A feed's events come in their order, each once. To go on after a restart exactly where you
    were, keep the last event that you have dealt with and pass it as ``since``.

    Args:
        redis: the server's URL; None for what ``MIEN_REDIS`` says, or the default.
        follow: wait for new events; otherwise end after what is there.
        stop: set it from elsewhere to end the iteration within a quarter of a second.
        on_gap: told of events that retention had trimmed; a warning is logged if it is None.
        on_rewind: told when the server went back behind what was read; likewise.

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
    subscription = Subscription(server, None if feed is None else [feed], since)
    return _iterate(
        server, subscription, follow, stop or threading.Event(),
        on_gap or _log_gap, on_rewind or _log_rewind,
    )  # fmt: skip


def _iterate(
    server: Server,
    subscription: Subscription,
    follow: bool,
    stop: threading.Event,
    on_gap: Callable[[Gap], None],
    on_rewind: Callable[[Rewind], None],
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
            for one in found or ():
                if isinstance(one, Gap):
                    on_gap(one)
                elif isinstance(one, Rewind):
                    on_rewind(one)
                else:
                    yield one
            if not follow and found is None:
                return
    finally:
        server.close()


def _check_since(since: Since) -> None:
    if isinstance(since, str) and since not in ("now", "start") and not _ID.fullmatch(since):
        raise SettingsError(
            f"since = {since!r} is neither now, start, an id such as 1760000000000-0, nor a time"
        )
    if isinstance(since, datetime) and since.tzinfo is None:
        raise SettingsError(f"since = {since} has no time zone")


def _log_gap(gap: Gap) -> None:
    missing = "some" if gap.missing is None else gap.missing
    log.warning(
        "%s: %s events were trimmed before %s",
        gap.feed,
        missing,
        gap.before,
        extra={"feed": gap.feed},
    )


def _log_rewind(rewind: Rewind) -> None:
    log.warning(
        "%s: the server went back from %s to %s",
        rewind.feed, rewind.seen, rewind.last, extra={"feed": rewind.feed},
    )  # fmt: skip
