"""A server that has reached its memory limit: it drains, it recovers, and everybody knows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.delivery.machines import DEBIAN, EMBEDDED, Machine, Workshop
from tests.doubles import running_worker
from tests.feeds import frame_of, wait_until
from worker.capture.writer import Writer
from worker.wire.books import read_books
from worker.wire.registry import register
from worker.wire.server import Server

ROOM = 8 << 20
"""Bytes beyond what the empty server uses."""


@pytest.fixture(params=["valkey", "redis"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A server with room for about ten large frames."""
    binary = EMBEDDED if request.param == "valkey" else DEBIAN
    if binary is None:
        pytest.skip("needs Debian's redis-server")
    with Workshop(tmp_path) as workshop:
        machine = workshop.machine("maxmemory-policy noeviction", binary=binary)
        limit(machine)
        yield machine


def limit(machine: Machine) -> None:
    used = machine.client.info("memory")["used_memory"]
    machine.client.config_set("maxmemory", used + ROOM)


def large() -> bytes:
    """A JPEG of 16x16 pixels with 700 kB after its end, which decoders do not look at."""
    picture = cv2.imencode(".jpg", np.full((16, 16, 3), 128, np.uint8))[1].tobytes()
    return picture + bytes(700_000)


def test_lossless_writers_wait_until_a_worker_has_made_room(small: Machine, feed: str) -> None:
    server = Server(small.url)
    said: list[str] = []
    writer = Writer(
        server, feed, stop=threading.Event(), policy="lossless", depth=1000, say=said.append
    )
    statuses: list[str] = []
    body = large()
    pushing = threading.Thread(
        target=lambda: statuses.extend(
            writer.push(frame_of(writer, sequence, body)).status for sequence in range(30)
        ),
        daemon=True,
    )
    pushing.start()
    wait_until(lambda: any("memory limit" in line for line in said))
    stuck = read_books(server, feed).offered
    assert 3 <= stuck < 30
    with running_worker(small.url):
        # It takes the lease, reads, settles and publishes on the full server.
        wait_until(lambda: read_books(server, feed).published == 30, timeout_s=60)
    pushing.join(timeout=10)
    assert statuses == ["accepted"] * 30
    books = read_books(server, feed)
    assert (books.offered, books.dropped, books.dead) == (30, 0, 0)
    assert books.balanced


def test_live_writers_refuse_and_count_and_go_on_afterwards(small: Machine, feed: str) -> None:
    server = Server(small.url)
    register(server, feed, policy="live", staleness_s=0.2)
    writer = Writer(server, feed, stop=threading.Event(), depth=1000, say=lambda _: None)
    body = large()
    statuses: list[str] = []
    while "refused" not in statuses:
        statuses.append(writer.push(frame_of(writer, len(statuses), body)).status)
        assert len(statuses) < 30
    accepted = statuses.count("accepted")
    assert accepted >= 3
    books = read_books(server, feed)
    assert (books.offered, books.in_flight, books.dropped) == (accepted, accepted, 0)
    with running_worker(small.url):
        wait_until(lambda: read_books(server, feed).in_flight == 0)
        # They had waited too long; but they have left, and there is room.
        assert read_books(server, feed).skipped == accepted
        register(server, feed, staleness_s=60.0)
        fresh = writer.push(frame_of(writer, len(statuses), body)).status
        assert fresh == "accepted"
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    assert read_books(server, feed).balanced


def test_an_operator_makes_room(small: Machine, feed: str) -> None:
    """Without any worker: the limit is raised, and the writer goes on by itself."""
    server = Server(small.url)
    said: list[str] = []
    writer = Writer(
        server, feed, stop=threading.Event(), policy="lossless", depth=1000, say=said.append
    )
    body = large()
    statuses: list[str] = []
    pushing = threading.Thread(
        target=lambda: statuses.extend(
            writer.push(frame_of(writer, sequence, body)).status for sequence in range(15)
        ),
        daemon=True,
    )
    pushing.start()
    wait_until(lambda: any("memory limit" in line for line in said))
    small.client.config_set("maxmemory", 0)
    pushing.join(timeout=30)
    assert statuses == ["accepted"] * 15
    assert read_books(server, feed).in_flight == 15
