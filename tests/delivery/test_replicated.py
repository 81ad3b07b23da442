"""A writer that waits for replicas: what a failover loses of its frames is pushed again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.delivery.machines import Workshop, replicate
from tests.delivery.test_sentinel import Watched, published
from tests.doubles import running_worker
from tests.e2e.processes import SAMPLE, ended, running
from tests.feeds import frame_of, wait_until
from worker.capture.writer import Writer
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.server import Server


def writer_of(
    server: Server, feed: str, said: list[str], stop: threading.Event | None = None
) -> Writer:
    return Writer(
        server, feed, stop=stop or threading.Event(), policy="lossless", depth=1000,
        say=said.append, replicas=1,
    )  # fmt: skip


def test_what_a_failover_loses_is_pushed_again(tmp_path: Path, feed: str) -> None:
    with Workshop(tmp_path) as workshop:
        watched = Watched(workshop)
        first, second = watched.servers
        server = Server(watched.url())
        said: list[str] = []
        writer = writer_of(server, feed, said)
        for sequence in range(10):
            assert writer.push(frame_of(writer, sequence)).status == "accepted"
        wait_until(
            lambda: (
                second.client.info("replication")["slave_repl_offset"]
                == first.client.info("replication")["master_repl_offset"]
            )
        )
        second.kill()  # it hears nothing of the next ones
        for sequence in range(10, 15):
            assert writer.push(frame_of(writer, sequence)).status == "accepted"
        assert len(writer._kept) == 5
        first.kill()
        with second.config.open("a") as config:
            config.write(f"replicaof 127.0.0.1 {first.port}\n")
        second.start()
        wait_until(lambda: watched.primary() == second.port, timeout_s=60)
        assert second.client.xlen(writer._keys.frames) == 10, "that is what the failover lost"
        assert writer.push(frame_of(writer, 15)).status == "accepted"
        assert any("5 are pushed again" in line for line in said), said
        with running_worker(watched.url(), lease_ttl_s=1.0):
            wait_until(lambda: published(server, feed) == 16, timeout_s=60)
        url = second.url.replace("//", "//:s3cret@")
        found = events(feed, redis=url, since="start", follow=False)
        assert [event.sequence for event in found] == list(range(16)), "each once, in order"
        assert read_books(Server(url), feed).balanced


def test_a_push_ends_when_the_replicas_have_all_of_it(tmp_path: Path, feed: str) -> None:
    with Workshop(tmp_path) as workshop:
        primary = workshop.machine("repl-diskless-sync-delay 0")
        server = Server(primary.url)
        options = ["--fps", "1", "--width", "64", "--replicas", "1"]
        with running("push", SAMPLE, "--feed", feed, "--redis", primary.url, *options) as push:
            wait_until(lambda: read_books(server, feed).offered == 14, timeout_s=60)
            assert push.poll() is None, "there is no replica"
            replicate(workshop.machine(), primary)
            done = ended(push)
        assert done.returncode == 0, done.stderr
        assert "14 frames accepted" in done.stderr
        assert read_books(server, feed).offered == 14


def test_waiting_for_replicas_is_said_once(
    tmp_path: Path, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.capture.writer._SAY_SO_S", 0.1)
    with Workshop(tmp_path) as workshop:
        said: list[str] = []
        stop = threading.Event()
        writer = writer_of(Server(workshop.machine().url), feed, said, stop)
        assert writer.push(frame_of(writer, 0)).status == "accepted"
        waiting = threading.Thread(target=writer.finish, daemon=True)
        waiting.start()
        waiting.join(timeout=2)  # some ten attempts
        stop.set()
        waiting.join(timeout=10)
        assert not waiting.is_alive()
        assert said == [f"waiting for 1 replicas to have all of {feed}"]


def test_the_last_frames_are_waited_for(tmp_path: Path, feed: str) -> None:
    with Workshop(tmp_path) as workshop:
        primary = workshop.machine("repl-diskless-sync-delay 0")
        said: list[str] = []
        writer = writer_of(Server(primary.url), feed, said)
        for sequence in range(3):
            assert writer.push(frame_of(writer, sequence)).status == "accepted"
        assert len(writer._kept) == 3
        done = threading.Thread(target=writer.finish, daemon=True)
        done.start()
        done.join(timeout=0.5)
        assert done.is_alive(), "there is no replica"
        replicate(workshop.machine(), primary)
        done.join(timeout=20)
        assert not done.is_alive()
        assert len(writer._kept) == 0
