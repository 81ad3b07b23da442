"""A server that dies, refuses or comes back: nothing is lost, and nobody gives up."""

from __future__ import annotations

import threading
import time

import pytest

from tests.delivery.conftest import Killable
from tests.doubles import running_worker
from tests.feeds import frame_of, push_frames, wait_until
from worker.capture.writer import Writer
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.registry import register
from worker.wire.server import Server


def test_a_server_that_dies_and_comes_back_loses_nothing(killable: Killable, feed: str) -> None:
    """Writer, worker and subscriber ride through three kills of the server."""
    frames = 300
    stop = threading.Event()
    statuses: list[str] = []
    seen: list[int] = []

    def write() -> None:
        writer = Writer(
            Server(killable.url), feed, stop=stop, policy="lossless", depth=20,
            say=lambda message: None,
        )  # fmt: skip
        for sequence in range(frames):
            statuses.append(writer.push(frame_of(writer, sequence)).status)

    def watch() -> None:
        for event in events(feed, redis=killable.url, since="start", stop=stop):
            seen.append(event.sequence)

    with running_worker(killable.url, lease_ttl_s=1.0) as worker:
        threads = [threading.Thread(target=target, daemon=True) for target in (write, watch)]
        for thread in threads:
            thread.start()
        for reached in (50, 120, 200):
            wait_until(lambda reached=reached: len(seen) >= reached)  # type: ignore[misc]
            killable.kill()
            wait_until(lambda: worker.health.readiness()[0] is False)
            killable.start()
        wait_until(lambda: len(seen) >= frames, timeout_s=60)
        assert worker.sample("mien_server_unavailable_total") >= 3
        stop.set()
        for thread in threads:
            thread.join(timeout=10)
    assert statuses == ["accepted"] * frames
    assert seen == list(range(frames)), "each once, in order"
    books = read_books(Server(killable.url), feed)
    assert (books.offered, books.published, books.in_flight) == (frames, frames, 0)
    assert books.balanced


def test_an_outage_longer_than_a_hang_is_survived(
    killable: Killable, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.health.ALIVE_S", 2.5)
    with running_worker(killable.url, lease_ttl_s=1.0) as worker:
        push_frames(Server(killable.url), feed, 5)
        wait_until(lambda: read_books(Server(killable.url), feed).published == 5)
        killable.kill()
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            assert worker.health.alive()[0]
            time.sleep(0.05)
        assert not worker.health.readiness()[0]
        killable.start()
        push_frames(Server(killable.url), feed, 5)
        wait_until(lambda: read_books(Server(killable.url), feed).published == 10)


def test_a_server_that_goes_while_no_feed_is_held_is_noticed(killable: Killable) -> None:
    with running_worker(killable.url, lease_ttl_s=1.0) as worker:
        wait_until(lambda: worker.health.readiness()[0])
        killable.kill()
        wait_until(lambda: not worker.health.readiness()[0])
        killable.start()
        wait_until(lambda: worker.health.readiness()[0])


def test_a_refusal_of_the_server_passes_and_loses_nothing(killable: Killable, feed: str) -> None:
    """Too few replicas, then none needed: the worker waits, keeps its feed, and goes on."""
    server = Server(killable.url)
    with running_worker(killable.url, lease_ttl_s=1.0) as worker:
        writer = push_frames(server, feed, 10)
        wait_until(lambda: read_books(server, feed).published == 10)
        server.command("CONFIG", "SET", "min-replicas-to-write", 1)
        wait_until(lambda: not worker.health.readiness()[0])
        assert "NOREPLICAS" in worker.health.readiness()[1]
        pushed: list[str] = []
        late = threading.Thread(
            target=lambda: pushed.append(writer.push(frame_of(writer, 10)).status), daemon=True
        )
        late.start()
        late.join(timeout=0.3)
        assert not pushed, "the writer waits as well"
        server.command("CONFIG", "SET", "min-replicas-to-write", 0)
        wait_until(lambda: worker.health.readiness()[0])
        wait_until(lambda: read_books(server, feed).published == 11)
        late.join(timeout=10)
        assert pushed == ["accepted"]


def refused(killable: Killable, feed: str) -> tuple[Server, Writer]:
    """A live writer whose first frame the dead server did not take; the server is back."""
    server = Server(killable.url)
    register(server, feed, policy="live", staleness_s=0.2)
    writer = Writer(server, feed, stop=threading.Event(), say=lambda message: None)
    killable.kill()
    assert writer.push(frame_of(writer, 0)).status == "refused"
    killable.start()
    return server, writer


def test_a_writer_registers_again_with_a_server_that_lost_everything(
    killable: Killable, feed: str
) -> None:
    server, writer = refused(killable, feed)
    server.command("FLUSHALL")
    assert writer.push(frame_of(writer, 1)).status == "accepted"
    with running_worker(killable.url):
        wait_until(lambda: read_books(server, feed).published == 1)


def test_a_live_writer_refuses_what_the_server_cannot_take_in_time(
    killable: Killable, feed: str
) -> None:
    server, writer = refused(killable, feed)
    assert writer.push(frame_of(writer, 1)).status == "accepted"
    assert read_books(server, feed).offered == 1
