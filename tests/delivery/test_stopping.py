"""A worker that is told to stop: in order, at once, or too late; nothing is lost in any way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.delivery.conftest import ROOT, wait_for_batch
from tests.doubles import running_worker
from tests.feeds import frame_of, push_frames, wait_until
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.server import Server
from worker.wire.workers import live_workers

STOPPING = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.doubles import OneFace, Running
from worker.app import _stop_on_signals
import time
def look(images):
    print("batch", flush=True)
    time.sleep(float(sys.argv[3]))
grace_s = float(sys.argv[4])
worker = Running(sys.argv[1], OneFace(look), lease_ttl_s=5, batch_size=4, grace_s=grace_s)
worker.health.watch()
worker.pipeline.run(_stop_on_signals())
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(server_url: str) -> Iterator[Start]:
    """Starts a process whose batches take so long, and with so much grace."""
    started: list[subprocess.Popen[str]] = []

    def begin(batch_s: float, grace_s: float = 10.0) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", STOPPING, server_url, str(ROOT), str(batch_s), str(grace_s)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def all_published(server: Server, url: str, feed: str, count: int) -> None:
    """Another worker finds everything that is left, and each frame has its event once."""
    with running_worker(url):
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    found = events(feed, redis=url, since="start", follow=False)
    assert [event.sequence for event in found] == list(range(count))
    books = read_books(server, feed)
    assert (books.published, books.dead) == (count, 0)
    assert books.balanced


def test_what_is_in_hand_is_settled_and_the_feeds_are_free(
    server: Server, server_url: str, feed: str, start: Start
) -> None:
    push_frames(server, feed, 30)
    process = start(batch_s=0.5)
    wait_for_batch(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    books = read_books(server, feed)
    assert books.in_hand == 0
    assert 4 <= books.published <= 12, "what was in hand, and no more"
    assert not books.owned
    assert live_workers(server) == {}
    assert server.command("HGET", FeedKeys.of(feed).stats, "alone") is None
    all_published(server, server_url, feed, 30)


def test_a_second_signal_ends_it_at_once(
    server: Server, server_url: str, feed: str, start: Start
) -> None:
    push_frames(server, feed, 10)
    process = start(batch_s=60, grace_s=60)
    wait_for_batch(process)
    wait_until(lambda: read_books(server, feed).in_hand == 8)  # one is read ahead
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None, "it drains"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) != 0
    assert read_books(server, feed).in_hand == 8, "a batch, and one read ahead"
    all_published(server, server_url, feed, 10)


def test_grace_is_not_for_ever(server: Server, server_url: str, feed: str, start: Start) -> None:
    push_frames(server, feed, 10)
    process = start(batch_s=60, grace_s=1)
    wait_for_batch(process)
    wait_until(lambda: read_books(server, feed).in_hand == 8)  # one is read ahead
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=15) == 70
    assert read_books(server, feed).in_hand == 8, "a batch, and one read ahead"
    all_published(server, server_url, feed, 10)


def test_an_idle_worker_stops_at_once(server: Server, feed: str, start: Start) -> None:
    push_frames(server, feed, 0)
    process = start(batch_s=0)
    wait_until(lambda: read_books(server, feed).owned)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert not read_books(server, feed).owned


def test_a_worker_without_a_model_file_of_its_own_survives_sighup(
    server: Server, server_url: str, feed: str
) -> None:
    """Said to all workers, it means a new model for those that have a file to look at."""
    writer = push_frames(server, feed, 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.app", "worker", "--redis", server_url], cwd=ROOT
    )
    try:
        wait_until(lambda: read_books(server, feed).published == 1, timeout_s=60)
        process.send_signal(signal.SIGHUP)
        writer.push(frame_of(writer, 1))
        wait_until(lambda: read_books(server, feed).published == 2)
        process.terminate()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
