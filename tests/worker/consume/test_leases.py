"""Who owns which feed: one owner, found and let go without a restart, not without progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.feeds import wait_until
from worker.consume.leases import Leases
from worker.wire.keys import FEEDS, FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server

Make = Callable[..., Leases]


@pytest.fixture
def make(server: Server) -> Iterator[Make]:
    made: list[Leases] = []

    def start(**options: object) -> Leases:
        leases = Leases(server, **{"ttl_s": 0.6, **options})  # type: ignore[arg-type]
        leases.start()
        made.append(leases)
        return leases

    yield start
    for leases in made:
        leases.close()


def names(leases: Leases) -> set[str]:
    return {lease.feed for lease in leases.held()}


def test_feeds_are_picked_up_and_let_go_while_we_run(server: Server, make: Make) -> None:
    leases = make()
    register(server, "late")
    wait_until(lambda: names(leases) == {"late"})
    server.command("HDEL", FEEDS, "late")
    wait_until(lambda: names(leases) == set())
    assert not server.command("EXISTS", FeedKeys.of("late").lease)


def test_a_lease_outlives_its_time_because_it_is_renewed(server: Server, make: Make) -> None:
    register(server, "a")
    leases = make(ttl_s=0.5)
    wait_until(lambda: names(leases) == {"a"})
    (before,) = leases.held()
    for _ in range(4):
        server.command("BLPOP", "nothing", 0.3)
    (after,) = leases.held()
    assert after.token == before.token


def test_two_workers_never_hold_one_feed_and_a_clean_stop_hands_over(
    server: Server, make: Make
) -> None:
    register(server, "a")
    first = make(ttl_s=60)
    wait_until(lambda: names(first) == {"a"})
    second = make(ttl_s=60)
    server.command("BLPOP", "nothing", 0.8)
    assert names(second) == set()
    first.close()
    wait_until(lambda: names(second) == {"a"})


def test_the_feed_of_a_dead_worker_is_taken_over(server: Server, make: Make) -> None:
    register(server, "a")
    server.command("SET", FeedKeys.of("a").lease, "a worker that died", "PX", 300)
    leases = make()
    assert names(leases) == set()
    wait_until(lambda: names(leases) == {"a"}, timeout_s=5)


def test_a_stolen_lease_is_noticed(server: Server, make: Make) -> None:
    register(server, "a")
    leases = make()
    wait_until(lambda: names(leases) == {"a"})
    server.command("SET", FeedKeys.of("a").lease, "a thief")
    wait_until(lambda: names(leases) == set())


def test_without_progress_nothing_is_renewed(server: Server, make: Make) -> None:
    register(server, "a")
    moving = True
    leases = make(progressing=lambda: moving)
    wait_until(lambda: names(leases) == {"a"})
    moving = False
    wait_until(lambda: not server.command("EXISTS", FeedKeys.of("a").lease))


def test_only_the_feeds_that_were_asked_for(server: Server, make: Make) -> None:
    for name in ("a", "b"):
        register(server, name)
    leases = make(feeds=["b"])
    wait_until(lambda: names(leases) == {"b"})
    server.command("BLPOP", "nothing", 0.5)
    assert names(leases) == {"b"}
