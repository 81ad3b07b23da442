"""What is in flight in the feeds we hold: how many frames, and how old the oldest is."""

from __future__ import annotations

import time

import pytest

from tests.feeds import push_frames, wait_until
from worker.consume.backlog import Backlog, backlog
from worker.consume.leases import Leases
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server


def test_frames_and_age_over_all_feeds(server: Server) -> None:
    assert backlog(server, []) == Backlog(0, 0.0)
    push_frames(server, "a", 3)
    time.sleep(0.2)
    push_frames(server, "b", 2)
    for name in ("empty", "spoilt"):
        register(server, name)
    server.command("SET", FeedKeys.of("spoilt").frames, "not a stream")
    leases = Leases(server)
    leases.start()
    wait_until(lambda: len(leases.held()) == 4)
    found = backlog(server, leases.held())
    assert found.frames == 5
    assert 0.2 <= found.oldest_age_s < 10
    oldest, *_ = server.command("XRANGE", FeedKeys.of("a").frames, "-", "+", "COUNT", 1)[0]
    server.command("XDEL", FeedKeys.of("a").frames, oldest)
    assert backlog(server, leases.held()).frames == 4, "a deletion falsifies nothing"
    leases.close()


def test_a_clock_that_goes_back_makes_no_negative_age(server: Server, feed: str) -> None:
    register(server, feed)
    server.command("XADD", FeedKeys.of(feed).frames, "9999999999999-0", "frame", b"x")
    leases = Leases(server)
    leases.start()
    wait_until(lambda: len(leases.held()) == 1)
    assert backlog(server, leases.held()) == Backlog(1, pytest.approx(0.0))
    leases.close()
