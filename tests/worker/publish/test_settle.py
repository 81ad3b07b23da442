"""Settling as the pipeline calls it: what a feed says it keeps goes before the worker's own."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

from tests.doubles import running_worker
from tests.feeds import push_frames, wait_until
from worker.consume.inhand import Delivery
from worker.consume.leases import Lease
from worker.publish.settle import Kind, Outcome, settle, trim
from worker.wire.books import read_books
from worker.wire.keys import CONSUMER, GROUP, FeedKeys
from worker.wire.registry import FeedSettings, register
from worker.wire.server import Server, text

Settle = Callable[..., None]


@pytest.fixture
def settled(server: Server, feed: str) -> Settle:
    """Push, read and settle so many frames of a feed of these settings, under these defaults."""

    def settle_frames(count: int, kind: Kind, settings: FeedSettings, **defaults: float) -> None:
        lease = hold(server, feed, settings)
        push_frames(server, feed, count)
        reply = server.run(
            "read",
            [lease.keys.lease, lease.keys.frames, lease.keys.stats],
            [lease.token, GROUP, CONSUMER, ">", count, "worker-1"],
        )
        outcomes = [
            Outcome(Delivery(lease, text(frame_id), b""), kind, body=b"")
            for frame_id, _ in reply[2]
        ]
        kept: dict[str, float] = {"events_kept": 1000, "dead_kept": 1000, **defaults}
        answers = settle(server, outcomes, **kept)  # type: ignore[arg-type]
        assert [answer.status for answer in answers] == ["settled"] * count
        again = settle(server, outcomes, **kept)  # type: ignore[arg-type]
        assert {answer.status for answer in again} == {"already"}
        assert read_books(server, feed).balanced

    return settle_frames


def hold(server: Server, feed: str, settings: FeedSettings) -> Lease:
    lease = Lease(feed, secrets.token_hex(8), FeedKeys.of(feed), settings)
    server.command("SET", lease.keys.lease, lease.token)
    return lease


def left(server: Server, key: str) -> int:
    return int(server.command("XLEN", key))


@pytest.mark.parametrize(("kind", "stream"), [("published", "events"), ("dead", "dead")])
def test_the_feeds_own_limits_go_before_the_workers(
    server: Server, feed: str, settled: Settle, kind: Kind, stream: str
) -> None:
    key = getattr(FeedKeys.of(feed), stream)
    few = FeedSettings(**{f"{stream}_kept": 5})
    settled(250, kind, few)
    assert left(server, key) < 150
    settled(250, kind, FeedSettings(), **{f"{stream}_kept": 5})
    assert left(server, key) < 150
    settled(250, kind, FeedSettings(**{f"{stream}_kept": 900}), **{f"{stream}_kept": 5})
    assert left(server, key) > 250


@pytest.mark.parametrize(("kind", "stream"), [("published", "events"), ("dead", "dead")])
def test_ages_are_kept_likewise(
    server: Server, feed: str, settled: Settle, kind: Kind, stream: str
) -> None:
    key, age = getattr(FeedKeys.of(feed), stream), f"{stream}_age_s"

    def let_it_grow_old() -> None:
        last = server.command("XREVRANGE", key, "+", "-", "COUNT", 1)[0][0]
        wait_until(lambda: server.now_us() / 1000 > int(text(last).partition("-")[0]) + 250)

    settled(3, kind, FeedSettings(), **{age: 3600})
    let_it_grow_old()
    settled(1, kind, FeedSettings(**{age: 3600}), **{age: 0.2})
    assert left(server, key) == 4
    let_it_grow_old()
    settled(1, kind, FeedSettings(), **{age: 0.2})
    assert left(server, key) == 1
    let_it_grow_old()
    settled(1, kind, FeedSettings(**{age: 0.2}))
    assert left(server, key) == 1


def test_pixels_are_kept_where_the_feed_says_so(server: Server, feed: str, settled: Settle) -> None:
    settled(1, "dead", FeedSettings())
    settled(1, "dead", FeedSettings(dead_pixels=True))
    letters = server.command("XRANGE", FeedKeys.of(feed).dead, "-", "+")
    assert [b"frame" in fields for _, fields in letters] == [False, True]


def test_quiet_feeds_are_trimmed_by_their_own_age(server: Server) -> None:
    now_ms = server.now_us() // 1000
    ages = {"short": 60.0, "long": 36_000.0, "unset": 0.0}
    leases = [
        hold(server, name, register(server, name, events_age_s=age, dead_age_s=age))
        for name, age in ages.items()
    ]
    for lease in leases:
        for key in (lease.keys.events, lease.keys.dead):
            server.command("XADD", key, now_ms - 3_600_000, "n", 1)
            server.command("XADD", key, now_ms, "n", 2)
    trim(server, leases)
    for stream in ("events", "dead"):
        assert [left(server, getattr(lease.keys, stream)) for lease in leases] == [1, 2, 2]
    trim(server, leases, events_age_s=60.0, dead_age_s=36_000.0)
    assert [left(server, lease.keys.events) for lease in leases] == [1, 2, 1]
    assert [left(server, lease.keys.dead) for lease in leases] == [1, 2, 2]
    trim(server, [])


def test_a_worker_trims_the_quiet_feeds_that_it_holds(
    server: Server, server_url: str, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pipeline._TRIM_EVERY_S", 0.1)
    keys = FeedKeys.of(feed)
    register(server, feed, dead_age_s=36_000.0)
    long_ago_ms = server.now_us() // 1000 - 3_600_000
    for key in (keys.events, keys.dead):
        server.command("XADD", key, long_ago_ms, "n", 1)
    with running_worker(server_url, events_age_s=60.0, dead_age_s=60.0):
        wait_until(lambda: left(server, keys.events) == 0)
    assert left(server, keys.dead) == 1
