"""How the feeds stand: settings, books, rates and owners, from one look or repeated ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from worker.errors import ServerError
from worker.wire.books import Books, read_all_books
from worker.wire.registry import FeedSettings, registered
from worker.wire.server import Server
from worker.wire.workers import WorkerEntry, live_workers, owner_of

RATE_OVER_S = 1.0
"""Over what time one look states its rates: it is two looks, so far apart."""
_LOOKS = 11
"""Of repeated looks, a second apart, the rates are those of the last ten seconds."""


@dataclass(frozen=True, slots=True)
class Status:
    """One feed at one moment."""

    settings: FeedSettings
    books: Books
    offered_per_s: float | None = None
    """Frames that the server accepted a second; None before there are two looks."""
    published_per_s: float | None = None
    owner: str = ""
    """Who holds the lease; empty if nobody does."""


@dataclass(frozen=True, slots=True)
class Look:
    """All feeds at one moment."""

    feeds: Mapping[str, Status]
    complaints: Mapping[str, str]
    """What is wrong with a feed, or with its entry in the registry."""


class Looks:
    """Repeated looks at the feeds of one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._past: dict[str, deque[Books]] = {}

    def again(self) -> Look:
        """The feeds now; their rates since the first look, at the most ten looks ago.

        Raises:
            ServerUnavailable: no answer.
        """
        feeds, complaints = registered(self._server, removing=True)
        workers = live_workers(self._server)
        books = read_all_books(self._server, sorted(feeds))
        found: dict[str, Status] = {}
        past: dict[str, deque[Books]] = {}
        for feed, now in books.items():
            if isinstance(now, ServerError):
                complaints[feed] = str(now)
                continue
            if not now.balanced:
                complaints[feed] = "its books do not balance: somebody else deleted frames"
            if feeds[feed].removing:
                complaints[feed] = f"it is being removed (mien feeds rm {feed} finishes that)"
            seen = self._past.get(feed) or deque(maxlen=_LOOKS)
            if seen and now.offered < seen[-1].offered:
                seen.clear()  # its books began anew
            seen.append(now)
            past[feed], before = seen, seen[0]
            found[feed] = Status(
                settings=feeds[feed],
                books=now,
                offered_per_s=_rate(before, now, now.offered - before.offered),
                published_per_s=_rate(before, now, now.published - before.published),
                owner=owner_name(now.owner, workers),
            )
        self._past = past
        return Look(found, complaints)


def owner_name(token: str, workers: Mapping[str, WorkerEntry]) -> str:
    """The worker that holds the lease with ``token``: host and process, or its id if unknown."""
    worker = workers.get(owner_of(token))
    return worker.name if worker else owner_of(token)[:16]


def as_json(status: Status) -> dict[str, Any]:
    """The figures of one feed as plain data; times in seconds, rates in frames a second."""
    settings = status.settings.model_dump(mode="json", exclude={"removing"})
    books = asdict(status.books)
    for internal in ("owned", "owner", "read_ms"):
        del books[internal]
    return {
        "settings": settings,
        **books,
        "offered_per_s": status.offered_per_s,
        "published_per_s": status.published_per_s,
        "owner": status.owner or None,
    }


def _rate(before: Books, now: Books, count: int) -> float | None:
    elapsed_s = (now.read_ms - before.read_ms) / 1000
    return round(count / elapsed_s, 2) if elapsed_s > 0 else None
