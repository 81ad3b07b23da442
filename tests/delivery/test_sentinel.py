"""Sentinels: they say which server is the primary, now and after a failover."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.delivery.machines import Workshop, replicate
from tests.doubles import running_worker
from tests.feeds import frame_of, push_frames, wait_until
from tests.ports import free_port
from worker.errors import ServerError, ServerUnavailable
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.server import Server

SERVICE = "mien-primary"


class Watched:
    """A primary and its replica, both with a password, and a Sentinel with another one."""

    def __init__(self, workshop: Workshop) -> None:
        self.servers = [
            workshop.machine("masterauth s3cret", "appendonly yes", secret="s3cret")
            for _ in range(2)
        ]
        replicate(self.servers[1], self.servers[0])
        self.sentinel = workshop.machine(
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.servers[0].port} 1",
            f"sentinel auth-pass {SERVICE} s3cret",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 5000",
            arguments=["--sentinel"],
            secret="watch",
        )

    def url(self, service: str = SERVICE, password: str = "watch") -> str:
        # The first of the hosts is none: any that answers will do.
        return (
            f"redis+sentinel://:s3cret@127.0.0.1:{free_port()},127.0.0.1:{self.sentinel.port}"
            f"/{service}?sentinel_password={password}"
        )

    def primary(self) -> int:
        _, port = self.sentinel.client.execute_command(
            "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE
        )
        return int(port)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with Workshop(tmp_path) as workshop:
        yield Watched(workshop)


def published(server: Server, feed: str) -> int | None:
    """None while the Sentinels make up their minds."""
    try:
        return read_books(server, feed).published
    except ServerUnavailable:
        return None


def test_after_a_failover_all_go_on_with_the_new_primary(watched: Watched, feed: str) -> None:
    server = Server(watched.url())
    first, second = watched.servers
    with running_worker(watched.url(), lease_ttl_s=1.0):
        writer = push_frames(server, feed, 20)
        wait_until(lambda: read_books(server, feed).published == 20)
        wait_until(lambda: watched.sentinel.client.execute_command("SENTINEL", "CKQUORUM", SERVICE))
        wait_until(
            lambda: (
                len(watched.sentinel.client.execute_command("SENTINEL", "REPLICAS", SERVICE)) == 1
            )
        )
        wait_until(
            lambda: (
                second.client.info("replication")["slave_repl_offset"]
                == first.client.info("replication")["master_repl_offset"]
            )
        )
        first.kill()
        for sequence in range(20, 40):
            assert writer.push(frame_of(writer, sequence)).status == "accepted"
        wait_until(lambda: published(server, feed) == 40, timeout_s=60)
    assert watched.primary() == second.port
    found = events(feed, redis=second.url.replace("//", "//:s3cret@"), since="start", follow=False)
    assert [event.sequence for event in found] == list(range(40)), "each once, in order"
    assert read_books(Server(second.url.replace("//", "//:s3cret@")), feed).balanced


def test_a_service_that_no_sentinel_knows(watched: Watched) -> None:
    server = Server(watched.url("another"))
    with pytest.raises(ServerUnavailable, match="knows a primary of that name") as error:
        server.now_us()
    assert server.name in str(error.value)
    assert "s3cret" not in str(error.value)


def test_a_wrong_password_for_the_sentinel_or_for_the_server(watched: Watched) -> None:
    with pytest.raises(ServerError, match="sentinel_password") as error:
        Server(watched.url(password="s3cret")).now_us()
    assert "s3cret" not in str(error.value)
    with pytest.raises(ServerError, match="refused our name or password") as error:
        Server(watched.url().replace(":s3cret@", ":watch@")).now_us()
    assert "watch@" not in str(error.value)
