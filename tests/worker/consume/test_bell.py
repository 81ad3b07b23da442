"""The server says when a key has changed: whoever changed it, and at no cost until then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.feeds import push_frames, wait_until
from worker.consume.bell import Bell
from worker.errors import ServerError, ServerUnavailable
from worker.wire.keys import FeedKeys
from worker.wire.server import Server

KEYS = [FeedKeys.of(name).frames for name in ("a", "b", "c")]


@pytest.fixture
def bell(server: Server) -> Iterator[Bell]:
    bell = Bell(server, "XLEN", trust_s=60)
    yield bell
    bell.close()


def rung(bell: Bell, timeout_s: float = 10.0) -> dict[str, int | ServerError]:
    """What is new, waited for."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        bell.wait(0.1)
        if found := bell.news(KEYS):
            return found
    return {}


def test_a_size_is_asked_for_once(server: Server, bell: Bell) -> None:
    push_frames(server, "b", 3)
    assert bell.news(KEYS) == dict(zip(KEYS, [0, 3, 0], strict=True))
    assert bell.news(KEYS) == {}
    assert bell.news(KEYS[:1]) == {}


def test_a_plain_clients_frame_rings_and_so_does_a_script(server: Server, bell: Bell) -> None:
    bell.news(KEYS)
    server.command("XADD", KEYS[0], "*", "frame", b"x")
    assert rung(bell) == {KEYS[0]: 1}
    push_frames(server, "c", 1)
    assert rung(bell) == {KEYS[2]: 1}
    server.command("XDEL", KEYS[0], server.command("XRANGE", KEYS[0], "-", "+")[0][0])
    assert rung(bell) == {KEYS[0]: 0}


def test_it_wakes_who_waits(server: Server, bell: Bell) -> None:
    bell.news(KEYS)
    timer = threading.Timer(0.3, server.command, ("XADD", KEYS[1], "*", "frame", b"x"))
    began = time.monotonic()
    timer.start()
    bell.wait(20)
    assert time.monotonic() - began < 10
    timer.join()


def test_nothing_is_asked_while_nothing_changes(server: Server, bell: Bell) -> None:
    def asked() -> int:
        return server.command("INFO", "commandstats").get("cmdstat_xlen", {}).get("calls", 0)  # type: ignore[no-any-return]

    bell.news(KEYS)
    before = asked()
    assert before > 0
    for _ in range(50):
        bell.news(KEYS)
        bell.wait(0.001)
    assert asked() == before


def test_a_size_is_trusted_for_so_long(server: Server) -> None:
    bell = Bell(server, "XLEN", trust_s=0.2)
    bell.news(KEYS)
    assert rung(bell, 5) == dict.fromkeys(KEYS, 0)
    bell.close()


def test_what_is_doubted_is_asked_for_again(bell: Bell) -> None:
    bell.news(KEYS)
    bell.doubt([KEYS[1]])
    assert bell.news(KEYS) == {KEYS[1]: 0}


def test_a_flush_changes_everything(server: Server, bell: Bell) -> None:
    push_frames(server, "a", 1)
    bell.news(KEYS)
    server.command("FLUSHALL")
    assert rung(bell) == dict.fromkeys(KEYS, 0)


def test_a_key_of_another_kind_is_told_each_time(server: Server, bell: Bell) -> None:
    server.command("SET", KEYS[1], "not a stream")
    for _ in range(2):
        assert isinstance(bell.news(KEYS)[KEYS[1]], ServerError)
    assert bell.news(KEYS[:1]) == {}


def test_a_connection_that_is_cut_is_made_again(server: Server, bell: Bell) -> None:
    bell.news(KEYS)
    server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_until(lambda: bool(_news(bell)))
    for key in KEYS:
        server.command("XADD", key, "*", "frame", b"x")
        assert rung(bell) == {key: 1}


def _news(bell: Bell) -> dict[str, int | ServerError]:
    try:
        return bell.news(KEYS)
    except ServerUnavailable:
        return {}


def test_where_it_may_not_listen_it_asks_often(server: Server, server_url: str) -> None:
    if "+cluster" in server_url:
        pytest.skip("users are made on one node alone")
    server.command(
        "ACL", "SETUSER", "deaf", "on", "nopass", "~*", "&*", "+@all", "-client|tracking"
    )
    bell = Bell(Server(server_url.replace("//", "//deaf:any@")), "XLEN", trust_s=60)
    assert bell.news(KEYS) == dict.fromkeys(KEYS, 0)
    server.command("XADD", KEYS[0], "*", "frame", b"x")
    wait_until(lambda: bell.news(KEYS).get(KEYS[0]) == 1, timeout_s=5)
    began = time.monotonic()
    bell.wait(20)
    assert time.monotonic() - began < 5
    bell.close()
