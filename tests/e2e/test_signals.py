"""Ctrl-C: each command ends in order, with its last words and a status that tells the truth."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.processes import SAMPLE, ended, running
from tests.feeds import wait_until
from worker.wire.books import read_books
from worker.wire.registry import register
from worker.wire.server import Server


@pytest.mark.parametrize("options", [["--depth", "3"], ["--depth", "1000", "--realtime"]])
def test_push(server: Server, server_url: str, feed: str, options: list[str]) -> None:
    """While it waits for room, and while it pushes."""
    with running("push", SAMPLE, "--feed", feed, "--redis", server_url, *options) as push:
        wait_until(lambda: read_books(server, feed).offered >= 3)
        push.send_signal(signal.SIGINT)
        done = ended(push)
    assert done.returncode == 130
    assert f"{feed}: {read_books(server, feed).offered} frames accepted" in done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_watch(server: Server, server_url: str, feed: str, options: list[str]) -> None:
    register(server, feed)
    with running("watch", "--redis", server_url, *options) as watch:
        wait_until(lambda: server.command("CLIENT", "LIST").count(b"cmd=xread") > 0)
        watch.send_signal(signal.SIGINT)
        done = ended(watch)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_worker(server: Server, server_url: str, feed: str) -> None:
    register(server, feed)
    with running("worker", "--redis", server_url) as worker:
        wait_until(lambda: read_books(server, feed).owned)
        worker.send_signal(signal.SIGINT)
        done = ended(worker)
    assert done.returncode == 0
    assert "worker stopped" in done.stderr
    assert not read_books(server, feed).owned
