"""The subscriber: where it begins, that each event comes once, and what it says of gaps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from tests.doubles import Running, running_worker
from tests.feeds import START, frame_of, push_frames, wait_until
from worker.errors import FeedNameError, ServerError, ServerUnavailable, SettingsError
from worker.records import FrameEvent, ModelInfo
from worker.subscribe.cursors import Subscription
from worker.subscribe.events import Gap, Rewind, events
from worker.wire.books import read_books
from worker.wire.codec import encode_event
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
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


def test_a_foreign_entry_at_the_beginning_hides_nothing(
    server: Server, server_url: str, feed: str
) -> None:
    server.command("XADD", FeedKeys.of(feed).events, "5-1", "event", "x", "n", "x")
    made = publish_by_hand(server, feed, "6-1", "7-1")
    register(server, feed)
    for since in ("1-0", "start"):
        assert list(events(feed, redis=server_url, since=since, follow=False)) == made


def test_what_an_outage_kept_of_a_feed_that_is_left_is_told_to_nobody(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the page: the last viewer of a feed goes while the server is away."""
    other = f"{feed}-other"
    subscription = Subscription(server, [feed, other], "now")
    publish_by_hand(server, feed, "5-1", "6-1")
    publish_by_hand(server, other, "5-1")
    subscription.read(None)
    publish_by_hand(server, feed, "7-1", first=3)
    assert subscription.read(None)
    roll_back(server, feed, to=1)

    def away(*_words: object, **_options: object) -> None:
        raise ServerUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr("worker.subscribe.cursors._LOOK_S", 0.0)
        patch.setattr(server, "read_streams", away)
        with pytest.raises(ServerUnavailable):
            subscription.read(None)
    subscription.follow([other])
    assert not subscription.read(None)


def publish_by_hand(server: Server, feed: str, *ids: str, first: int = 1) -> list[FrameEvent]:
    """Events of these ids, as the settling script leaves them."""
    keys = FeedKeys.of(feed)
    made = []
    for ordinal, frame_id in enumerate(ids, first):
        event = FrameEvent(
            feed=feed, frame_id=frame_id, session="s", sequence=ordinal, captured_at=START,
            ingested_at=START, pts_seconds=0, width=1, height=1, faces=(),
            detector=ModelInfo("d", "1", ""), classifier=ModelInfo("c", "1", ""),
        )  # fmt: skip
        server.command("XADD", keys.events, frame_id, "event", encode_event(event), "n", ordinal)
        server.command("HSET", keys.stats, "published", ordinal)
        made.append(replace(event, ordinal=ordinal))
    return made


def roll_back(server: Server, feed: str, *, to: int) -> None:
    """As a failover to a replica does that had only the first ``to`` events."""
    keys = FeedKeys.of(feed)
    kept = server.command("XRANGE", keys.events, "-", "+", "COUNT", to) or ()
    server.command("DEL", keys.events)
    for entry_id, fields in kept:
        server.command(
            "XADD", keys.events, entry_id, *(part for pair in fields.items() for part in pair)
        )
    server.command("HSET", keys.stats, "published", to)


def test_a_cursor_ahead_of_the_stream_rewinds_and_says_so(
    server: Server, server_url: str, feed: str
) -> None:
    register(server, feed)
    every = publish_by_hand(server, feed, "1-0", "2-0", "3-0", "4-0")
    gaps: list[Gap] = []
    rewinds: list[Rewind] = []
    stop = threading.Event()

    def on_rewind(rewind: Rewind) -> None:
        rewinds.append(rewind)
        publish_by_hand(server, feed, "3-0", "3-5", "9-0", first=3)

    found = events(
        feed, redis=server_url, since="start", stop=stop,
        on_gap=gaps.append, on_rewind=on_rewind,
    )  # fmt: skip
    assert [event.ordinal for event in islice(found, 4)] == [1, 2, 3, 4]
    roll_back(server, feed, to=2)
    assert [(e.frame_id, e.ordinal) for e in islice(found, 3)] == [
        ("3-0", 3), ("3-5", 4), ("9-0", 5),
    ]  # fmt: skip
    stop.set()
    assert rewinds == [Rewind(feed, "4-0", "2-0")]
    assert gaps == []
    # And one that was away during the failover: it knows its last event, or only its id.
    roll_back(server, feed, to=2)
    for since in (every[3], "4-0"):
        rewinds.clear()
        kept = list(events(
            feed, redis=server_url, since=since, follow=False, on_rewind=rewinds.append
        ))  # fmt: skip
        assert kept == []
        assert rewinds == [Rewind(feed, "4-0", "2-0")]


def test_a_stream_that_went_back_and_on_again_is_noticed_by_its_ordinals(
    server: Server, server_url: str, feed: str
) -> None:
    """What came after the failover has passed the cursor before anybody looked."""
    register(server, feed)
    every = publish_by_hand(server, feed, "1-0", "2-0", "3-0", "4-0")
    roll_back(server, feed, to=2)
    publish_by_hand(server, feed, "9-0", "9-1", first=3)
    told: list[object] = []
    found = events(
        feed, redis=server_url, since=every[3], follow=False,
        on_gap=told.append, on_rewind=told.append,
    )  # fmt: skip
    assert [(event.frame_id, event.ordinal) for event in found] == [("9-0", 3), ("9-1", 4)]
    assert told == [Rewind(feed, "4-0", "2-0")]


def test_foreign_ordinals_hold_nobody_up(server: Server, server_url: str, feed: str) -> None:
    register(server, feed)
    publish_by_hand(server, feed, "1-0", "2-0", first=5)
    publish_by_hand(server, feed, "3-0", "4-0", first=1)
    told: list[object] = []
    found = events(
        feed, redis=server_url, since="start", follow=False,
        on_gap=told.append, on_rewind=told.append,
    )  # fmt: skip
    assert [event.ordinal for event in found] == [5, 6, 1, 2]
    assert told == [Gap(feed, 4, "1-0"), Rewind(feed, "2-0", "2-0")]


def test_a_feed_that_began_anew_is_read_from_its_beginning(
    server: Server, server_url: str, feed: str
) -> None:
    register(server, feed)
    every = publish_by_hand(server, feed, "1-0", "2-0", "3-0", "4-0")
    server.command("FLUSHALL")
    register(server, feed)

    def read(since: FrameEvent) -> tuple[list[int], list[Rewind], list[Gap]]:
        gaps: list[Gap] = []
        rewinds: list[Rewind] = []
        found = events(
            feed, redis=server_url, since=since, follow=False,
            on_gap=gaps.append, on_rewind=rewinds.append,
        )  # fmt: skip
        return [event.ordinal for event in found], rewinds, gaps

    assert read(every[3]) == ([], [Rewind(feed, "4-0", "0-0")], [])
    publish_by_hand(server, feed, "5-0", "6-0", "7-0")
    assert read(every[3]) == ([1, 2, 3], [Rewind(feed, "4-0", "0-0")], [])
    server.command("XDEL", FeedKeys.of(feed).events, "5-0", "6-0")
    assert read(every[3]) == ([3], [Rewind(feed, "4-0", "0-0")], [Gap(feed, 2, "7-0")])


def test_now_is_after_all_events_also_if_they_are_trimmed(
    server: Server, server_url: str, feed: str
) -> None:
    register(server, feed)
    publish_by_hand(server, feed, "1-0", "2-0")
    server.command("XTRIM", FeedKeys.of(feed).events, "MAXLEN", 0)
    told: list[object] = []
    stop = threading.Event()
    found = events(
        feed, redis=server_url, stop=stop, on_gap=told.append, on_rewind=told.append
    )  # fmt: skip

    def publish_later() -> None:
        wait_until(lambda: server.command("CLIENT", "LIST").count(b"cmd=xread") > 0)
        publish_by_hand(server, feed, "3-0", "5-0", first=3)

    later = threading.Thread(target=publish_later)
    later.start()
    assert [event.ordinal for event in islice(found, 2)] == [3, 4]
    later.join()
    stop.set()
    assert told == []


def test_a_time_to_come_is_no_reason_to_rewind(server: Server, server_url: str, feed: str) -> None:
    register(server, feed)
    publish_by_hand(server, feed, "1-0", "2-0")
    told: list[object] = []
    since = datetime.now(UTC) + timedelta(days=1)
    found = events(
        feed, redis=server_url, since=since, follow=False,
        on_gap=told.append, on_rewind=told.append,
    )  # fmt: skip
    assert list(found) == []
    assert told == []


def test_a_feed_whose_events_are_no_stream_hides_no_other(server: Server, server_url: str) -> None:
    for name in ("good", "spoilt"):
        register(server, name)
    publish_by_hand(server, "good", "1-0")
    server.command("SET", FeedKeys.of("spoilt").events, "not a stream")
    found = list(events(redis=server_url, since="start", follow=False))
    assert [event.feed for event in found] == ["good"]
    with pytest.raises(ServerError, match="WRONGTYPE"):
        list(events("spoilt", redis=server_url, since="start", follow=False))


def test_a_feed_whose_events_become_something_else_stops_no_other(
    server: Server, server_url: str, feed: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = FeedKeys.of("spoilt").events
    publish_by_hand(server, feed, "1-0")
    publish_by_hand(server, "spoilt", "1-0")
    subscription = Subscription(server, [feed, "spoilt"], "start")

    def read() -> list[tuple[str, str]]:
        found = [one for _ in range(3) for one in subscription.read(None) or ()]
        return [(one.feed, getattr(one, "frame_id", type(one).__name__)) for one in found]

    assert sorted(read()) == sorted([(feed, "1-0"), ("spoilt", "1-0")])
    server.command("SET", key, "not a stream")
    publish_by_hand(server, feed, "2-0", first=2)
    assert read() == [(feed, "2-0")]
    publish_by_hand(server, feed, "3-0", first=3)
    assert read() == [(feed, "3-0")]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("spoilt: ")
    assert "WRONGTYPE" in said

    server.command("DEL", key)
    publish_by_hand(server, "spoilt", "5-0", first=2)
    wait_until(lambda: ("spoilt", "5-0") in read())


def test_what_is_refused_of_the_only_feed_is_raised(server: Server, feed: str) -> None:
    publish_by_hand(server, feed, "1-0")
    subscription = Subscription(server, [feed], "start")
    assert subscription.read(None)
    server.command("SET", FeedKeys.of(feed).events, "not a stream")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        subscription.read(None)


def test_rewinds_and_gaps_are_logged_where_nobody_asks(
    server: Server, server_url: str, feed: str, caplog: pytest.LogCaptureFixture
) -> None:
    register(server, feed)
    (event,) = publish_by_hand(server, feed, "9-0")
    roll_back(server, feed, to=0)
    publish_by_hand(server, feed, "3-0", first=3)
    assert len(list(events(feed, redis=server_url, since=event, follow=False))) == 0
    assert f"{feed}: the server went back from 9-0 to 3-0" in caplog.text
    list(events(feed, redis=server_url, since="start", follow=False))
    assert f"{feed}: 2 events were trimmed before 3-0" in caplog.text
