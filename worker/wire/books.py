"""The books of a feed: what the server accepted, and which outcome each frame reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.errors import ServerError
from worker.wire.keys import GROUP, FeedKeys
from worker.wire.server import Call, Server, text


@dataclass(frozen=True, slots=True)
class Books:
    """One consistent look. ``offered == published + dropped + skipped + dead + in_flight``."""

    offered: int
    in_flight: int
    """In the stream: waiting to be read, or in a worker's hands."""
    in_hand: int
    """Read by a worker and not settled yet."""
    published: int
    dropped: int
    skipped: int
    dead: int
    oldest_age_s: float
    """How long the oldest frame in flight has been here, by the server's clock; 0 if none is."""
    owned: bool
    """Whether a worker holds the feed's lease."""
    owner: str = ""
    """The token of that lease."""
    read_ms: int = 0
    """The server's clock at this look, in milliseconds since 1970."""
    idle_s: float | None = None
    """How long ago the server accepted the last frame, by its clock; None if it never did."""

    @property
    def balanced(self) -> bool:
        return self.offered == (
            self.published + self.dropped + self.skipped + self.dead + self.in_flight
        )


def read_books(server: Server, feed: str) -> Books:
    """The books of ``feed`` now; all zero for a feed that has no keys."""
    return _books(server.run("books", *_call(feed)))


def read_all_books(server: Server, feeds: Sequence[str]) -> dict[str, Books | ServerError]:
    """The books of each feed in one round trip; the error where the server cannot tell one's."""
    replies = server.run_many("books", [_call(feed) for feed in feeds])
    return {
        feed: reply if isinstance(reply, ServerError) else _books(reply)
        for feed, reply in zip(feeds, replies, strict=True)
    }


def _call(feed: str) -> Call:
    keys = FeedKeys.of(feed)
    return [keys.frames, keys.stats, keys.lease], [GROUP]


def _books(reply: Sequence[Any]) -> Books:
    offered, length, in_hand, published, dropped, skipped, dead, now_ms, oldest, owner, last = reply
    return Books(
        offered=offered,
        in_flight=length,
        in_hand=in_hand,
        published=published,
        dropped=dropped,
        skipped=skipped,
        dead=dead,
        oldest_age_s=_age_s(oldest, now_ms) or 0.0,
        owned=bool(owner),
        owner=text(owner),
        read_ms=now_ms,
        idle_s=_age_s(last, now_ms),
    )


def _age_s(frame_id: bytes, now_ms: int) -> float | None:
    """How long ago the server gave this id; None for no id."""
    if not frame_id:
        return None
    return max(0.0, (now_ms - int(text(frame_id).partition("-")[0])) / 1000)
