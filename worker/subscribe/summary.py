"""What a feed showed over a time: the share of each expression, overall and for each track.

A face in a frame is one sighting. Shares are shares of sightings; seconds say how long: a sighting
stands until the feed's next event, by the clock of who captured the frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from worker.records import Face, FrameEvent
from worker.subscribe.history import history
from worker.wire.server import Server

_AT_ONCE = 500
_LOOKED_AT = 20_000
"""So many events one summary looks at, lest one question keep the server busy for long."""
_STANDS_S = 5.0
"""What was seen before a longer pause is not taken to have lasted until after it."""


@dataclass(slots=True)
class Expression:
    """How often, and for how long, one label was given."""

    faces: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Tally:
    """The sightings of one track, or of all."""

    first: datetime | None = None
    """When the first was captured (UTC)."""
    last: datetime | None = None
    faces: int = 0
    uncertain: int = 0
    """Those of which the model abstained; they are counted under its best guess as well."""
    seconds: float = 0.0
    expressions: dict[str, Expression] = field(default_factory=dict)

    def add(self, face: Face, at: datetime, seconds: float) -> None:
        self.first = self.first or at
        self.last = at
        self.faces += 1
        self.uncertain += face.uncertain
        self.seconds += seconds
        expression = self.expressions.setdefault(face.label, Expression())
        expression.faces += 1
        expression.seconds += seconds


@dataclass(frozen=True, slots=True)
class Summary:
    """What some events of one feed add up to."""

    events: int
    every: Tally
    tracks: dict[int, Tally]
    """Track id -> its sightings, in the order in which the tracks appeared."""
    next: str | None = None
    """Id of the first event of the range that was too much to look at."""


def summarise(events: Iterable[FrameEvent]) -> Summary:
    """The summary of events of one feed, in their order."""
    every, tracks = Tally(), dict[int, Tally]()
    count = 0
    before: FrameEvent | None = None

    def add(event: FrameEvent, seconds: float) -> None:
        for face in event.faces:
            for tally in (every, tracks.setdefault(face.track_id, Tally())):
                tally.add(face, event.captured_at, seconds)

    for event in events:
        count += 1
        if before is not None:
            add(before, _stands_s(before, event))
        before = event
    if before is not None:
        add(before, 0.0)
    return Summary(count, every, tracks)


def summary(server: Server, feed: str, *, begin: str = "0-0", end: str | None = None) -> Summary:
    """The summary of the events in [begin, end), or of the first 20,000 of them.

    Raises:
        ServerError: the server gives no answer, or none that can be used.
    """
    at: str | None = begin
    looked_at = 0

    def pages() -> Iterable[FrameEvent]:
        nonlocal at, looked_at
        while at is not None and looked_at < _LOOKED_AT:
            page = history(server, feed, begin=at, end=end, limit=_AT_ONCE)
            at = page.next
            looked_at += _AT_ONCE
            yield from page.events

    found = summarise(pages())
    return Summary(found.events, found.every, found.tracks, at)


def _stands_s(event: FrameEvent, following: FrameEvent) -> float:
    seconds = (following.captured_at - event.captured_at).total_seconds()
    return seconds if 0 < seconds <= _STANDS_S else 0.0
