"""Live streams: from now, from a cursor; what is said of gaps, rewinds, outages; many viewers."""

from __future__ import annotations

import json
import socket
import threading
import time
from urllib.parse import urlencode

import pytest

from tests.delivery.conftest import Killable
from tests.feeds import wait_until
from tests.worker.web.conftest import Serve, Site, serving
from tests.worker.web.published import frame_id, preview, publish
from worker.subscribe.cursors import Position
from worker.web.hub import Channel
from worker.web.limits import Places
from worker.web.messages import Message
from worker.wire.codec import event_to_json
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server

ONE = "/api/feeds/cam1/events/live"


def test_a_stream_begins_now_and_gives_canonical_json(site: Site, server: Server) -> None:
    publish(server, "cam1", 2)
    with site.live(ONE) as stream:
        stream.ready()
        assert stream.last_id == f"{frame_id(2)}/2"
        (event,) = publish(server, "cam1", first=3)
        said = stream.next()
        assert (said.event, said.id) == ("event", f"{frame_id(3)}/3")
        assert said.data["frameId"] == event.frame_id
        assert said.data == json.loads(event_to_json(event))


def test_a_reconnect_misses_nothing(site: Site, server: Server) -> None:
    publish(server, "cam1", 1)
    with site.live(ONE) as stream:
        stream.ready()
        publish(server, "cam1", 2, first=2)
        seen = [said.id for said in stream.take(2)]
    publish(server, "cam1", 300, first=4)
    with site.live(ONE, headers={"Last-Event-ID": seen[-1]}) as stream:
        seen += [said.id for said in stream.take(300)]
        publish(server, "cam1", 1, first=304)
        seen.append(stream.next().id)
    assert seen == [f"{frame_id(n)}/{n}" for n in range(2, 305)]


@pytest.mark.parametrize(("cursor", "missing"), [(f"{frame_id(1)}/1", 3), (frame_id(1), None)])
def test_what_was_trimmed_meanwhile_is_said(
    site: Site, server: Server, cursor: str, missing: int | None
) -> None:
    publish(server, "cam1", 6)
    server.command("XTRIM", FeedKeys.of("cam1").events, "MAXLEN", 2)
    with site.live(ONE, headers={"Last-Event-ID": cursor}) as stream:
        gap, *events = stream.take(3)
    assert (gap.event, gap.data) == (
        "gap", {"feed": "cam1", "missing": missing, "before": frame_id(5)}
    )  # fmt: skip
    assert [said.id for said in events] == [f"{frame_id(5)}/5", f"{frame_id(6)}/6"]


def test_a_server_that_went_back_is_said_to_all(site: Site, server: Server) -> None:
    publish(server, "cam1", 4)
    events = FeedKeys.of("cam1").events
    with site.live(ONE) as there, site.live(ONE) as also:
        there.ready()
        also.ready()
        kept = server.command("XRANGE", events, "-", "+", "COUNT", 2)
        server.command("DEL", events)
        for entry_id, fields in kept:
            words = [part for pair in fields.items() for part in pair]
            server.command("XADD", events, entry_id, *words)
        server.command("HSET", FeedKeys.of("cam1").stats, "published", 2)
        for stream in (there, also):
            said = stream.next()
            assert (said.event, said.data) == (
                "rewind", {"feed": "cam1", "seen": frame_id(4), "last": frame_id(2)}
            )  # fmt: skip
            assert said.id == f"{frame_id(2)}/2"
        publish(server, "cam1", 1, first=3, ids=[frame_id(9)])
        assert [stream.next().id for stream in (there, also)] == [f"{frame_id(9)}/3"] * 2
        # Who comes back with a cursor of before the rewind is told as well.
    with site.live(ONE, headers={"Last-Event-ID": f"{frame_id(4)}/4"}) as late:
        assert late.next().event == "rewind"
        assert late.next().id == f"{frame_id(9)}/3"


def test_several_feeds_in_one_stream_and_one_cursor(site: Site, server: Server) -> None:
    for feed in ("cam1", "cam2"):
        publish(server, feed, 1)
    several = "/api/events/live?feed=cam1&feed=cam2"
    with site.live(several) as stream:
        stream.ready()
        publish(server, "cam2", 2, first=2)
        publish(server, "cam1", 1, first=2)
        said = stream.take(3)
        assert sorted((one.data["feed"], one.data["sequence"]) for one in said) == [
            ("cam1", "2"), ("cam2", "2"), ("cam2", "3")
        ]  # fmt: skip
        cursor = stream.last_id
    assert cursor == f"cam1={frame_id(2)}/2,cam2={frame_id(3)}/3"
    publish(server, "cam1", 1, first=3)
    publish(server, "cam2", 1, first=4)
    publish(server, "cam3", 1)
    with site.live(f"{several}&feed=cam3", headers={"Last-Event-ID": cursor}) as stream:
        said = stream.take(2)
        assert {(one.data["feed"], one.data["sequence"]) for one in said} == {
            ("cam1", "3"), ("cam2", "4")
        }  # fmt: skip
        # A feed that the cursor does not name began at now.
        wait_until(lambda: "cam3=" in stream.last_id or stream._message() is None)
        publish(server, "cam3", 1, first=2)
        assert stream.next().data["sequence"] == "2"


def test_from_one_feed_to_several_and_back_with_one_cursor(site: Site, server: Server) -> None:
    for feed in ("cam1", "cam2"):
        publish(server, feed, 1)
    one, two = "/api/events/live?feed=cam1", "/api/events/live?feed=cam1&feed=cam2"
    with site.live(one) as stream:
        stream.ready()
        cursor = stream.last_id
    assert cursor == f"cam1={frame_id(1)}/1"
    publish(server, "cam1", 1, first=2)
    with site.live(f"{two}&since={cursor}") as stream:
        assert stream.next().data["sequence"] == "2"
        wait_until(lambda: "cam2=" in stream.last_id or stream._message() is None)
        cursor = stream.last_id
    publish(server, "cam1", 1, first=3)
    with site.live(f"{one}&since={cursor}") as stream:
        assert stream.next().id == f"cam1={frame_id(3)}/3"


def test_as_many_feeds_as_may_be_with_the_longest_names(site: Site, server: Server) -> None:
    feeds = [f"{n:02d}".ljust(100, "x") for n in range(64)]
    for feed in feeds:
        publish(server, feed, 1)
    several = "/api/events/live?" + urlencode([("feed", feed) for feed in feeds])
    with site.live(several) as stream:
        while stream.last_id.count("=") < 64:
            stream._message()
        cursor = stream.last_id
    publish(server, feeds[7], 1, first=2)
    asked = f"{several}&{urlencode({'since': cursor})}"
    # As a browser asks that connects again, and as a network may cut it.
    head = f"GET {asked} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {cursor}\r\n\r\n".encode()
    port = int(site.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(head), 1400):
            connection.sendall(head[at : at + 1400])
            time.sleep(0.002)
        read = b""
        while b"event: event" not in read:
            part = connection.recv(1 << 16)
            assert part, read[:200]
            read += part
    assert read.startswith(b"HTTP/1.1 200 ")


def test_a_feed_that_is_none_any_more_stops_no_other(site: Site, server: Server) -> None:
    for feed in ("cam1", "cam2"):
        publish(server, feed, 1)
    with site.live(ONE) as one, site.live(ONE.replace("cam1", "cam2")) as other:
        one.ready()
        other.ready()
        server.command("SET", FeedKeys.of("cam2").events, "not a stream")
        publish(server, "cam1", 2, first=2)
        assert [said.id for said in one.take(2)] == [f"{frame_id(n)}/{n}" for n in (2, 3)]


def test_a_new_preview_is_announced(site: Site, server: Server) -> None:
    publish(server, "cam1", 1)
    with site.live(ONE) as stream:
        stream.ready()
        preview(server, "cam1", frame_id(1))
        said = stream.next("preview")
        assert said.data == {"feed": "cam1", "frameId": frame_id(1), "width": 320, "height": 240}
        assert site.get("/api/feeds/cam1/preview").headers["x-frame-id"] == frame_id(1)


def test_heartbeats_come_while_nothing_else_does(
    site: Site, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.web.viewer.BEAT_S", 0.2)
    register(server, "cam1")
    with site.live(ONE) as stream:
        assert [stream.next("beat").data for _ in range(3)] == [{}] * 3


def test_an_outage_is_said_and_survived(killable: Killable) -> None:
    with serving(Server(killable.url)) as site:
        server = Server(killable.url)
        publish(server, "cam1", 1)
        with site.live(ONE) as stream:
            stream.ready()
            killable.kill()
            away = stream.next("away")
            assert "no answer" in away.data["error"]
            assert site.refused("/api/feeds")[0] == 503
            assert site.get("/readyz").status_code == 503
            assert site.get("/healthz").status_code == 200
            killable.start()
            assert stream.next("back").data == {}
            publish(server, "cam1", 1, first=2)
            assert stream.next("event").id == f"{frame_id(2)}/2"


def test_who_may_open_how_many(serve: Serve, server: Server) -> None:
    publish(server, "cam1", 1)
    site = serve(places=Places(total=3, each=2))
    with site.live(ONE), site.live(ONE):
        status, sentence = site.refused(ONE)
        assert (status, sentence) == (429, "2 live streams of yours are open: close one")
    site = serve(places=Places(total=2, each=2))
    with site.live(ONE), site.live(ONE):
        assert site.refused(ONE)[0] == 429
    site = serve(places=Places(total=1, each=2))
    with site.live(ONE):
        answer = site.get(ONE)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "15")
    # A place is free again when its viewer has gone.
    wait_until(lambda: site.get(ONE, headers={"Last-Event-ID": "x"}).status_code == 400)
    wait_until(lambda: site.hub.watched == 0)
    with site.live(ONE) as stream:
        stream.ready()


@pytest.mark.parametrize(
    ("path", "cursor", "status", "words"),
    [
        ("/api/feeds/cam1/events/live", "yesterday", 400, "neither an event's id"),
        ("/api/feeds/cam1/events/live", "1-0/x", 400, "no number after the /"),
        ("/api/feeds/cam1/events/live", "a b=1-0", 400, "cannot be a feed's name"),
        ("/api/feeds/cam1/events/live", "99999999999999999999-0", 400, "neither an event's id"),
        ("/api/feeds/cam9/events/live", "", 404, "no feed cam9 is registered"),
        ("/api/feeds/ca%20m/events/live", "", 400, "cannot be a feed's name"),
        ("/api/events/live", "", 400, "feed is to be given 1 to 64 times, not 0"),
        ("/api/events/live?feed=cam1&feed=cam2", "1-0", 400, "names none"),
        ("/api/events/live?feed=cam1&feed=cam9", "", 404, "no feed cam9 is registered"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_sentence(
    site: Site, server: Server, path: str, cursor: str, status: int, words: str
) -> None:
    for feed in ("cam1", "cam2"):
        register(server, feed)
    said = site.refused(path, headers={"Last-Event-ID": cursor} if cursor else {})
    assert said[0] == status
    assert words in said[1]


def test_a_stalled_viewer_holds_nobody_up_and_gets_all_when_it_reads_again(
    site: Site, server: Server
) -> None:
    publish(server, "cam1", 1)
    port = int(site.url.rpartition(":")[2])
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    stalled.connect(("127.0.0.1", port))
    stalled.sendall(f"GET {ONE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = b""
    while b"/1\n" not in head:
        head += stalled.recv(64)
    many = 3000  # more than the buffers on the way and the ring hold
    with site.live(ONE) as stream:
        stream.ready()
        thread = threading.Thread(target=publish, args=(server, "cam1", many), kwargs={"first": 2})
        thread.start()
        quick = [said.id for said in stream.take(many)]
        thread.join()
    expected = [f"{frame_id(n)}/{n}" for n in range(2, many + 2)]
    assert quick == expected
    stalled.settimeout(30)
    read = head
    while f"id: {expected[-1]}\n".encode() not in read:
        part = stalled.recv(1 << 20)
        assert part
        read += part
    stalled.close()
    ids = [line[4:].decode() for line in read.split(b"\n") if line.startswith(b"id: ")]
    assert ids[1:] == expected


def test_viewers_share_one_reader(site: Site, server: Server) -> None:
    publish(server, "cam1", 1)
    with site.live(ONE) as one, site.live(ONE) as two:
        one.ready()
        two.ready()
        blocked = [server.command("INFO", "clients")["blocked_clients"] for _ in range(200)]
        assert max(blocked) == 1


def test_the_ring_is_bounded_and_knows_what_it_reaches() -> None:
    channel = Channel("cam1")
    channel.start = Position("1-0", 1)
    channel.put([Message(Position(f"{n}-0", n), b"x" * 10_000) for n in range(2, 1000)])
    assert channel.end == 998
    held = channel.end - channel.first
    assert held * 10_000 <= 1 << 20
    assert channel.find(Position("1-0", 1)) is None
    assert channel.find(Position("999-0", 999)) == channel.end
    assert channel.find(Position("999-0", None)) == channel.end, "an id alone is enough"
    assert channel.find(Position("999-0", 5)) is None, "the same id after a rewind is another"
    oldest = channel.get(channel.first)
    assert oldest.position is not None
    before = int(oldest.position.frame_id.partition("-")[0]) - 1
    assert channel.find(Position(f"{before}-0", before)) == channel.first
