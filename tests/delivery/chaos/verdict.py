"""Whether every frame of a chaos run is accounted for, and the figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.delivery.chaos.evidence import Evidence, RolledBack, order
from tests.delivery.chaos.picture import REASONS, Kind, kind_of
from worker.records import FrameEvent

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one feed's frames."""

    repeated: int
    """Frames with more than one outcome."""
    lost: int
    """Frames accepted, as their writer was told, that have no outcome and were not rolled back."""
    pushed_again: int
    """Frames that a failover had rolled back and that have an outcome all the same."""
    faults: tuple[str, ...]
    """What must not be; empty if all is well."""


def judge(
    evidence: Evidence,
    seen: Sequence[tuple[str, int]],
    *,
    seed: int,
    feeds: int,
    rolled_back: RolledBack,
) -> Verdict:
    """Judge one feed.

    Args:
        seen: (id, ordinal) of the events that a subscriber has had, as they came.
        seed, feeds: of the run; they tell what each frame was to be.
        rolled_back: what failovers have undone of it.
    """
    books, events, deaths = evidence.books, evidence.events, evidence.deaths
    outcomes = Counter((event.session, event.sequence) for event in events)
    outcomes.update((death.session, death.sequence) for death in deaths)
    repeated = sum(count > 1 for count in outcomes.values())
    writers = {journal.session: journal.writer for journal in evidence.journals}
    accepted = {(j.session, n) for j in evidence.journals for n in j.accepted}
    doubtful = {(j.session, n) for j in evidence.journals for n in j.doubtful}
    without = accepted - outcomes.keys()
    live = evidence.feed.policy == "live"
    uncounted = len(without - rolled_back.frames) - books.dropped - books.skipped
    lost = max(0, uncounted - (rolled_back.untold if live else 0))

    def kind(session: str, sequence: int) -> Kind:
        return kind_of(seed, feeds, evidence.feed.number, writers[session], sequence)

    def faults() -> Iterator[str]:
        if not books.balanced or books.in_flight or books.in_hand:
            yield f"the books do not balance: {books}"
        if (books.published, books.dead) != (len(events), len(deaths)):
            yield f"the books do not tell what the streams hold: {books}"
        if repeated:
            yield f"frames with several outcomes: {_some(f for f, n in outcomes.items() if n > 1)}"
        if strangers := outcomes.keys() - accepted - doubtful:
            yield f"outcomes of frames that nobody pushed: {_some(strangers)}"
            return  # what follows needs to know each frame
        if lost:
            yield f"{lost} accepted frames without an outcome, of {_some(without)}"
        if not live and (books.dropped or books.skipped):
            yield f"a lossless feed has dropped or skipped: {books}"
        # A frame whose acceptance was not heard of may have come in, and then been dropped.
        if live and uncounted + len(doubtful | rolled_back.frames) < 0:
            yield f"more dropped and skipped than were accepted: {books}"
        yield from _order_faults(events)
        for death in deaths:
            expected = REASONS.get(kind(death.session, death.sequence))
            if death.reason != expected:
                yield f"dead of {death.reason}, not of {expected}: {death}"
        for event in events:
            if kind(event.session, event.sequence) in REASONS:
                yield f"a bad frame was published: {event.session} {event.sequence}"
            if not _belongs(event, evidence.feed.number, writers[event.session]):
                yield f"an event of another frame: {event}"
        there = [(event.frame_id, event.ordinal) for event in events]
        if list(seen) != there:
            yield f"a subscriber saw {len(seen)} events, not these {len(there)} in their order"

    pushed_again = len(rolled_back.frames & outcomes.keys())
    return Verdict(repeated, lost, pushed_again, tuple(faults()))


def _order_faults(events: Sequence[FrameEvent]) -> Iterator[str]:
    for number, event in enumerate(events, 1):
        if event.ordinal != number:
            yield f"event {event.frame_id} has the ordinal {event.ordinal}, not {number}"
            return
    for one, two in pairwise(events):
        if order(two.frame_id) <= order(one.frame_id):
            yield f"event {two.frame_id} comes after {one.frame_id}"
        if (two.session, two.sequence) <= (one.session, one.sequence):
            yield f"frame {two.sequence} of {two.session} comes after {one.sequence}"


def _belongs(event: FrameEvent, feed: int, writer: int) -> bool:
    """Whether the picture that the event was made from is its frame's."""
    (face,) = event.faces
    (drawn_writer, drawn_sequence), (drawn_feed, _) = face.landmarks[:2]
    return (drawn_feed, drawn_writer, drawn_sequence) == (feed, writer, event.sequence) and (
        event.pts_seconds == event.sequence
    )


def _some(frames: object) -> str:
    listed = sorted(frames)  # type: ignore[call-overload]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{listed[:_SHOWN]}{more}"
