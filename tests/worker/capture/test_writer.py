"""How a writer waits: seldom enough, and not in silence."""

from __future__ import annotations

import threading
import time

import pytest

from tests.feeds import frame_of, push_frames, wait_until
from worker.capture.writer import Writer
from worker.wire.keys import FeedKeys
from worker.wire.server import Server


def attempts(server: Server) -> int:
    info: dict[str, dict[str, int]] = server.command("INFO", "commandstats")
    return info.get("cmdstat_evalsha", {}).get("calls", 0)


def test_a_full_stream_is_polled_at_a_pace_that_slows_down(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt carries a frame: fifty writers must not keep a server busy with refusals."""
    monkeypatch.setattr("worker.capture.writer._SAY_SO_S", 0.3)
    said, stop = list[str](), threading.Event()
    push_frames(server, feed, 3, depth=3)
    writer = Writer(server, feed, stop=stop, say=said.append)
    before = attempts(server)
    waiting = threading.Thread(target=lambda: writer.push(frame_of(writer, 0)))
    waiting.start()
    time.sleep(3)
    tried = attempts(server) - before
    assert 8 <= tried <= 40
    assert len(said) == 1
    assert "no worker reads" in said[0]
    stop.set()
    waiting.join(timeout=10)
    assert not waiting.is_alive()


def test_a_worker_that_is_slow_is_told_from_one_that_is_missing(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.capture.writer._SAY_SO_S", 0.1)
    said, stop = list[str](), threading.Event()
    push_frames(server, feed, 3, depth=3)
    server.command("SET", FeedKeys.of(feed).lease, "somebody")
    writer = Writer(server, feed, stop=stop, say=said.append)
    waiting = threading.Thread(target=lambda: writer.push(frame_of(writer, 0)))
    waiting.start()
    try:
        wait_until(lambda: len(said) == 1)
        assert said[0] == f"waiting: 3 frames of {feed} are unread"
        server.command("DEL", FeedKeys.of(feed).lease)
        wait_until(lambda: len(said) == 2)
        assert "no worker reads" in said[1]
    finally:
        stop.set()
        waiting.join(timeout=10)
    assert not waiting.is_alive()


def test_a_feeds_staleness_can_be_given_and_stays(server: Server, feed: str) -> None:
    stop = threading.Event()
    assert Writer(server, feed, stop=stop, staleness_s=9).settings.staleness_s == 9
    assert Writer(server, feed, stop=stop).settings.staleness_s == 9
