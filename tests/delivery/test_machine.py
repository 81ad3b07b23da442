"""The scripts under arbitrary interleavings: a model says what each call must answer, and the
server must agree with it after every step.

The steps are what can befall a frame between a writer and several workers, told by the calls that
reach the server: a reply that is lost is a call of whose effect the caller does not know, a worker
that is paused is one whose calls come late, one that dies comes back and knows nothing. A failover
is the feed as it was at an earlier moment, with writers and workers that know what came after it.
"""

from __future__ import annotations

import sys
import uuid
from bisect import insort
from collections import Counter
from copy import deepcopy
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, settings, stateful
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from worker.records import Policy
from worker.wire.books import read_books
from worker.wire.keys import CONSUMER, GROUP, FeedKeys
from worker.wire.server import Server, text

DEPTH = 3
WORKERS = 3
Id = tuple[int, int]
"""A stream's id, in its order."""

feeds = st.integers(0, 1)
OWNER = -1
workers = st.sampled_from([OWNER, OWNER, OWNER, *range(WORKERS)])
"""Mostly whoever holds the lease, so that the feeds get on."""
kinds = st.sampled_from(["published", "dead", "skipped", "dropped"])
places = st.sampled_from([0, 0, 0, 1, 2, 3])
lost_replies = st.booleans()
seldom = st.sampled_from([False] * 4 + [True])
mostly = st.sampled_from([True, True, True, False])
settled = st.sampled_from(["in hand", "in hand", "settled", "unread"])


@dataclass
class Feed:
    """What the server must hold of one feed, and what is known of it elsewhere."""

    name: str
    policy: Policy
    owner: str = ""
    """Token of the lease."""
    unread: list[Id] = field(default_factory=list)
    pending: list[Id] = field(default_factory=list)
    outcomes: dict[Id, str] = field(default_factory=dict)
    displaced: set[Id] = field(default_factory=set)
    letters: list[str] = field(default_factory=list)
    alone: tuple[Id | None, set[str]] = (None, set())
    """The frame that was last read alone, and by whom."""
    accepted: int = 0
    sessions: int = 1
    """How many writer sessions there are; the last one is the writer's."""
    last: tuple[int, int] = (0, -1)
    """Session and sequence of the last frame accepted."""
    told: int | None = None
    """The last sequence of which the writer has heard that it was accepted."""

    def __post_init__(self) -> None:
        self.keys = FeedKeys.of(self.name)


@dataclass
class Worker:
    """What one worker believes."""

    process: int
    """Changes when it dies."""
    tokens: dict[int, str] = field(default_factory=dict)
    hands: dict[int, list[Id]] = field(default_factory=dict)


class Delivery(RuleBasedStateMachine):
    """Two feeds, one of each policy, and three workers."""

    def __init__(self, server: Server, met: Counter[str]) -> None:
        super().__init__()
        self.server = server
        self.met = met  # what the scripts have answered
        self.serial = 0

    @initialize()
    def begin(self) -> None:
        name = uuid.uuid4().hex[:12]
        self.feeds = [Feed(f"{name}-a", "lossless"), Feed(f"{name}-b", "live")]
        self.workers = [Worker(self._next()) for _ in range(WORKERS)]
        self.replicas: dict[int, tuple[dict[str, Any], Feed]] = {}
        # Something to lose from the first step on.
        for feed in range(len(self.feeds)):
            self.acquire(feed, feed)
            for _ in range(DEPTH):
                self.push(feed, ahead=1, lost=False, new=False, keeps=True)
            self.read_new(feed, feed, count=2, lost=False)
            self.fail_over(feed, fails=False)

    def teardown(self) -> None:
        for feed in getattr(self, "feeds", []):
            self.server.command("DEL", *astuple(feed.keys))

    # The writer.

    @rule(feed=feeds, ahead=st.integers(1, 3), lost=lost_replies, new=seldom, keeps=mostly)
    def push(self, feed: int, ahead: int, lost: bool, new: bool, keeps: bool) -> None:
        """The next frame, or one after some that were given up, or the first of a new session; by
        a writer that keeps what is not replicated, which says what it was told."""
        if new:
            self.feeds[feed].sessions += 1
            self.feeds[feed].told = None
        one = self.feeds[feed]
        session, sequence = one.last
        sequence = sequence + ahead if session == one.sessions else ahead
        status = self._push(one, one.sessions, sequence, one.told if keeps else None)
        if status in ("accepted", "repeat") and not lost:
            one.told = max(sequence, one.told or 0)
        elif status == "behind":
            one.told = one.last[1] if session == one.sessions else None

    @rule(feed=feeds, session=st.integers(0, 1), back=st.integers(0, 2))
    def push_again(self, feed: int, session: int, back: int) -> None:
        """Its reply was lost; or it comes from long ago, or from a writer that was paused when
        another took over."""
        last, sequence = self.feeds[feed].last
        self._push(self.feeds[feed], max(0, last - session), max(0, sequence - back))

    def _push(self, one: Feed, session: int, sequence: int, told: int | None = None) -> str:
        last = one.last[1] if session == one.last[0] else -1
        if session < one.last[0]:
            expected = "superseded"
        elif told is not None and last < told:
            expected = "behind"
        elif sequence <= last:
            expected = "repeat"
        elif one.policy == "lossless" and len(one.unread) >= DEPTH:
            expected = "full"
        else:
            expected = "accepted"
        body = b"%d %d" % (session, sequence)
        known = "" if told is None else told
        reply = self.server.run(
            "push",
            [one.keys.frames, one.keys.stats],
            [GROUP, f"{session:06}", sequence, one.policy, DEPTH, body, known],
        )
        self._answered("push", text(reply[0]), expected)
        if expected == "behind":
            assert text(reply[1]) == (str(last) if last >= 0 else "")
        if expected == "accepted":
            room = max(0, len(one.unread) - DEPTH + 1)
            assert reply[2] == room
            one.displaced.update(one.unread[:room])
            del one.unread[:room]
            self._accepted(one, reply[1])
            one.last = (session, sequence)
        return expected

    # The leases.

    @rule(worker=workers, feed=feeds)
    def acquire(self, worker: int, feed: int) -> None:
        one, me = self.feeds[feed], self._worker(worker, feed)
        token = f"{me.process}.{self._next()}"
        taken = self.server.run("lease", [one.keys.lease], ["acquire", token, 60_000])
        assert taken == (one.owner == "")
        if taken:
            one.owner = me.tokens[feed] = token
            me.hands[feed] = []

    @rule(worker=workers, feed=feeds, verb=st.sampled_from(["renew", "renew", "release"]))
    def renew_or_release(self, worker: int, feed: int, verb: str) -> None:
        one, token = self.feeds[feed], self._token(worker, feed)
        ours = self.server.run("lease", [one.keys.lease], [verb, token, 60_000])
        assert ours == (one.owner == token)
        if ours and verb == "release":
            one.owner = ""

    @rule(feed=feeds, dies=st.booleans(), taker=st.integers(0, WORKERS - 1))
    def take_over(self, feed: int, dies: bool, taker: int) -> None:
        """The lease runs out. Whoever held it is dead, or does not know and goes on."""
        one, holder = self.feeds[feed], self._worker(OWNER, feed)
        if dies:
            self.workers[self.workers.index(holder)] = Worker(self._next())
        self.server.command("DEL", one.keys.lease)
        one.owner = ""
        self.acquire(taker, feed)

    # Reading and settling.

    @rule(worker=workers, feed=feeds, count=st.integers(1, 4), lost=lost_replies)
    def read_new(self, worker: int, feed: int, count: int, lost: bool) -> None:
        one = self.feeds[feed]
        reply = self._read(worker, feed, ">", count)
        if reply is not None:
            expected, one.unread = one.unread[:count], one.unread[count:]
            one.pending += expected
            assert [_id(name) for name, _ in reply[0]] == expected
            if not lost:
                self._worker(worker, feed).hands[feed] += expected

    @rule(worker=workers, feed=feeds, known=places, lost=lost_replies)
    def read_pending(self, worker: int, feed: int, known: int, lost: bool) -> None:
        """From the first one on, or after those that it already knows."""
        one, me = self.feeds[feed], self._worker(worker, feed)
        after = "0" if known == 0 else _name((one.pending[:known] or [(0, 0)])[-1])
        reply = self._read(worker, feed, after, 1)
        if reply is None:
            return
        entries, attempts = reply
        assert [_id(name) for name, _ in entries] == one.pending[known : known + 1]
        if entries:
            frame = _id(entries[0][0])
            who = one.alone[1] if one.alone[0] == frame else set()
            one.alone = (frame, who | {str(me.process)})
            assert attempts == len(one.alone[1])
            if not lost and frame not in me.hands[feed]:
                insort(me.hands[feed], frame)

    def _read(self, worker: int, feed: int, after: str, count: int) -> Any:
        """Entries and attempts; None if the lease is, and must be, another's."""
        one, token = self.feeds[feed], self._token(worker, feed)
        reply = self.server.run(
            "read",
            [one.keys.lease, one.keys.frames, one.keys.stats],
            [token, GROUP, CONSUMER, after, count, f"{self._worker(worker, feed).process:06}"],
        )
        self._answered("read", text(reply[0]), "ok" if one.owner == token else "lost")
        return reply[2:] or None

    @rule(worker=workers, feed=feeds, what=settled, place=places, kind=kinds)
    def settle(self, worker: int, feed: int, what: str, place: int, kind: str) -> None:
        """In its turn, out of order, late, or twice, or what nobody has read."""
        one = self.feeds[feed]
        frames = {
            "in hand": self._worker(worker, feed).hands.get(feed, []),
            "settled": sorted(one.outcomes, reverse=True),
            "unread": one.unread,
        }[what]
        if place < len(frames):
            self._settle(worker, feed, frames[place], kind)

    @rule(worker=workers, feed=feeds, kind=kinds, count=st.integers(1, 4), done=st.integers(0, 4))
    def work(self, worker: int, feed: int, kind: str, count: int, done: int) -> None:
        """As a worker does when all goes well; but it may get no further than to settle a part."""
        one, me = self.feeds[feed], self._worker(worker, feed)
        worker = self.workers.index(me)
        if not one.owner:
            self.acquire(worker, feed)
        if me.tokens.get(feed) == one.owner:
            while one.pending and done:
                self.read_pending(worker, feed, known=0, lost=False)
                self._settle(worker, feed, one.pending[0], kind)
                done -= 1
            me.hands[feed] = list(one.pending)
            self.read_new(worker, feed, count, lost=False)
            for frame in me.hands[feed][:done]:
                self._settle(worker, feed, frame, kind)
            del me.hands[feed][:done]

    def _settle(self, worker: int, feed: int, frame: Id, kind: str) -> None:
        one, token = self.feeds[feed], self._token(worker, feed)
        lowest = min(one.pending, default=(sys.maxsize, 0))
        expected = "settled" if frame == lowest else "already" if frame < lowest else "order"
        if one.owner != token:
            expected = "lost"
        keys, name = one.keys, _name(frame)
        reply = self.server.run(
            "settle",
            [keys.lease, keys.frames, keys.events, keys.dead, keys.stats, keys.state],
            [token, GROUP, name, kind, name, "", 1000, "reason", "", 0, 1000, 0, 1],
        )
        self._answered("settle", text(reply[0]), expected)
        if expected == "settled":
            assert frame not in one.outcomes
            one.outcomes[one.pending.pop(0)] = kind
            if kind == "dead":
                ((letter, _),) = self.server.command("XREVRANGE", keys.dead, "+", "-", "COUNT", 1)
                one.letters.append(text(letter))

    # The operator.

    @rule(feed=feeds, place=places, crowded=st.booleans())
    def redrive(self, feed: int, place: int, crowded: bool) -> None:
        one = self.feeds[feed]
        if place >= len(one.letters):
            self.settle(OWNER, feed, "in hand", 0, "dead")
            return
        while crowded and len(one.unread) < DEPTH:
            self._push(one, one.sessions, one.last[1] + 1)
        letter, keys = one.letters[place], [one.keys.dead, one.keys.frames]
        status, frame = self.server.run("redrive", keys, [GROUP, letter, DEPTH])
        expected = "redriven" if len(one.unread) < DEPTH else "full"
        self._answered("redrive", text(status), expected)
        if text(status) == "redriven":
            one.letters.remove(letter)
            self._accepted(one, frame)
            assert text(self.server.run("redrive", keys, [GROUP, letter, DEPTH])[0]) == "gone"

    # The server.

    @rule(feed=feeds, fails=st.booleans())
    def fail_over(self, feed: int, fails: bool) -> None:
        """A replica gets all that there is; or it takes the server's place with what it had got,
        and writer and workers know nothing of it."""
        one = self.feeds[feed]
        if not fails:
            values = {key: self.server.command("DUMP", key) for key in astuple(one.keys)}
            self.replicas[feed] = (values, deepcopy(one))
        elif feed in self.replicas:
            values, then = self.replicas[feed]
            self.server.command("DEL", *values)
            for key, value in values.items():
                if value is not None:
                    self.server.command("RESTORE", key, 0, value)
            self.feeds[feed] = replace(deepcopy(then), sessions=one.sessions, told=one.told)

    # What must hold at every moment.

    @invariant()
    def the_server_says_what_has_happened(self) -> None:
        for one in getattr(self, "feeds", []):
            books = read_books(self.server, one.name)
            assert books.balanced
            counts = Counter(one.outcomes.values())
            counts["dropped"] += len(one.displaced)
            assert (books.offered, books.in_hand) == (one.accepted, len(one.pending))
            assert books.in_flight == len(one.unread) + len(one.pending)
            for kind in ("published", "dropped", "skipped", "dead"):
                assert getattr(books, kind) == counts[kind]
            # Each event is there once, in order, and made from its frame; each dead letter once.
            entries = self.server.command("XRANGE", one.keys.events, "-", "+")
            published = sorted(id for id, kind in one.outcomes.items() if kind == "published")
            assert [_id(name) for name, _ in entries] == published
            ordinals = [int(fields[b"n"]) for _, fields in entries]
            assert ordinals == list(range(1, len(entries) + 1))
            assert all(fields[b"event"].startswith(name) for name, fields in entries)
            letters = self.server.command("XRANGE", one.keys.dead, "-", "+")
            assert [text(name) for name, _ in letters] == one.letters

    def _accepted(self, one: Feed, name: bytes) -> None:
        """Ids rise, whatever has become of the earlier frames."""
        frame = _id(name)
        known = [*one.outcomes, *one.pending, *one.unread, *one.displaced]
        assert frame > max(known, default=(0, 0))
        one.unread.append(frame)
        one.accepted += 1

    def _answered(self, script: str, status: str, expected: str) -> None:
        assert status == expected
        self.met[f"{script} {status}"] += 1

    def _token(self, worker: int, feed: int) -> str:
        return self._worker(worker, feed).tokens.get(feed, "none")

    def _worker(self, worker: int, feed: int) -> Worker:
        """``worker``, or the one that holds the lease of ``feed``, or the first if none does."""
        owner = self.feeds[feed].owner
        holders = [one for one in self.workers if one.tokens.get(feed) == owner]
        return (holders or self.workers)[0] if worker == OWNER else self.workers[worker]

    def _next(self) -> int:
        self.serial += 1
        return self.serial


def _id(name: bytes) -> Id:
    milliseconds, _, counter = text(name).partition("-")
    return int(milliseconds), int(counter)


def _name(frame: Id) -> str:
    return f"{frame[0]}-{frame[1]}"


ANSWERS = (
    "push accepted, push repeat, push full, push superseded, push behind, read ok, read lost, "
    "settle settled, settle already, settle order, settle lost, redrive redriven, redrive full"
)


def test_the_scripts_under_arbitrary_interleavings(server: Server) -> None:
    met: Counter[str] = Counter()
    stateful.run_state_machine_as_test(
        lambda: Delivery(server, met),  # type: ignore[arg-type]
        settings=settings(
            max_examples=150, stateful_step_count=80, deadline=None, database=None,
            print_blob=True, suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    missing = set(ANSWERS.split(", ")) - met.keys()
    assert not missing, "each answer of the scripts is to be provoked"
