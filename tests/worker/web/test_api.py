"""What the endpoints answer: books, workers, history, summaries, previews; and what they refuse."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import jsonschema
import pytest

from tests.delivery.conftest import Killable
from tests.doubles import running_worker
from tests.feeds import push_frames, wait_until
from tests.worker.web.conftest import Serve, Site, serving
from tests.worker.web.published import START, face, frame_id, preview, publish
from worker.subscribe.history import Page, history
from worker.wire.books import read_books
from worker.wire.codec import event_to_json
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server

EVENTS = "/api/feeds/cam1/events"


def checked(site: Site, path: str, schema: str, **options: Any) -> Any:
    """The answer, which is as the description says."""
    answer = site.json(path, **options)
    description = site.json("/api/openapi.json")
    jsonschema.validate(answer, {"$ref": f"#/components/schemas/{schema}", **description})
    return answer


def test_no_feed_and_no_worker(site: Site) -> None:
    found = checked(site, "/api/feeds", "Feeds")
    assert (found["feeds"], found["workers"], found["complaints"]) == ({}, 0, {})
    assert found["server"]["name"].startswith("redis://")
    assert checked(site, "/api/workers", "Workers") == {"workers": []}


def test_feeds_and_workers_as_they_stand(
    site: Site, server: Server, server_url: str, feed: str
) -> None:
    with running_worker(server_url):
        push_frames(server, feed, 5)
        wait_until(lambda: read_books(server, feed).published == 5)
        wait_until(lambda: site.json("/api/feeds")["feeds"].get(feed, {}).get("published") == 5)
        one = checked(site, "/api/feeds", "Feeds")["feeds"][feed]
        wait_until(lambda: site.json("/api/workers")["workers"] != [])
        (worker,) = checked(site, "/api/workers", "Workers")["workers"]
    assert one["offered"] == 5
    assert one["in_flight"] == 0
    assert one["settings"]["policy"] == "lossless"
    newest = site.json(f"/api/feeds/{feed}/events?order=desc&limit=1")["events"][0]
    assert one["last_event_id"] == newest["frameId"]
    assert 0 <= one["last_event_age_s"] < 60
    assert worker["name"] == one["owner"]
    assert feed in worker["feeds"]


def test_history_forwards_by_pages(site: Site, server: Server) -> None:
    made = publish(server, "cam1", 10)
    first = checked(site, EVENTS, "Events", params={"limit": 4})
    assert first["events"] == [json.loads(event_to_json(event)) for event in made[:4]]
    assert first["next"] == made[4].frame_id
    second = site.json(EVENTS, params={"limit": 6, "from": first["next"]})
    assert [event["sequence"] for event in second["events"]] == [str(n) for n in range(5, 11)]
    assert second["next"] is None


def test_history_backwards_by_pages(site: Site, server: Server) -> None:
    made = publish(server, "cam1", 10)
    first = site.json(EVENTS, params={"limit": 4, "order": "desc"})
    assert [event["sequence"] for event in first["events"]] == ["10", "9", "8", "7"]
    second = site.json(EVENTS, params={"limit": 100, "order": "desc", "to": first["next"]})
    assert [event["sequence"] for event in second["events"]] == [str(n) for n in range(6, 0, -1)]
    assert second["next"] is None
    assert first["next"] == made[6].frame_id


@pytest.mark.parametrize(
    ("params", "sequences"),
    [
        ({"from": frame_id(3), "to": frame_id(5)}, ["3", "4"]),
        ({"from": frame_id(3).removesuffix("-0"), "to": frame_id(5)}, ["3", "4"]),
        ({"from": "2026-03-01T12:00:00.12Z", "to": "2026-03-01T12:00:00.2Z"}, ["3", "4"]),
        ({"from": "2026-03-01T13:00:00.12+01:00", "to": "2026-03-01T12:00:00.1995Z"}, ["3", "4"]),
        ({"from": "2026-03-01T12:00:00.1201Z", "limit": "1"}, ["4"]),
        ({"to": "0001-01-01T00:00:00Z"}, []),
        ({"to": "0"}, []),
        ({"from": "9999-12-31T00:00:00Z"}, []),
        ({"from": frame_id(5), "to": frame_id(3)}, []),
    ],
)
def test_history_by_id_and_by_time(
    site: Site, server: Server, params: dict[str, str], sequences: list[str]
) -> None:
    publish(server, "cam1", 10)
    found = site.json(EVENTS, params=params)
    assert [event["sequence"] for event in found["events"]] == sequences


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        (f"{EVENTS}?limit=0", 400, "limit = '0' is not a whole number from 1 to 2000"),
        (f"{EVENTS}?limit=2001", 400, "limit = '2001'"),
        (f"{EVENTS}?limit=two", 400, "limit = 'two'"),
        (f"{EVENTS}?limit=000000001999999", 400, "limit = '000000001999999'"),
        (f"{EVENTS}?limit=000000001{'0' * 5000}", 400, "limit = '000000001000"),
        (f"{EVENTS}?limit=%D9%A3", 400, "limit = "),
        (f"{EVENTS}?from=yesterday", 400, "from = 'yesterday' is neither an event's id"),
        (f"{EVENTS}?to=2026-03-01T12:00:00", 400, "to = '2026-03-01T12:00:00' is neither"),
        (f"{EVENTS}?from=1-99999999999999999999", 400, "from = "),
        (f"{EVENTS}?order=up", 400, "order = 'up' is neither asc nor desc"),
        ("/api/feeds/cam1/summary?from=x", 400, "from = 'x'"),
        ("/api/feeds/cam9/events", 404, "no feed cam9 is registered"),
        ("/api/feeds/cam9/summary", 404, "no feed cam9 is registered"),
        ("/api/feeds/cam9/preview", 404, "no feed cam9 is registered"),
        ("/api/feeds/%7Bcam1%7D/events", 400, "'{cam1}' cannot be a feed's name"),
        ("/api/feeds/a%0Ab/events", 400, "'a\\nb' cannot be a feed's name"),
        ("/api/feeds/" + "x" * 101 + "/events", 400, "cannot be a feed's name"),
        ("/api/feeds/cam1/preview", 404, "there is no preview of cam1"),
        ("/api/nothing", 404, "there is nothing at /api/nothing"),
        ("/static/nothing.js", 404, "there is nothing at /static/nothing.js"),
        ("/static/..%2f..%2fapi.py", 404, "there is nothing at"),
    ],
)
def test_mistakes_are_said_in_one_sentence(
    site: Site, server: Server, path: str, status: int, words: str
) -> None:
    register(server, "cam1")
    said = site.refused(path)
    assert said[0] == status
    assert words in said[1]


def test_other_methods_are_refused(site: Site) -> None:
    answer = site.client.post("/api/feeds")
    assert (answer.status_code, answer.json()) == (405, {"error": "POST is not for /api/feeds"})
    assert "GET" in answer.headers["allow"]


def test_foreign_entries_are_passed_over(site: Site, server: Server) -> None:
    publish(server, "cam1", 2)
    events = FeedKeys.of("cam1").events
    server.command("XADD", events, frame_id(7), "something", "else")
    server.command("XADD", events, frame_id(8), "event", b"\xff", "n", 3)
    assert [event["sequence"] for event in site.json(EVENTS)["events"]] == ["1", "2"]
    assert site.json("/api/feeds/cam1/summary")["events"] == 2


def test_a_summary_counts_sightings_and_time(site: Site, server: Server) -> None:
    publish(server, "cam1", 3, faces=[face(1, "happy"), face(2, "sad")])
    publish(server, "cam1", 1, first=4, faces=[face(1, "sad", uncertain=True)])
    publish(server, "cam1", 1, first=5, faces=[])
    found = checked(site, "/api/feeds/cam1/summary", "Summary")
    assert (found["events"], found["faces"], found["uncertain"], found["next"]) == (5, 7, 1, None)
    # 40 ms between frames: what is seen in one stands until the next.
    assert found["seconds"] == pytest.approx(0.28)
    assert found["expressions"] == {
        "sad": {"faces": 4, "share": 0.5714, "seconds": 0.16},
        "happy": {"faces": 3, "share": 0.4286, "seconds": 0.12},
    }
    one, two = found["tracks"]
    assert (one["track_id"], one["faces"], one["expressions"]["happy"]["share"]) == ("1", 4, 0.75)
    assert (two["track_id"], two["faces"], two["seconds"]) == ("2", 3, 0.12)
    assert two["first"] == (START + timedelta(seconds=0.04)).isoformat().replace("+00:00", "Z")
    part = site.json("/api/feeds/cam1/summary", params={"from": frame_id(4)})
    assert (part["events"], part["faces"]) == (2, 1)
    nothing = checked(site, "/api/feeds/cam1/summary?from=9999-01-01T00:00:00Z", "Summary")
    assert (nothing["events"], nothing["expressions"], nothing["first"]) == (0, {}, None)


def test_a_long_pause_is_not_taken_for_a_long_look(site: Site, server: Server) -> None:
    publish(server, "cam1", 3, step_ms=60_000)
    assert site.json("/api/feeds/cam1/summary")["seconds"] == 0


def test_a_summary_looks_at_so_many_events_and_says_where_to_go_on(
    site: Site, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.subscribe.summary._LOOKED_AT", 4)
    monkeypatch.setattr("worker.subscribe.summary._AT_ONCE", 2)
    made = publish(server, "cam1", 7)
    found = site.json("/api/feeds/cam1/summary")
    assert (found["events"], found["next"]) == (4, made[4].frame_id)
    rest = site.json("/api/feeds/cam1/summary", params={"from": found["next"]})
    assert (rest["events"], rest["next"]) == (3, None)


def test_the_newest_preview(site: Site, server: Server) -> None:
    register(server, "cam1")
    preview(server, "cam1", frame_id(1), b"\xff\xd8one")
    answer = site.get("/api/feeds/cam1/preview")
    assert (answer.status_code, answer.content) == (200, b"\xff\xd8one")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "no-store"
    assert [answer.headers[name] for name in ("x-frame-id", "x-width", "x-height")] == [
        frame_id(1), "320", "240"
    ]  # fmt: skip
    again = site.get("/api/feeds/cam1/preview", params={"after": frame_id(1)})
    assert (again.status_code, again.content) == (204, b"")
    preview(server, "cam1", frame_id(2), b"\xff\xd8two")
    wait_until(
        lambda: site.get(f"/api/feeds/cam1/preview?after={frame_id(1)}").content == b"\xff\xd8two"
    )


def test_what_is_no_picture_is_not_handed_out(site: Site, server: Server) -> None:
    register(server, "cam1")
    preview(server, "cam1", frame_id(1), b"<html>")
    assert site.refused("/api/feeds/cam1/preview")[0] == 404


def test_a_server_that_is_away_is_said_at_once(killable: Killable) -> None:
    with serving(Server(killable.url)) as site:
        register(Server(killable.url), "cam1")
        assert site.get("/readyz").status_code == 200
        killable.kill()
        for path in ("/api/feeds", "/api/workers", EVENTS, "/api/feeds/cam1/summary"):
            wait_until(lambda path=path: site.get(path).status_code == 503)  # type: ignore[misc]
            answer = site.get(path)
            assert "no answer from a server at" in answer.json()["error"]
            assert answer.headers["retry-after"] == "2"
        metrics = site.get("/metrics").text
        assert "mien_server_up{" in metrics
        killable.start()
        wait_until(lambda: site.get("/api/feeds").status_code == 200)


def test_metrics_tell_in_time_of_a_server_that_hangs(killable: Killable) -> None:
    with serving(Server(killable.url)) as site:
        register(Server(killable.url), "cam1")

        def up() -> tuple[str, bool]:
            # Prometheus waits for 10 s, unless it is told otherwise.
            body = site.get("/metrics", timeout=10).text
            (value,) = re.findall(r"^mien_server_up\{.*\} (.*)$", body, re.MULTILINE)
            return value, "mien_feed_" in body

        assert up() == ("1.0", True)
        with killable.hung():
            wait_until(lambda: up() == ("0.0", False))
        wait_until(lambda: up() == ("1.0", True))


def test_who_asks_much_at_once_keeps_nobody_waiting(
    site: Site, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, "cam1", 1)
    go_on, asked = threading.Event(), threading.Semaphore(0)

    def slow(*arguments: Any, **named: Any) -> Page:
        asked.release()
        assert go_on.wait(30)
        return history(*arguments, **named)

    monkeypatch.setattr("worker.web.api.history", slow)
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(site.get, EVENTS) for _ in range(12)]
        asked.acquire()
        wait_until(lambda: sum(answer.done() for answer in answers) == 4)
        refused = [answer.result() for answer in answers if answer.done()]
        assert site.json("/api/feeds")["feeds"]["cam1"]["published"] == 1
        go_on.set()
    for answer in refused:
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json() == {"error": "8 such questions of yours are open: wait for an answer"}
    assert sorted(answer.result().status_code for answer in answers) == [200] * 8 + [429] * 4
    assert site.get(EVENTS).status_code == 200


def test_metrics_of_the_site_and_of_all_feeds(site: Site, server: Server) -> None:
    publish(server, "cam1", 1)
    site.json("/api/feeds")
    answer = site.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'mien_web_requests_total{endpoint="feeds",status="200"} 1.0' in answer.text
    assert 'feed="cam1"' in answer.text
    with site.live("/api/feeds/cam1/events/live") as stream:
        stream.ready()
        wait_until(lambda: "mien_web_live_viewers 1.0" in site.get("/metrics").text)
        assert "mien_web_live_feeds 1.0" in site.get("/metrics").text


def test_the_page_is_served_to_be_asked_for_again(site: Site) -> None:
    answer = site.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-cache"
    same = site.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert same.status_code == 304
    assert site.get("/static/index.html").status_code == 200


def test_probes(site: Site) -> None:
    assert site.get("/healthz").text == "ok\n"
    assert site.get("/readyz").text == "ready\n"


def test_many_who_ask_the_same_cost_one_question(serve: Serve, server: Server) -> None:
    site = serve()
    register(server, "cam1")
    site.json("/api/feeds")

    def calls() -> int:
        stats = server.command("INFO", "commandstats")
        return int(stats["cmdstat_hgetall"]["calls"])

    wait_until(lambda: site.json("/api/feeds") is not None)
    before = calls()
    for _ in range(100):
        site.json("/api/feeds")
    assert calls() - before <= 50
