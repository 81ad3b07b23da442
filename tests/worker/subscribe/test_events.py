"""The subscriber: where it begins, that each event comes once, and what it says of gaps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from tests.doubles import Running, running_worker
from tests.feeds import frame_of, push_frames, wait_until
from worker.errors import FeedNameError, ServerUnavailable, SettingsError
from worker.subscribe.events import Gap, events
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.server import Server


@pytest.fixture
def worker(server: Server, server_url: str) -> Iterator[Running]:
    with running_worker(server_url) as running:
        yield running


def publish(server: Server, feed: str, count: int) -> None:
    writer = push_frames(server, feed, count)
    assert writer
    wait_until(lambda: read_books(server, feed).in_flight == 0)


def test_from_the_start_and_from_the_last_event_seen(
    server: Server, server_url: str, worker: Running, feed: str
) -> None:
    publish(server, feed, 5)
    every = list(events(feed, redis=server_url, since="start", follow=False))
    assert [event.sequence for event in every] == [0, 1, 2, 3, 4]
    assert [event.ordinal for event in every] == [1, 2, 3, 4, 5]
    (face,) = every[0].faces
    assert (face.label, face.raw, face.track_id) == ("calm", {"calm": 0.75, "cross": 0.25}, 1)
    assert {event.faces[0].track_id for event in every} == {1}
    first = every[0]
    assert first.published_at is not None
    assert first.ingested_at - timedelta(milliseconds=1) <= first.published_at
    assert (first.width, first.height, first.pts_seconds) == (64, 48, 0.0)

    rest = list(events(feed, redis=server_url, since=every[2], follow=False))
    assert [event.sequence for event in rest] == [3, 4]
    rest = list(events(feed, redis=server_url, since=every[2].frame_id, follow=False))
    assert [event.sequence for event in rest] == [3, 4]
    rest = list(events(feed, redis=server_url, since=every[3].ingested_at, follow=False))
    assert [e.sequence for e in rest][-1] == 4
    assert all(e.ingested_at >= every[3].ingested_at for e in rest)


def test_from_now_on_and_feeds_that_come_later(
    server: Server, server_url: str, worker: Running
) -> None:
    publish(server, "old", 3)
    stop = threading.Event()
    seen: list[tuple[str, int]] = []

    def watch() -> None:
        for event in events(redis=server_url, stop=stop):
            seen.append((event.feed, event.ordinal))

    thread = threading.Thread(target=watch, daemon=True)
    found = events(redis=server_url)  # not iterated: must cost nothing and start nothing
    thread.start()
    wait_until(lambda: server.command("CLIENT", "LIST").count(b"cmd=xread") > 0)
    publish(server, "old", 2)
    publish(server, "new", 2)
    wait_until(lambda: len(seen) >= 4)
    stop.set()
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert sorted(seen) == [("new", 1), ("new", 2), ("old", 4), ("old", 5)]
    assert found is not None


@pytest.mark.parametrize("year", [1, 1969, 1970])
def test_from_a_time_before_all_events(
    server: Server, server_url: str, worker: Running, feed: str, year: int
) -> None:
    publish(server, feed, 2)
    since = datetime(year, 1, 1, tzinfo=UTC)
    every = list(events(feed, redis=server_url, since=since, follow=False))
    assert [event.sequence for event in every] == [0, 1]


def test_the_server_that_the_environment_names(
    server: Server, server_url: str, worker: Running, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, feed, 2)
    monkeypatch.setenv("MIEN_REDIS", server_url)
    assert len(list(events(feed, since="start", follow=False))) == 2


def test_what_retention_trimmed_is_counted(
    server: Server, server_url: str, worker: Running, feed: str
) -> None:
    publish(server, feed, 6)
    every = list(events(feed, redis=server_url, since="start", follow=False))
    server.command("XTRIM", FeedKeys.of(feed).events, "MAXLEN", 2)

    def gaps(since: object) -> list[Gap]:
        told: list[Gap] = []
        list(events(feed, redis=server_url, since=since, follow=False, on_gap=told.append))  # type: ignore[arg-type]
        return told

    there = every[4].frame_id
    assert gaps("start") == [Gap(feed, 4, there)]
    assert gaps(every[0]) == [Gap(feed, 3, there)], "exact from the last event seen"
    assert gaps(every[0].frame_id) == [Gap(feed, None, there)], "an id alone tells no number"
    assert gaps(every[0].ingested_at - timedelta(hours=1)) == [Gap(feed, None, there)]
    assert gaps(every[4]) == []
    assert gaps(every[4].frame_id) == []


def test_a_cut_connection_repeats_and_loses_nothing(
    server: Server, server_url: str, worker: Running, feed: str
) -> None:
    writer = push_frames(server, feed, 10)
    stop = threading.Event()
    found = events(feed, redis=server_url, since="start", stop=stop)
    ordinals = [event.ordinal for event in islice(found, 5)]
    server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    for sequence in range(10, 20):
        writer.push(frame_of(writer, sequence))
    ordinals += [event.ordinal for event in islice(found, 5)]
    server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    ordinals += [event.ordinal for event in islice(found, 10)]
    stop.set()
    assert ordinals == list(range(1, 21))


def test_what_cannot_be_used_is_said_at_once(server_url: str) -> None:
    with pytest.raises(FeedNameError):
        events("a b", redis=server_url)
    with pytest.raises(SettingsError, match="since"):
        events("a", redis=server_url, since="yesterday")
    with pytest.raises(ServerUnavailable):
        next(events("a", redis="redis://127.0.0.1:1"))


def test_a_foreign_entry_in_the_event_stream_is_passed_over(
    server: Server, server_url: str, worker: Running, feed: str
) -> None:
    publish(server, feed, 1)
    server.command("XADD", FeedKeys.of(feed).events, "*", "something", "else")
    server.command("XADD", FeedKeys.of(feed).events, "*", "event", b"\xff", "n", 2)
    every = list(events(feed, redis=server_url, since="start", follow=False))
    assert [event.ordinal for event in every] == [1]
