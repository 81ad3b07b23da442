"""Leases on a real server: taken over in time, and void for whoever was away."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.crc import key_slot

from tests.delivery.conftest import Killable, StartWorker
from tests.delivery.machines import Workshop, cluster_of
from tests.doubles import OneFace, running_worker
from tests.feeds import frame_of, push_frames, wait_until
from tests.ports import free_port
from worker.consume.bell import Bell
from worker.errors import ServerUnavailable
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server
from worker.wire.workers import WORKERS

KEYS = [FeedKeys.of(name).frames for name in ("a", "b")]


class Cable:
    """A way to the server that can be cut: then nothing passes, and nothing is refused either."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname or "", parts.port or 0)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._door.getsockname()[1]}"
        self.whole = threading.Event()
        self.whole.set()
        self._ends: list[socket.socket] = [self._door]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._door.accept()
                far = socket.create_connection(self._to)
                self._ends += [near, far]
                threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as ready:
            for end in other:
                ready.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    self.whole.wait()
                    if not data:
                        near.close()
                        far.close()
                        return
                    other[key.fileobj].sendall(data)  # type: ignore[index]

    def close(self) -> None:
        self.whole.set()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.close()


@pytest.fixture
def cable(server_url: str) -> Iterator[Cable]:
    cable = Cable(server_url)
    yield cable
    cable.close()


def test_a_killed_workers_feed_is_taken_over_when_its_lease_has_run_out(
    server: Server, server_url: str, feed: str, start_worker: StartWorker
) -> None:
    """Again and again: never before, and within the time-to-live and a second."""
    register(server, feed)
    lease = FeedKeys.of(feed).lease
    took = []
    process = start_worker()
    for _ in range(4):
        wait_until(lambda: server.command("EXISTS", lease) == 1)
        other = start_worker()
        wait_until(lambda: server.command("HLEN", WORKERS) == 2)
        token = server.command("GET", lease)
        process.kill()
        process.wait()
        killed = time.monotonic()
        wait_until(lambda token=token: server.command("GET", lease) not in (token, None))  # type: ignore[misc]
        took.append(time.monotonic() - killed)
        process = other
    # The workers' time-to-live is half a second; a busy machine may be late by another one.
    assert max(took) < 0.5 + 1.0 + 1.0, took


def test_a_worker_cut_off_with_frames_in_hand_changes_nothing_when_it_is_back(
    server: Server, server_url: str, feed: str, cable: Cable
) -> None:
    register(server, feed)
    reached = threading.Event()

    def look(images: object) -> None:
        if cable.whole.is_set():
            cable.whole.clear()
            reached.set()

    with running_worker(cable.url, OneFace(look), lease_ttl_s=1.0, batch_size=4):
        wait_until(lambda: read_books(server, feed).owned)
        push_frames(server, feed, 20)
        assert reached.wait(20), "the cable is cut with a batch in hand"
        token = server.command("GET", FeedKeys.of(feed).lease)
        with running_worker(server_url, lease_ttl_s=1.0) as other:
            wait_until(lambda: read_books(server, feed).in_flight == 0)
            assert server.command("GET", FeedKeys.of(feed).lease) != token
            cable.whole.set()
            push_frames(server, feed, 20)
            wait_until(lambda: read_books(server, feed).published == 40)
            assert other.sample("mien_frames_total", feed=feed, outcome="published") == 40
    found = list(events(feed, redis=server_url, since="start", follow=False))
    assert [event.sequence for event in found] == [*range(20), *range(20)]
    assert [event.ordinal for event in found] == list(range(1, 41))
    books = read_books(server, feed)
    assert books.balanced
    assert books.dead == 0


def test_the_bell_rings_again_after_an_outage(killable: Killable) -> None:
    server = Server(killable.url)
    bell = Bell(server, "XLEN", trust_s=60)

    def news() -> object:
        try:
            return bell.news(KEYS)
        except ServerUnavailable:
            return None

    assert len(bell.news(KEYS)) == 2
    killable.kill()
    bell.wait(10)
    with pytest.raises(ServerUnavailable, match="no answer"):
        bell.news(KEYS)
    killable.start()
    wait_until(lambda: news() == dict.fromkeys(KEYS, 0))
    server.command("XADD", KEYS[0], "*", "frame", b"x")
    wait_until(lambda: news() == {KEYS[0]: 1})
    bell.close()


def test_a_cluster_that_lost_the_table_of_workers_loses_no_other_feed(tmp_path: Path) -> None:
    """The shard with ``mien:workers`` is gone: nothing is shared out, what is held goes on."""
    with Workshop(tmp_path) as workshop:
        machines = [
            workshop.machine(
                "cluster-enabled yes",
                f"cluster-port {free_port()}",
                "cluster-node-timeout 1000",
                "cluster-require-full-coverage no",
            )
            for _ in range(3)
        ]
        url = cluster_of(machines)
        server = Server(url)

        def shard(key: str) -> int:
            return key_slot(key.encode()) // -(-16384 // 3)

        names = [name for name in map(str, range(40)) if shard(name) != shard(WORKERS)][:4]
        writers = [push_frames(server, name, 3) for name in names]
        with running_worker(url, lease_ttl_s=2.0) as worker:
            wait_until(lambda: all(read_books(server, name).published == 3 for name in names))
            tokens = {lease.token for lease in worker.pipeline._leases.held()}
            machines[shard(WORKERS)].kill()
            time.sleep(3)
            for writer in writers:
                writer.push(frame_of(writer, 3))
            wait_until(lambda: all(read_books(server, name).published == 4 for name in names))
            assert {lease.token for lease in worker.pipeline._leases.held()} == tokens
        server.close()
