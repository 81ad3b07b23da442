"""Batches across feeds: order, shares, what was in hand before, and what is too old."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.feeds import frame_of, push_frames, wait_until
from tests.reading import Reading
from worker.consume.inhand import Delivery
from worker.consume.leases import Leases
from worker.wire.books import read_books
from worker.wire.keys import GROUP, FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server

Read = Callable[..., Reading]


@pytest.fixture
def leases(server: Server) -> Iterator[Leases]:
    made = Leases(server, ttl_s=5)
    yield made
    made.close()


@pytest.fixture
def read(server: Server, leases: Leases) -> Iterator[Read]:
    """Begins to read."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Reading(server, leases, **options))


def own(leases: Leases, *feeds: str) -> None:
    leases.start()
    wait_until(lambda: {lease.feed for lease in leases.held()} == set(feeds))


def test_a_feeds_frames_come_in_order_and_no_more_than_fit(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    push_frames(server, feed, 10)
    own(leases, feed)
    batches = read(size=4).batches()
    assert [len(batch) for batch in batches] == [4, 4, 2]
    ids = [delivery.frame_id for batch in batches for delivery in batch]
    assert ids == sorted(ids, key=lambda i: tuple(map(int, i.split("-"))))
    assert len(set(ids)) == 10
    assert not any(delivery.attempts for batch in batches for delivery in batch)


def test_a_batch_is_shared_evenly_between_feeds_with_frames(
    server: Server, leases: Leases, read: Read
) -> None:
    push_frames(server, "flood", 200)
    push_frames(server, "a", 4)
    push_frames(server, "b", 4)
    push_frames(server, "c", 4)
    own(leases, "flood", "a", "b", "c")
    batches = read(size=32).batches()
    served = Counter(delivery.feed for batch in batches[:2] for delivery in batch)
    assert served == {"flood": 4, "a": 4, "b": 4, "c": 4}
    assert all(len(batch) == 8 for batch in batches[:2]), "a short batch"


def test_more_feeds_than_fit_take_turns(server: Server, leases: Leases, read: Read) -> None:
    names = [f"feed-{i}" for i in range(7)]
    for name in names:
        push_frames(server, name, 3)
    own(leases, *names)
    first, second, *_ = read(size=4).batches()
    assert {d.feed for d in first} | {d.feed for d in second} == set(names)


def test_idle_feeds_do_not_take_a_busy_ones_room(
    server: Server, leases: Leases, read: Read
) -> None:
    idle = [f"idle-{i}" for i in range(40)]
    for name in idle:
        register(server, name)
    push_frames(server, "busy", 64)
    own(leases, "busy", *idle)
    batches = read(size=8).batches()
    assert [len(batch) for batch in batches] == [8] * 8


def test_room_is_left_for_feeds_that_had_frames_just_now(
    server: Server, leases: Leases, read: Read
) -> None:
    others = [push_frames(server, name, 1) for name in ("a", "b", "c")]
    push_frames(server, "flood", 64)
    own(leases, "a", "b", "c", "flood")
    reading = read(size=16)
    first = reading.batch()
    assert Counter(delivery.feed for delivery in first) == {"a": 1, "b": 1, "c": 1, "flood": 1}
    reading.settle(first)
    second = reading.batch()
    assert [delivery.feed for delivery in second] == ["flood"] * 2, "a quarter of a short batch"
    others[0].push(frame_of(others[0], 1))
    third = reading.batch()
    assert Counter(delivery.feed for delivery in third) == {"a": 1, "flood": 1}


def test_batches_stay_short_beside_a_feed_that_has_frames_now_and_then(
    server: Server, leases: Leases, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.consume.reader._ACTIVE_S", 0.05)
    push_frames(server, "rare", 1)
    push_frames(server, "flood", 64)
    own(leases, "rare", "flood")
    reading = read(size=16)
    reading.settle(reading.batch())
    time.sleep(0.1)
    alone = [reading.batch() for _ in range(2)]
    assert [delivery.feed for delivery in alone[0]] == ["flood"] * 8, "all of a short batch"
    monkeypatch.setattr("worker.consume.reader._COMPANY_S", 0.1)
    time.sleep(0.1)
    reading.settle([delivery for batch in alone for delivery in batch])
    reading.batch()
    assert len(reading.batch()) == 16


def test_a_batch_that_nobody_may_add_to_does_not_wait(
    server: Server, leases: Leases, read: Read
) -> None:
    for name in ("a", "b"):
        push_frames(server, name, 4)
    own(leases, "a", "b")
    began = time.monotonic()
    assert len(read(size=16, wait_s=20.0).batch()) == 8
    assert time.monotonic() - began < 10


def test_no_more_is_read_than_a_batch_takes(server: Server, leases: Leases, read: Read) -> None:
    names = [f"feed-{i}" for i in range(20)]
    for name in names:
        push_frames(server, name, 1)
    own(leases, *names)
    reading = read()
    first = reading.batch()
    in_hand = sum(read_books(server, name).in_hand for name in names)
    assert len(first) == in_hand == 8
    reading.settle(first)
    batches = [first, *reading.batches()]
    assert [len(batch) for batch in batches] == [8, 8, 4]
    assert {d.feed for batch in batches for d in batch} == set(names)


def test_nothing_is_read_once_we_stop(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    push_frames(server, feed, 1)
    own(leases, feed)
    reading = read()
    reading.stop.set()
    assert reading.batch() == []
    assert read_books(server, feed).in_hand == 0


def test_what_was_in_hand_takes_turns_with_what_is_new(
    server: Server, leases: Leases, read: Read
) -> None:
    push_frames(server, "crashed", 6)
    own(leases, "crashed")
    reading = read(size=6)
    crashed = reading.batch()
    assert len(crashed) == 6
    reading.throw_away(crashed)
    push_frames(server, "camera", 6)
    wait_until(lambda: len(leases.held()) == 2)
    batches = reading.batches()
    # Until its own look at what was in hand is over, the camera has nothing to give.
    feeds = [batch[0].feed for batch in batches]
    assert feeds[:3] in (["crashed", "camera", "crashed"], ["crashed", "crashed", "camera"])
    assert [d.attempts for batch in batches for d in batch if d.feed == "crashed"] == [1] * 6


def test_what_a_foreign_consumer_holds_is_ours_to_settle(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    push_frames(server, feed, 3)
    register(server, feed)
    frames = FeedKeys.of(feed).frames
    server.command("XGROUP", "CREATE", frames, GROUP, "0")
    server.command("XREADGROUP", "GROUP", GROUP, "by-hand", "COUNT", 2, "STREAMS", frames, ">")
    own(leases, feed)
    ids = [d.frame_id for batch in read(size=4).batches() for d in batch]
    assert len(ids) == 3
    assert ids == sorted(ids)


def test_a_batch_waits_for_others_and_no_longer(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    writer = push_frames(server, feed, 1)
    own(leases, feed)
    reading = read(wait_s=1.5)
    threading.Timer(0.2, writer.push, (frame_of(writer, 1),)).start()
    assert len(reading.batch()) == 2


def test_the_timer_starts_at_the_first_frame(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    register(server, feed)
    own(leases, feed)
    reading = read()
    assert reading.batch(idle_s=0.05) == [], "nothing on time-out"
    timer = threading.Timer(0.3, push_frames, (server, feed, 1))
    timer.start()
    began = time.monotonic()
    batch = reading.batch(idle_s=10.0)
    timer.join()
    assert len(batch) == 1
    assert time.monotonic() - began < 5, "the idle time does not count once a frame is there"


def test_what_was_in_hand_comes_first_and_alone(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    push_frames(server, feed, 5)
    own(leases, feed)
    reading = read(size=3)
    in_hand = reading.batch()
    reading.throw_away(in_hand)
    batches = reading.batches()
    assert [[d.frame_id for d in batch] for batch in batches[:3]] == [[d.frame_id] for d in in_hand]
    assert [d.attempts for batch in batches for d in batch] == [1] * 3 + [0] * 2


def test_a_body_deleted_while_in_hand_is_told(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    push_frames(server, feed, 1)
    own(leases, feed)
    reading = read(size=1)
    (delivery,) = reading.batch()
    server.command("XDEL", delivery.lease.keys.frames, delivery.frame_id)
    reading.throw_away([delivery])
    (again,) = reading.batch()
    assert again.gone


def test_only_live_frames_grow_stale(server: Server, leases: Leases, read: Read) -> None:
    push_frames(server, "live", 1, policy="live")
    push_frames(server, "lossless", 1)
    for name in ("live", "lossless"):
        register(server, name, staleness_s=0.05)
    time.sleep(0.1)
    own(leases, "live", "lossless")
    (batch,) = read(wait_s=0.1).batches()
    assert {d.feed: d.stale for d in batch} == {"live": True, "lossless": False}


def test_a_lost_lease_reads_nothing_and_is_given_up(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    push_frames(server, feed, 1)
    own(leases, feed)
    leases._closing.set()  # no renewal comes to our help
    leases._thread.join()
    (lease,) = leases.held()
    server.command("SET", lease.keys.lease, "somebody else")
    assert read().batch(idle_s=0.05) == []
    assert leases.held() == []


def test_a_feed_whose_keys_are_spoilt_does_not_stop_the_others(
    server: Server, leases: Leases, read: Read
) -> None:
    push_frames(server, "good", 1)
    register(server, "spoilt")
    server.command("SET", "mien:{spoilt}:frames", "not a stream")
    own(leases, "good", "spoilt")
    batches = read(size=4).batches()
    assert [d.feed for batch in batches for d in batch] == ["good"]


def test_a_frame_that_nobody_can_read_is_not_asked_for_again_and_again(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    """Somebody else has acknowledged it and left it in the stream: the feed rests, then goes on."""
    writer = push_frames(server, feed, 1)
    own(leases, feed)
    reading = read(size=1)
    (delivery,) = reading.batch()
    server.command("XACK", delivery.lease.keys.frames, GROUP, delivery.frame_id)
    reading.hands.settled([delivery])
    before = server.command("INFO", "commandstats")["cmdstat_xreadgroup"]["calls"]
    assert reading.batch(idle_s=0.5) == []
    after = server.command("INFO", "commandstats")["cmdstat_xreadgroup"]["calls"]
    assert after - before < 10
    writer.push(frame_of(writer, 1))
    found: list[Delivery] = []
    wait_until(lambda: bool(found.extend(reading.batch()) or found))
    assert found[0].frame_id != delivery.frame_id


def test_what_another_consumer_has_taken_from_a_held_feed_comes_back(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    register(server, feed)
    frames = FeedKeys.of(feed).frames
    own(leases, feed)
    reading = read(size=1)
    assert reading.batch() == []
    push_frames(server, feed, 1)
    server.command("XGROUP", "CREATE", frames, GROUP, "0")
    server.command("XREADGROUP", "GROUP", GROUP, "by-hand", "COUNT", 1, "STREAMS", frames, ">")
    found: list[Delivery] = []
    wait_until(lambda: bool(found.extend(reading.batch()) or found))


def test_a_feed_is_drained_once_nothing_of_it_is_in_hand(
    server: Server, leases: Leases, read: Read, feed: str
) -> None:
    push_frames(server, feed, 2)
    own(leases, feed)
    reading = read(size=1)
    (lease,) = leases.held()
    drained = reading.reader.drained
    assert not drained(lease), "what its last owner had in hand is not known yet"
    batch = reading.batch()
    assert not drained(lease)
    reading.settle(batch)
    assert drained(lease)
    reading.hands.doubt(lease)
    assert not drained(lease)
