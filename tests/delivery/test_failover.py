"""A primary with its replica, and no Sentinel: roles that change, data sets that load, flushes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.delivery.machines import DEBIAN, EMBEDDED, Workshop, replicate
from tests.doubles import running_worker
from tests.feeds import frame_of, push_frames, wait_until
from worker.capture.writer import Writer
from worker.errors import ServerUnavailable
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.keys import FEEDS, GROUP, FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server


class Pair:
    """A primary and its replica."""

    def __init__(self, workshop: Workshop, binary: str) -> None:
        durable = ("appendonly yes", "appendfsync always", "repl-diskless-sync-delay 0")
        self.primary, self.replica = (workshop.machine(*durable, binary=binary) for _ in range(2))
        replicate(self.replica, self.primary)


@pytest.fixture(params=["valkey", "redis"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    binary = EMBEDDED if request.param == "valkey" else DEBIAN
    if binary is None:
        pytest.skip("needs Debian's redis-server")
    with Workshop(tmp_path) as workshop:
        yield Pair(workshop, binary)


def test_a_primary_that_becomes_a_replica_and_back(pair: Pair, feed: str) -> None:
    """READONLY is an outage that passes: the writer waits, the worker keeps what it knows."""
    server = Server(pair.primary.url)
    with running_worker(pair.primary.url, lease_ttl_s=1.0) as worker:
        writer = push_frames(server, feed, 10)
        # Not before the replica has it all: what it has not is rolled back (another test).
        replica = Server(pair.replica.url)
        wait_until(lambda: read_books(replica, feed).published == 10)
        pair.replica.client.execute_command("REPLICAOF", "NO", "ONE")
        replicate(pair.primary, pair.replica)
        with pytest.raises(ServerUnavailable, match="read-only replica"):
            server.command("HSET", FEEDS, feed, "{}")
        wait_until(lambda: not worker.health.readiness()[0])
        pushed: list[str] = []
        late = threading.Thread(
            target=lambda: pushed.append(writer.push(frame_of(writer, 10)).status), daemon=True
        )
        late.start()
        late.join(timeout=0.3)
        assert not pushed, "the writer waits"
        pair.primary.client.execute_command("REPLICAOF", "NO", "ONE")
        wait_until(lambda: read_books(server, feed).published == 11)
        late.join(timeout=20)
    assert pushed == ["accepted"]


def test_a_replica_can_be_read_and_takes_nothing(pair: Pair, feed: str) -> None:
    push_frames(Server(pair.primary.url), feed, 10)
    with running_worker(pair.primary.url):
        wait_until(lambda: read_books(Server(pair.primary.url), feed).published == 10)
    replica = Server(pair.replica.url)
    wait_until(lambda: read_books(replica, feed).published == 10)
    found = events(feed, redis=pair.replica.url, since="start", follow=False)
    assert [event.sequence for event in found] == list(range(10))
    with pytest.raises(ServerUnavailable, match="read-only replica"):
        Writer(replica, feed, stop=threading.Event(), depth=7)


def test_a_writer_can_wait_for_the_replica(pair: Pair, feed: str) -> None:
    server = Server(pair.primary.url)
    keys = FeedKeys.of(feed)
    arguments = [GROUP, "1-a", 0, "lossless", 8, b"x"]

    def push(sequence: int, replicas: int, timeout_ms: int = 500) -> tuple[bytes, int]:
        arguments[2] = sequence
        reply, acknowledged = server.run_replicated(
            "push", [keys.frames, keys.stats], arguments, replicas=replicas, timeout_ms=timeout_ms
        )
        return reply[0], acknowledged

    wait_until(lambda: push(0, 1)[1] == 1)
    assert pair.replica.client.xlen(keys.frames) == 1
    assert push(1, 1) == (b"accepted", 1)
    assert pair.replica.client.xlen(keys.frames) == 2
    assert push(2, 2, timeout_ms=20) == (b"accepted", 1), "there is only one"
    server.command("SCRIPT", "FLUSH")
    assert push(3, 1) == (b"accepted", 1)
    pair.replica.kill()
    assert push(4, 1, timeout_ms=20) == (b"accepted", 0)


def test_scripts_and_data_flushed_while_all_work(pair: Pair, feed: str) -> None:
    server = Server(pair.primary.url)
    with running_worker(pair.primary.url, lease_ttl_s=1.0):
        writer = push_frames(server, feed, 10)
        wait_until(lambda: read_books(server, feed).published == 10)
        server.command("SCRIPT", "FLUSH")
        assert writer.push(frame_of(writer, 10)).status == "accepted"
        wait_until(lambda: read_books(server, feed).published == 11)
        server.command("FLUSHALL")
        register(server, feed, policy="lossless")
        assert writer.push(frame_of(writer, 11)).status == "accepted"
        wait_until(lambda: read_books(server, feed).published == 1)
    assert read_books(server, feed).balanced


def test_a_server_that_loads_its_data_is_waited_for(pair: Pair, feed: str) -> None:
    server = Server(pair.primary.url)
    writer = push_frames(server, feed, 5)
    # A hundred keys, each of which takes 10 ms to load.
    for i in range(100):
        pair.primary.client.set(f"large-{i}", bytes(4096))
    pair.primary.client.bgrewriteaof()
    wait_until(lambda: len(list(pair.primary.folder.glob("appendonlydir/*.2.base.rdb"))) == 1)
    wait_until(lambda: not pair.primary.client.info("persistence")["aof_rewrite_in_progress"])
    with pair.primary.config.open("a") as config:
        config.write("key-load-delay 10000\nloading-process-events-interval-bytes 2048\n")
    pair.primary.kill()
    pair.primary.start(wait=False)
    met: set[str] = set()

    def loaded() -> bool:
        try:
            return server.command("HLEN", FEEDS) == 1
        except ServerUnavailable as error:
            met.add(str(error))
            return False

    wait_until(loaded)
    assert any("loading" in said for said in met), met
    assert writer.push(frame_of(writer, 5)).status == "accepted"
    assert read_books(server, feed).offered == 6
