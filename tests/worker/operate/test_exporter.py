"""What Prometheus gets of the books: against a real server, and with none."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.deploy.monitored import wait_for
from tests.doubles import running_worker
from tests.e2e.processes import ended, mien, one_sentence, running
from tests.feeds import push_frames, wait_until
from tests.ports import free_port
from worker.embedded import embedded
from worker.operate import exporter
from worker.operate.exporter import FeedCollector
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server


class Scrape:
    """What one scrape says."""

    def __init__(self, server: Server) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(FeedCollector(server))
        self._name = server.name

    def value(self, name: str, **labels: str) -> float | None:
        return self._registry.get_sample_value(f"mien_{name}", {"server": self._name, **labels})

    def text(self) -> str:
        return generate_latest(self._registry).decode()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "_FRESH_S", 0.0)


def test_the_books_of_a_feed_that_no_worker_holds(server: Server, feed: str) -> None:
    push_frames(server, feed, 3, depth=70, staleness_s=5.0)
    scrape = Scrape(server)
    told = {
        "feed_offered_total": 3, "feed_in_flight_frames": 3, "feed_in_hand_frames": 0,
        "feed_owned": 0, "feed_books_balanced": 1, "feed_depth_frames": 70,
        "feed_staleness_seconds": 5,
    }  # fmt: skip
    assert {name: scrape.value(name, feed=feed) for name in told} == told
    assert scrape.value("feed_info", feed=feed, policy="lossless") == 1
    for outcome in ("published", "dropped", "skipped", "dead"):
        assert scrape.value("feed_frames_total", feed=feed, outcome=outcome) == 0
    assert scrape.value("workers") == 0
    ages = [
        scrape.value(name, feed=feed)
        for name in ("feed_oldest_frame_age_seconds", "feed_idle_seconds")
    ]
    assert ages[0] is not None
    assert ages[1] is not None
    assert 0 <= ages[1] <= ages[0] + 0.01 < 60


def test_the_books_of_a_feed_in_work(server: Server, server_url: str, feed: str) -> None:
    scrape = Scrape(server)
    with running_worker(server_url):
        push_frames(server, feed, 20)
        wait_until(lambda: scrape.value("feed_frames_total", feed=feed, outcome="published") == 20)
        assert scrape.value("feed_owned", feed=feed) == 1
        assert scrape.value("workers") == 1
    assert scrape.value("feed_owned", feed=feed) == 0
    assert scrape.value("feed_oldest_frame_age_seconds", feed=feed) == 0
    idle = scrape.value("feed_idle_seconds", feed=feed)
    time.sleep(0.02)
    later = scrape.value("feed_idle_seconds", feed=feed)
    assert idle is not None
    assert later is not None
    assert later > idle  # by when a frame came, not by what became of it


def test_a_feed_that_never_had_a_frame(server: Server, feed: str) -> None:
    register(server, feed, policy="live")
    scrape = Scrape(server)
    assert scrape.value("feed_offered_total", feed=feed) == 0
    assert scrape.value("feed_idle_seconds", feed=feed) is None


def test_what_somebody_deletes_is_told(server: Server, feed: str) -> None:
    push_frames(server, feed, 2)
    scrape = Scrape(server)
    server.command("XTRIM", FeedKeys.of(feed).frames, "MAXLEN", 1)
    assert scrape.value("feed_books_balanced", feed=feed) == 0


def test_a_bad_feed_hides_no_other(server: Server, feed: str) -> None:
    push_frames(server, feed, 1)
    register(server, "bad")
    server.command("SET", FeedKeys.of("bad").stats, "not a hash")
    scrape = Scrape(server)
    assert scrape.value("feed_offered_total", feed=feed) == 1
    assert scrape.value("feed_offered_total", feed="bad") is None


def test_the_servers_memory(server: Server) -> None:
    scrape = Scrape(server)
    node = {"node": server.name}
    assert scrape.value("server_up", **node) == 1
    assert scrape.value("server_persistence_ok", **node) == 1
    assert scrape.value("server_evicted_keys_total", **node) == 0
    used, most = (scrape.value(f"server_memory_{what}_bytes", **node) for what in ("used", "max"))
    assert used is not None
    assert most is not None
    assert 0 < used < most
    server.command("CONFIG", "SET", "maxmemory", 50_000_000)
    try:
        assert scrape.value("server_memory_max_bytes", **node) == 50_000_000
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)


def test_while_the_server_is_away_nothing_else_is_said() -> None:
    with embedded() as process:
        server = Server(f"redis://127.0.0.1:{process.port}")
        register(server, "cam")
        scrape = Scrape(server)
        assert scrape.value("feed_owned", feed="cam") == 0
    lines = [line for line in scrape.text().splitlines() if not line.startswith("#")]
    assert lines == [f'mien_server_up{{node="{server.name}",server="{server.name}"}} 0.0']
    server.close()


def test_who_may_not_ask_for_memory_still_sees_the_feeds(server: Server, feed: str) -> None:
    register(server, feed)
    server.command("ACL", "SETUSER", "few", "on", ">secret", "~mien:*", "+@all", "-info")
    few = Server(server.name.replace("redis://", "redis://few:secret@"))
    try:
        scrape = Scrape(few)
        assert scrape.value("server_up", node=few.name) == 1
        assert scrape.value("server_memory_used_bytes", node=few.name) is None
        assert scrape.value("feed_owned", feed=feed) == 0
    finally:
        few.close()
        server.command("ACL", "DELUSER", "few")


def test_scrapes_at_once_share_one_look(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_FRESH_S", 60.0)
    scrape = Scrape(server)
    assert scrape.value("feed_owned", feed=feed) is None
    register(server, feed)
    assert scrape.value("feed_owned", feed=feed) is None


def test_a_feed_makes_fourteen_series(server: Server, feed: str) -> None:
    """The figure that is written where the many feeds are spoken of."""
    push_frames(server, feed, 1)
    lines = Scrape(server).text().splitlines()
    assert sum(f'feed="{feed}"' in line for line in lines) == 14


def test_the_command(server: Server, server_url: str, feed: str) -> None:
    register(server, feed)
    port = free_port()
    with running("feeds", "--redis", server_url, "--metrics-port", str(port)) as command:
        wait_for(port, "/metrics")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            body = answer.read().decode()
        assert f'mien_feed_owned{{feed="{feed}"' in body
        assert "process_cpu_seconds_total" in body
        command.terminate()
        assert ended(command).returncode == 0


def test_the_command_tells_of_an_outage_from_the_start() -> None:
    port = free_port()
    words = ("feeds", "--redis", "redis://127.0.0.1:1", "--metrics-port", str(port))
    with running(*words) as command:
        wait_for(port, "/metrics")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            body = answer.read().decode()
        assert re.search(r"^mien_server_up\{.*\} 0\.0$", body, re.MULTILINE)
        command.terminate()
        said = command.communicate(timeout=20)[1]
    assert "no answer from a server at redis://127.0.0.1:1" in said


def test_mistakes(server_url: str, feed: str) -> None:
    words = ("feeds", "--redis", server_url, "--metrics-port")
    one_sentence(mien(*words, "0", "--metrics-host", "192.0.2.1"), "192.0.2.1")
    assert mien(*words, "70000").returncode == 2
    one_sentence(mien(*words, "0", "rm", feed), "--metrics-port")
