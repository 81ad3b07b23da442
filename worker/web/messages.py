"""What a live stream says, as server-sent events, and the cursors with which it is taken up again.

A cursor names, for each feed of the stream, the last event that was sent: its id and its ordinal,
``cam1=1760000000000-0/123,cam2=1760000000040-0/45``; without the name in the stream of one feed.
The ordinal may be left out; then what was trimmed since cannot be counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.errors import SettingsError
from worker.records import FrameEvent
from worker.subscribe.cursors import Found, Gap, Position
from worker.subscribe.history import bound
from worker.wire.codec import event_to_json
from worker.wire.keys import check_feed_name

OPENING = b": mien\nretry: 2000\n\n"
BEAT = b": heartbeat\nevent: beat\ndata: {}\n\n"
BACK = b"event: back\ndata: {}\n\n"

_ORDINAL = re.compile(r"\d{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a feed, without the line of its id: that is each viewer's own cursor."""

    position: Position | None
    """Where a viewer stands who got it; None if it stands where it did."""
    body: bytes = field(repr=False)


def message(found: Found) -> Message:
    """What is said of an event, a gap, or that the server went back."""
    if isinstance(found, FrameEvent):
        body = f"event: event\ndata: {event_to_json(found)}\n\n".encode()
        return Message(Position(found.frame_id, found.ordinal), body)
    if isinstance(found, Gap):
        gap = {"feed": found.feed, "missing": found.missing, "before": found.before}
        return Message(None, named("gap", gap))
    rewind = {"feed": found.feed, "seen": found.seen, "last": found.last}
    return Message(Position(found.last, found.ordinal), named("rewind", rewind))


def named(event: str, data: Mapping[str, Any]) -> bytes:
    """A message that does not belong to one event: it has no id."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


def cursor_line(positions: Mapping[str, Position | None], *, named: bool) -> bytes:
    """``id: ...`` for a viewer who stands so; empty if nothing is known yet.

    ``named``: with the feeds' names; else there is one feed, and all know which.
    """
    known = {feed: position for feed, position in positions.items() if position is not None}
    if not known:
        return b""
    if not named:
        return f"id: {_words(*known.values())}\n".encode()
    return f"id: {','.join(f'{feed}={_words(at)}' for feed, at in known.items())}\n".encode()


def read_cursor(cursor: str, feeds: Sequence[str]) -> dict[str, Position]:
    """The positions that ``cursor`` gives for these feeds; what it says of others is passed over.

    Raises:
        SettingsError: it is no cursor.
    """
    found: dict[str, Position] = {}
    for part in filter(None, cursor.split(",")):
        feed, named, at = part.rpartition("=")
        if named:
            check_feed_name(feed)
        elif len(feeds) == 1 and part == cursor:
            feed = feeds[0]
        else:
            raise SettingsError(f"{part[:100]!a} in the cursor of several feeds names none")
        frame_id, _, ordinal = at.partition("/")
        if ordinal and not _ORDINAL.fullmatch(ordinal):
            raise SettingsError(f"{part[:100]!a} in the cursor has no number after the /")
        position = Position(bound("the cursor", frame_id), int(ordinal) if ordinal else None)
        if feed in feeds:
            found[feed] = position
    return found


def _words(position: Position) -> str:
    return position.frame_id + ("" if position.ordinal is None else f"/{position.ordinal}")
