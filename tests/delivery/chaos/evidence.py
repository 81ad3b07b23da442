"""What there is to judge a chaos run by: the server's streams and books, the writers' journals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from tests.delivery.chaos.roles import Feed
from worker.operate.dead import letters
from worker.records import FrameEvent
from worker.wire import frame_pb2
from worker.wire.books import Books, read_books
from worker.wire.codec import decode_event
from worker.wire.keys import FeedKeys
from worker.wire.server import Server, fields_of, text

Frames = set[tuple[str, int]]
"""Frames by session and sequence."""


@dataclass(frozen=True, slots=True)
class Death:
    """A dead letter."""

    frame_id: str
    reason: str
    session: str
    sequence: int


@dataclass(slots=True)
class Journal:
    """What one writer process has noted."""

    writer: int
    session: str = ""
    offered: set[int] = field(default_factory=set)
    accepted: set[int] = field(default_factory=set)

    @property
    def doubtful(self) -> set[int]:
        """Offered, but the writer never heard that they were accepted: they may be."""
        return self.offered - self.accepted


@dataclass(slots=True)
class RolledBack:
    """What failovers have undone of one feed."""

    frames: Frames = field(default_factory=set)
    """Frames that were accepted: they may be missing now, and may have been pushed again."""
    offered: int = 0
    outcomes: int = 0

    @property
    def untold(self) -> int:
        """How many frames of a live feed had been dropped or skipped before that, about: nobody
        knows which they were."""
        return max(0, self.offered - len(self.frames))


@dataclass(frozen=True, slots=True)
class Evidence:
    """All about one feed, after everything has drained."""

    feed: Feed
    books: Books
    events: Sequence[FrameEvent]
    deaths: Sequence[Death]
    journals: Sequence[Journal]


def collect(server: Server, feed: Feed, journals: Path) -> Evidence:
    """Read everything there is about ``feed``."""
    deaths = [
        Death(
            letter.frame_id,
            letter.reason,
            letter.header.session if letter.header else "",
            letter.header.sequence if letter.header else -1,
        )
        for letter in letters(server, feed.name)
    ]
    return Evidence(
        feed=feed,
        books=read_books(server, feed.name),
        events=list(all_events(server, feed.name)),
        deaths=deaths,
        journals=[_journal(path) for path in sorted(journals.glob(f"{feed.name}.*"))],
    )


def all_events(server: Server, feed: str, after: str = "-") -> Iterator[FrameEvent]:
    """The feed's events after an id, as the server keeps them."""
    key = FeedKeys.of(feed).events
    after = after if after == "-" else "(" + after
    while page := server.command("XRANGE", key, after, "+", "COUNT", 1000):
        for _, fields in page:
            yield decode_event(fields[b"event"], int(fields[b"n"]))
        after = "(" + text(page[-1][0])


def last_ids(server: Server, feeds: Sequence[str]) -> dict[str, str]:
    """The id of the last frame that the server has accepted for each feed."""
    found = {}
    for feed in feeds:
        key = FeedKeys.of(feed).frames
        there = server.command("EXISTS", key)
        info = fields_of(server.command("XINFO", "STREAM", key)) if there else {}
        found[feed] = text(info.get(b"last-generated-id", "0-0"))
    return found


def frames_after(server: Server, feed: str, frame_id: str) -> Frames:
    """Frames with a later id that the server knows: in flight, published or dead."""
    found = {(event.session, event.sequence) for event in all_events(server, feed, frame_id)}
    for letter in letters(server, feed):
        if order(letter.frame_id) > order(frame_id) and letter.header:
            found.add((letter.header.session, letter.header.sequence))
    waiting = server.command("XRANGE", FeedKeys.of(feed).frames, "(" + frame_id, "+")
    for _, fields in waiting:
        try:
            frame = frame_pb2.Frame.FromString(fields[b"frame"])
        except DecodeError:
            continue
        found.add((frame.session, frame.sequence))
    return found


def _journal(path: Path) -> Journal:
    """``path``: named FEED.WRITER."""
    journal = Journal(int(path.suffix[1:]))
    for line in path.read_text().splitlines():
        word, value = line.split()
        if word == "session":
            journal.session = value
        else:
            getattr(journal, word).add(int(value))
    return journal


def order(entry_id: str) -> tuple[int, ...]:
    """A stream's id, in its order."""
    return tuple(map(int, entry_id.split("-")))
