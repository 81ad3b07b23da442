"""The books of a feed: what the server accepted, and which outcome each frame reached."""

from __future__ import annotations

from dataclasses import dataclass

from worker.wire.keys import GROUP, FeedKeys
from worker.wire.server import Server, text


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

    @property
    def balanced(self) -> bool:
        return self.offered == (
            self.published + self.dropped + self.skipped + self.dead + self.in_flight
        )


def read_books(server: Server, feed: str) -> Books:
    """The books of ``feed`` now; all zero for a feed that has no keys."""
    keys = FeedKeys.of(feed)
    reply = server.run("books", [keys.frames, keys.stats, keys.lease], [GROUP])
    offered, length, in_hand, published, dropped, skipped, dead, now_ms, oldest, owner = reply
    oldest_id = text(oldest)
    age_ms = now_ms - int(oldest_id.partition("-")[0]) if oldest_id else 0
    return Books(
        offered=offered,
        in_flight=length,
        in_hand=in_hand,
        published=published,
        dropped=dropped,
        skipped=skipped,
        dead=dead,
        oldest_age_s=max(0.0, age_ms / 1000),
        owned=bool(owner),
    )
