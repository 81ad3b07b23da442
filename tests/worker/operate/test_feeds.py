"""Looks at the feeds: books that balance, rates, owners, and what is wrong."""

from __future__ import annotations

import os
import socket

import pytest

from tests.doubles import running_worker
from tests.feeds import push_frames, wait_until
from worker.operate.feeds import Looks, as_json
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.registry import change, register
from worker.wire.server import Server


def test_rates_are_those_between_looks(server: Server, server_url: str, feed: str) -> None:
    looks = Looks(server)
    register(server, feed, policy="lossless", depth=1000)
    first = looks.again().feeds[feed]
    assert (first.offered_per_s, first.published_per_s) == (None, None)
    with running_worker(server_url):
        push_frames(server, feed, 20)
        wait_until(lambda: read_books(server, feed).published == 20)
        second = looks.again().feeds[feed]
    elapsed_s = (second.books.read_ms - first.books.read_ms) / 1000
    assert second.offered_per_s == pytest.approx(20 / elapsed_s, abs=0.01)
    assert second.published_per_s == second.offered_per_s
    assert second.owner == f"{socket.gethostname()}:{os.getpid()}"
    assert second.books.balanced
    server.command("FLUSHALL")
    register(server, feed)
    assert looks.again().feeds[feed].offered_per_s is None, "the books began anew"


def test_the_window_of_rates_moves_on(server: Server, feed: str) -> None:
    looks = Looks(server)
    register(server, feed)
    looks.again()
    push_frames(server, feed, 5)
    assert (looks.again().feeds[feed].offered_per_s or 0) > 0
    for _ in range(10):
        last = looks.again()
    wait_until(lambda: looks.again().feeds[feed].offered_per_s == 0)
    assert last.feeds[feed].books.offered == 5


def test_what_is_wrong_is_said_and_hides_nothing(server: Server) -> None:
    for name in ("good", "spoilt", "trimmed", "going"):
        push_frames(server, name, 3)
    server.command("SET", FeedKeys.of("spoilt").stats, "not a hash")
    server.command("XTRIM", FeedKeys.of("trimmed").frames, "MAXLEN", 1)
    change(server, "going", removing=True)
    look = Looks(server).again()
    assert set(look.feeds) == {"good", "trimmed", "going"}
    assert "WRONGTYPE" in look.complaints["spoilt"]
    assert "do not balance" in look.complaints["trimmed"]
    assert "mien feeds rm going" in look.complaints["going"]
    assert "good" not in look.complaints


def test_json_has_every_figure(server: Server, feed: str) -> None:
    push_frames(server, feed, 3, policy="lossless")
    plain = as_json(Looks(server).again().feeds[feed])
    assert plain["settings"]["policy"] == "lossless"
    assert plain["offered"] == plain["in_flight"] == 3
    assert plain["oldest_age_s"] >= 0
    assert (plain["owner"], plain["offered_per_s"]) == (None, None)
    outcomes = ("published", "dropped", "skipped", "dead", "in_flight")
    assert plain["offered"] == sum(plain[outcome] for outcome in outcomes)
