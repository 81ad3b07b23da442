"""What a writer does under each policy, and when another one comes."""

from __future__ import annotations

import threading

import pytest

from tests.doubles import running_worker
from tests.feeds import frame_of, push_frames, wait_until
from worker.capture.writer import Writer
from worker.errors import SessionSuperseded
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.server import Server


def test_the_earlier_of_two_writers_is_told(server: Server, feed: str) -> None:
    first = push_frames(server, feed, 2)
    second = push_frames(server, feed, 2)
    assert second.session > first.session
    with pytest.raises(SessionSuperseded, match=feed):
        first.push(frame_of(first, 2))
    assert read_books(server, feed).offered == 4


def test_a_clock_that_goes_back_locks_no_writer_out(server: Server, feed: str) -> None:
    ahead = push_frames(server, feed, 1)
    later = f"{int(ahead.session.partition('-')[0], 16) + 3_600_000_000:015x}-0"
    server.command("HSET", FeedKeys.of(feed).stats, "session", later)
    assert push_frames(server, feed, 2).session > later


def test_a_lossless_writer_waits_for_room_and_says_why(
    server: Server, server_url: str, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.capture.writer._SAY_SO_S", 0.05)
    said: list[str] = []
    writer = Writer(
        server, feed, stop=threading.Event(), policy="lossless", depth=3, say=said.append
    )
    done = threading.Thread(
        daemon=True,
        target=lambda: [writer.push(frame_of(writer, sequence)) for sequence in range(12)],
    )
    done.start()
    wait_until(lambda: len(said) == 1)
    assert read_books(server, feed).offered == 3
    assert "no worker" in said[0]
    with running_worker(server_url):
        done.join(timeout=20)
        wait_until(lambda: read_books(server, feed).published == 12)
    assert len(said) == 1


def test_live_frames_displace_and_the_books_know(
    server: Server, server_url: str, feed: str
) -> None:
    push_frames(server, feed, 50, policy="live", depth=8)
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    books = read_books(server, feed)
    assert (books.offered, books.published, books.dropped) == (50, 8, 42)
    assert books.balanced
