"""What is retained of a feed's events, page by page, forwards or backwards."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from worker.errors import SettingsError
from worker.records import FrameEvent
from worker.wire.codec import decode_event
from worker.wire.keys import FeedKeys
from worker.wire.server import Server, text

log = logging.getLogger("mien")

_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?", re.ASCII)
_LAST = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of one feed, in the order that was asked for."""

    events: tuple[FrameEvent, ...]
    next: str | None
    """Id to go on with: as ``begin`` forwards, as ``end`` backwards; None if there is no more."""


def history(
    server: Server,
    feed: str,
    *,
    begin: str = "0-0",
    end: str | None = None,
    limit: int,
    newest_first: bool = False,
) -> Page:
    """Up to ``limit`` events whose ids are in [begin, end); see :func:`bound`. ``end`` None: all.

    Raises:
        ServerError: the server gives no answer, or none that can be used.
    """
    if end == "0-0":
        return Page((), None)  # the server takes no interval that ends before its first id
    low, high = begin, f"({end}" if end else "+"
    command = ("XREVRANGE", FeedKeys.of(feed).events, high, low)
    if not newest_first:
        command = ("XRANGE", FeedKeys.of(feed).events, low, high)
    # One more than asked for tells whether there is more, and forwards where that begins.
    entries = server.command(*command, "COUNT", limit + 1) or []
    events = tuple(_events(feed, entries[:limit]))
    if len(entries) <= limit:
        return Page(events, None)
    return Page(events, text(entries[limit - 1 if newest_first else limit][0]))


def bound(name: str, value: str) -> str:
    """One end of a range as an id: the first that is not before ``value``.

    ``value``: an event's id, its milliseconds alone, or a time with its zone as ISO 8601 has it.

    Raises:
        SettingsError: it is none of these; says so of ``name``.
    """
    if found := _ID.fullmatch(value):
        milliseconds, counter = int(found[1]), int(found[2] or 0)
        if max(milliseconds, counter) <= _LAST:
            return f"{milliseconds}-{counter}"
    else:
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return f"{max(0, math.ceil(moment.timestamp() * 1000))}-0"
        except (ValueError, OverflowError):
            pass
    raise SettingsError(
        f"{name} = {value[:100]!a} is neither an event's id such as 1760000000000-0 nor a time "
        "with its zone such as 2026-03-01T12:00:00Z"
    )


def _events(feed: str, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[FrameEvent]:
    for entry_id, fields in entries:
        try:
            yield decode_event(fields[b"event"], int(fields[b"n"]))
        except (KeyError, ValueError) as error:
            log.warning(
                "%s %s is not an event: %r", feed, text(entry_id), error,
                extra={"feed": feed, "frame_id": text(entry_id)},
            )  # fmt: skip
