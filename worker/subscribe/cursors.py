"""The cursors of one subscriber: where it stands in each feed, and whether the server went back."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from worker.errors import ServerError, ServerUnavailable
from worker.records import FrameEvent
from worker.wire.codec import decode_event
from worker.wire.keys import FeedKeys
from worker.wire.registry import registered
from worker.wire.server import Server, text

log = logging.getLogger("mien")

_READ_AT_ONCE = 100
_LOOK_S = 1.0
"""How often is looked for new feeds, and whether the server still has what was read."""

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


@dataclass(frozen=True, slots=True)
class Rewind:
    """The server has gone back behind what was read: a failover, a flush, a feed removed.

    What comes next follows on what the server has. A frame that it analyses again comes again.
    """

    feed: str
    seen: str
    """Id of the last event that was read."""
    last: str
    """Id of the last event that the server had then; 0-0 if the feed began anew."""
    ordinal: int | None = field(default=None, compare=False)
    """Ordinal of that event, if it is known."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a subscriber stands in one feed."""

    frame_id: str
    """Id of the last event seen, or the one to begin after; 0-0 before the first."""
    ordinal: int | None
    """Ordinal of that event; None if it is not known, then what is trimmed cannot be counted."""


Found = FrameEvent | Gap | Rewind
"""What a subscription reads, in its order: a gap comes before the event that follows it."""


@dataclass(slots=True)
class _Cursor:
    after: str
    """Id of the last event seen, or the one to begin after."""
    ordinal: int | None
    """Ordinal of the last event seen; None if unknown."""
    seen: bool = True
    """Whether there has been an event of the id ``after``: then the stream cannot end before it."""
    doubt: bool = False
    """An event came whose ordinal had been: nothing more is taken until that is cleared up."""
    refused: bool = False
    """The server refuses to tell of the feed, as when its key holds something else by now."""


class Subscription:
    """The cursors of one subscriber."""

    def __init__(
        self, server: Server, feeds: Collection[str] | None, since: Since | Mapping[str, Position]
    ) -> None:
        """
        Args:
            feeds: these, also if they are not registered; None for all that are.
            since: where to begin, in all feeds or in each; those that it does not name: now.
        """
        self._server = server
        self._feeds = feeds
        self._since = since
        self._found: list[Found] = []
        self._cursors: dict[str, _Cursor] = {}
        self._there_at_first: frozenset[str] | None = None
        self._looked_at = float("-inf")

    def follow(self, feeds: Collection[str]) -> None:
        """Read these feeds from now on and no others; one that is new begins at ``since``."""
        for feed in self._cursors.keys() - set(feeds):
            del self._cursors[feed]
        self._found = [one for one in self._found if one.feed in self._cursors]
        if set(feeds) - self._cursors.keys():
            self._looked_at = float("-inf")
        self._feeds = feeds

    def position(self, feed: str) -> Position | None:
        """Where we stand in ``feed``; None before the first look at it."""
        cursor = self._cursors.get(feed)
        return Position(cursor.after, cursor.ordinal) if cursor else None

    def read(self, block_ms: int | None) -> list[Found] | None:
        """What comes next; None if nothing came within ``block_ms`` (None: is there now)."""
        self._find_feeds()
        readable = {feed: cursor for feed, cursor in self._cursors.items() if not cursor.refused}
        if readable:
            by_key = {FeedKeys.of(feed).events: feed for feed in readable}
            after = {key: readable[feed].after for key, feed in by_key.items()}
            try:
                streams = self._server.read_streams(after, count=_READ_AT_ONCE, block_ms=block_ms)
            except ServerUnavailable:
                raise
            except ServerError:
                # One feed that is refused fails them all: without it, if there is one, we go on.
                self._looked_at = float("-inf")
                self._find_feeds()
                if not any(cursor.refused for cursor in readable.values()):
                    raise
                return []
            for key, entries in streams or ():
                feed = by_key[key]
                for entry_id, fields in entries:
                    self._take(feed, text(entry_id), fields)
                    if self._cursors[feed].doubt:
                        break
            if streams and not self._found:
                return []  # there may be more behind what was passed over
        elif block_ms:
            time.sleep(block_ms / 1000)
        # Kept until now: an outage after a look must not lose what the look found.
        found, self._found = self._found, []
        return found or None

    def _take(self, feed: str, entry_id: str, fields: dict[bytes, bytes]) -> None:
        cursor = self._cursors[feed]
        try:
            event = decode_event(fields[b"event"], int(fields[b"n"]))
        except (KeyError, ValueError) as error:
            log.warning("%s %s is not an event: %r", feed, entry_id, error)
            cursor.after = entry_id
            return
        if cursor.ordinal is not None and event.ordinal <= cursor.ordinal:
            # The server went back, and is past our cursor again: first see how far it went.
            cursor.doubt, self._looked_at = True, float("-inf")
            return
        if cursor.ordinal is not None and event.ordinal > cursor.ordinal + 1:
            self._found.append(Gap(feed, event.ordinal - cursor.ordinal - 1, entry_id))
        cursor.after, cursor.ordinal, cursor.seen = entry_id, event.ordinal, True
        self._found.append(event)

    def _rewind(self, feed: str, cursor: _Cursor, last: str, ordinal: int | None) -> None:
        self._found.append(Rewind(feed, cursor.after, last, ordinal))
        cursor.after, cursor.ordinal, cursor.doubt = last, ordinal, False

    def _find_feeds(self) -> None:
        if time.monotonic() - self._looked_at < _LOOK_S:
            return
        names = self._feeds
        if names is None:
            names = {*registered(self._server)[0], *self._cursors}
        if self._there_at_first is None:
            self._there_at_first = frozenset(names)
        for feed, tail in tails(self._server, sorted(names)).items():
            if isinstance(tail, ServerError):
                if self._feeds is not None and len(names) == 1:
                    raise tail
                cursor = self._cursors.get(feed)
                news = cursor is not None and not cursor.refused
                level = logging.WARNING if news else logging.DEBUG
                log.log(level, "%s: %s", feed, tail, extra={"feed": feed})
                if cursor is not None:
                    cursor.refused = True
                continue
            last, ordinal = tail.frame_id, tail.ordinal
            cursor = self._cursors.get(feed)
            if cursor is None:
                cursor = self._cursors[feed] = self._begin(feed, last, ordinal)
            cursor.refused = False
            if cursor.doubt:
                last, agreed = self._last_up_to(feed, cursor.after)
                # Ordinals that go back without that are foreign: they are no measure.
                self._rewind(feed, cursor, last, agreed if last != cursor.after else None)
            elif cursor.seen and _order(cursor.after) > _order(last):
                self._rewind(feed, cursor, last, ordinal)
        self._looked_at = time.monotonic()

    def _last_up_to(self, feed: str, entry_id: str) -> tuple[str, int]:
        """Id and ordinal of the last event not after ``entry_id``; 0-0 and 0 if there is none."""
        found = self._server.command(
            "XREVRANGE", FeedKeys.of(feed).events, entry_id, "-", "COUNT", 1
        )
        return (text(found[0][0]), _ordinal(found[0][1]) or 0) if found else ("0-0", 0)

    def _begin(self, feed: str, last: str, ordinal: int | None) -> _Cursor:
        """Where ``feed`` begins; a feed that turns up later begins at its first event."""
        since: Since | Position
        since = self._since.get(feed, "now") if isinstance(self._since, Mapping) else self._since
        if since == "now":
            if self._feeds is not None or feed in (self._there_at_first or ()):
                return _Cursor(last, ordinal)
            return _Cursor("0-0", 0 if last == "0-0" else None)
        if isinstance(since, Position) and since.ordinal is None:
            since = since.frame_id
        if isinstance(since, FrameEvent | Position):
            return _Cursor(since.frame_id, since.ordinal)
        if since == "start":
            return _Cursor("0-0", 0)
        if isinstance(since, datetime):
            before_ms = int(since.timestamp() * 1000) - 1
            after = f"{before_ms}-{2**64 - 1}" if before_ms >= 0 else "0-0"
        else:
            after = since if "-" in since else f"{since}-0"
        oldest = self._server.command("XRANGE", FeedKeys.of(feed).events, "-", "+", "COUNT", 1)
        first = _ordinal(oldest[0][1]) if oldest else None
        if first and first > 1 and _order(oldest[0][0]) > _order(after):
            # What we were to begin at is trimmed. How much of it came after `after` is unknown.
            self._found.append(Gap(feed, None, text(oldest[0][0])))
        return _Cursor(after, None, seen=isinstance(since, str))


def tails(server: Server, feeds: Sequence[str]) -> dict[str, Position | ServerError]:
    """Where the events of each feed end, in one round trip; the error where the server cannot tell.

    Raises:
        ServerUnavailable: no answer.
    """
    keys = [FeedKeys.of(feed) for feed in feeds]
    replies = server.run_many("tail", [([key.events, key.stats], []) for key in keys])
    return {
        feed: reply if isinstance(reply, ServerError) else Position(text(reply[0]), reply[1])
        for feed, reply in zip(feeds, replies, strict=True)
    }


def _ordinal(fields: dict[bytes, bytes]) -> int | None:
    """An event's; None if it has none, as it is foreign."""
    try:
        return int(fields[b"n"])
    except (KeyError, ValueError):
        return None


def _order(entry_id: str | bytes) -> tuple[int, int]:
    milliseconds, _, counter = text(entry_id).partition("-")
    return int(milliseconds), int(counter or 0)
