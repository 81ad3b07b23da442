"""Who owns which feed: one owner, found and let go without a restart, not without progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.feeds import wait_until
from worker.consume.leases import Leases
from worker.consume.load import LoadMeter
from worker.wire.keys import FEEDS, FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server
from worker.wire.workers import live_workers, owner_of

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
    server.command("SET", FeedKeys.of("a").lease, "a worker that died", "PX", 2000)
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


def counts(*workers: Leases) -> list[int]:
    return sorted(len(names(worker)) for worker in workers)


def test_what_is_above_our_share_goes_when_it_is_drained_and_not_before(
    server: Server, make: Make
) -> None:
    for name in "abcdef":
        register(server, name)
    first = make(ttl_s=60)
    wait_until(lambda: len(names(first)) == 6)
    second = make(ttl_s=60)
    wait_until(lambda: len(first._giving) == 3)
    first.hand_over(lambda lease: False)
    assert counts(first, second) == [0, 6]
    busy = sorted(first._giving)[0]
    first.hand_over(lambda lease: lease.feed != busy)
    wait_until(lambda: counts(first, second) == [2, 4])
    assert busy in names(first)
    wait_until(lambda: first._giving == {busy})
    first.hand_over(lambda lease: True)
    wait_until(lambda: counts(first, second) == [3, 3])
    assert names(first) | names(second) == set("abcdef")


def test_each_heartbeat_tells_what_we_hold_and_what_it_costs(server: Server, make: Make) -> None:
    register(server, "a")
    meter = LoadMeter()
    meter.worked(5.0, {"a": 1})
    leases = make(meter=meter, feeds=["a", "later"])
    wait_until(lambda: names(leases) == {"a"})
    wait_until(lambda: "a" in live_workers(server)[leases.me].feeds)
    entry = live_workers(server)[leases.me]
    assert entry.only == ("a", "later")
    assert entry.pid == os.getpid()
    assert 0 < entry.busy <= 1
    (lease,) = leases.held()
    assert owner_of(lease.token) == leases.me
    leases.close()
    assert live_workers(server) == {}


def test_a_feed_that_is_being_removed_is_let_go_of_and_not_taken(
    server: Server, make: Make
) -> None:
    register(server, "a")
    leases = make()
    wait_until(lambda: names(leases) == {"a"})
    register(server, "a", removing=True)
    wait_until(lambda: names(leases) == set())
    assert not server.command("EXISTS", FeedKeys.of("a").lease)


def test_settings_that_change_reach_the_lease_we_hold(server: Server, make: Make) -> None:
    register(server, "a", staleness_s=2.0)
    leases = make()
    wait_until(lambda: names(leases) == {"a"})
    (before,) = leases.held()
    register(server, "a", staleness_s=7.0)
    wait_until(lambda: leases.held()[0].settings.staleness_s == 7.0)
    assert leases.held()[0].token == before.token


def test_the_registry_is_read_when_it_has_changed_and_not_at_each_look(
    server: Server, make: Make
) -> None:
    def read() -> int:
        return int(server.command("INFO", "commandstats")["cmdstat_hgetall"]["calls"])

    def looked() -> int:
        return int(server.command("INFO", "commandstats")["cmdstat_evalsha"]["calls"])

    register(server, "a")
    leases = make()
    wait_until(lambda: names(leases) == {"a"})
    # Who lives is read at each look, by a script: an HGETALL as well.
    looks, reads = looked(), read()
    wait_until(lambda: looked() > looks + 12)
    assert read() - reads < looked() - looks
    register(server, "b")
    wait_until(lambda: names(leases) == {"a", "b"})


def test_feeds_whose_leases_are_gone_come_back_to_who_had_them(server: Server, make: Make) -> None:
    """The server has lost all leases at once."""
    for name in "abcd":
        register(server, name)
    both = [make(ttl_s=1.0), make(ttl_s=1.0)]

    def shared() -> bool:
        for worker in both:
            worker.hand_over(lambda lease: True)
        return counts(*both) == [2, 2]

    wait_until(shared)
    before = [names(worker) for worker in both]
    tokens = {lease.token for worker in both for lease in worker.held()}
    server.command("DEL", *(FeedKeys.of(name).lease for name in "abcd"))
    wait_until(
        lambda: (
            counts(*both) == [2, 2]
            and tokens.isdisjoint(lease.token for worker in both for lease in worker.held())
        )
    )
    assert [names(worker) for worker in both] == before
