"""Several workers share the feeds: by load, without a gap, without a frame the worse for it."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from tests.delivery.conftest import Killable, StartWorker, wait_for_batch
from tests.doubles import OneFace, Running, running_worker
from tests.feeds import frame_of, jpeg, push_frames, wait_until
from worker.capture.writer import Writer
from worker.records import Image
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server
from worker.wire.workers import live_workers, owner_of

TTL_S = 5.0


@pytest.fixture
def workers(server: Server) -> Iterator[ExitStack]:
    """Workers entered here end with the test."""
    with ExitStack() as stack:
        yield stack


def held(*workers: Running) -> list[set[str]]:
    return [{lease.feed for lease in worker.pipeline._leases.held()} for worker in workers]


def shared(feeds: set[str], *workers: Running) -> bool:
    """Whether all feeds are held, each once, and in about equal numbers."""
    sets = held(*workers)
    counts = [len(one) for one in sets]
    return (
        set().union(*sets) == feeds
        and sum(counts) == len(feeds)
        and max(counts) - min(counts) <= 1 + max(counts) // 10
    )


@contextmanager
def writing(write: Callable[[str, threading.Event], None], *names: str) -> Iterator[None]:
    """Runs ``write(name, stop)`` in a thread for each name, until the end."""
    stop = threading.Event()
    threads = [threading.Thread(target=write, args=(name, stop), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=10)


def registered_feeds(server: Server, count: int) -> set[str]:
    names = {f"feed-{i}" for i in range(count)}
    for name in names:
        register(server, name)
    return names


def test_workers_join_and_leave_and_no_frame_is_the_worse_for_it(
    server: Server, server_url: str, workers: ExitStack
) -> None:
    """Six feeds are pushed without a pause while three workers come and two of them go."""
    names = sorted(registered_feeds(server, 6))
    pushed = dict.fromkeys(names, 0)

    def write(name: str, stop: threading.Event) -> None:
        writer = Writer(Server(server_url), name, stop=stop, policy="lossless", depth=20)
        while not stop.is_set():
            pushed[name] += writer.push(frame_of(writer, pushed[name])).status == "accepted"
            stop.wait(0.02)

    first = workers.enter_context(running_worker(server_url, lease_ttl_s=TTL_S))
    with writing(write, *names):
        wait_until(lambda: held(first) == [set(names)])
        with running_worker(server_url, lease_ttl_s=TTL_S) as second:
            wait_until(lambda: shared(set(names), first, second))
            with running_worker(server_url, lease_ttl_s=TTL_S) as third:
                wait_until(lambda: shared(set(names), first, second, third))
                assert set(live_workers(server)) == {
                    worker.pipeline._leases.me for worker in (first, second, third)
                }
            left = time.monotonic()
            wait_until(lambda: shared(set(names), first, second))
            assert time.monotonic() - left < TTL_S, "who leaves in order is not waited for"
        wait_until(lambda: held(first) == [set(names)])
        before = dict(pushed)
        wait_until(lambda: all(read_books(server, name).published > before[name] for name in names))
    wait_until(lambda: all(read_books(server, name).in_flight == 0 for name in names))
    for name in names:
        books = read_books(server, name)
        assert (books.published, books.dead, books.dropped) == (pushed[name], 0, 0)
        assert books.balanced
        found = events(name, redis=server_url, since="start", follow=False)
        assert [event.sequence for event in found] == list(range(pushed[name]))
        assert server.command("HGET", FeedKeys.of(name).stats, "alone") is None, "no attempt"


def test_feeds_are_shared_by_load_and_not_by_number(
    server: Server, server_url: str, workers: ExitStack
) -> None:
    """One feed makes as much work as six others: it ends up with few of them beside it."""

    def look(images: Sequence[Image]) -> None:
        time.sleep(sum(0.06 if image.shape[0] == 96 else 0.01 for image in images))

    light = [f"light-{i}" for i in range(6)]
    pictures = {name: jpeg(64, 48) for name in light} | {"heavy": jpeg(192, 96)}

    def write(name: str, stop: threading.Event) -> None:
        writer = push_frames(Server(server_url), name, 0, policy="live")
        sequence = 0
        while not stop.wait(0.15):
            writer.push(frame_of(writer, sequence, pictures[name]))
            sequence += 1

    def by_load() -> bool:
        heavy, other = sorted(held(first, second), key=lambda feeds: "heavy" not in feeds)
        return "heavy" in heavy and len(heavy) <= 3 and len(heavy) + len(other) == 7

    first = workers.enter_context(running_worker(server_url, OneFace(look), lease_ttl_s=TTL_S))
    with writing(write, *pictures):
        wait_until(lambda: len(held(first)[0]) == 7)
        measured = first.pipeline._meter
        wait_until(lambda: measured.loads(["heavy"])["heavy"] > 0.15, timeout_s=30)
        second = workers.enter_context(running_worker(server_url, OneFace(look), lease_ttl_s=TTL_S))
        wait_until(by_load)


def test_the_feeds_of_a_killed_worker_go_to_those_that_live(
    server: Server, server_url: str, workers: ExitStack, start_worker: StartWorker
) -> None:
    names = registered_feeds(server, 6)
    process = start_worker()
    wait_until(lambda: len(live_workers(server)) == 1)
    others = [
        workers.enter_context(running_worker(server_url, lease_ttl_s=TTL_S)) for _ in range(2)
    ]
    wait_until(lambda: sorted(map(len, held(*others))) == [2, 2])
    process.kill()
    wait_until(lambda: shared(names, *others))
    assert set(live_workers(server)) == {worker.pipeline._leases.me for worker in others}


def test_a_paused_worker_loses_its_feeds_and_then_gets_a_share_again(
    server: Server, server_url: str, workers: ExitStack, start_worker: StartWorker
) -> None:
    """It is stopped with frames in hand and wakes with tokens that are void."""
    names = sorted(registered_feeds(server, 4))
    writers = [push_frames(server, name, 40) for name in names]
    process = start_worker()
    for _ in range(3):
        wait_for_batch(process)
    other = workers.enter_context(running_worker(server_url, lease_ttl_s=TTL_S))
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: held(other) == [set(names)])
    wait_until(lambda: all(read_books(server, name).in_flight == 0 for name in names))
    process.send_signal(signal.SIGCONT)
    for writer in writers:
        writer.push(frame_of(writer, 40))
    wait_until(lambda: len(held(other)[0]) == 2)
    wait_until(lambda: all(read_books(server, name).published == 41 for name in names))
    for name in names:
        found = list(events(name, redis=server_url, since="start", follow=False))
        assert [event.sequence for event in found] == list(range(41))
        assert [event.ordinal for event in found] == list(range(1, 42))
        assert read_books(server, name).balanced
    assert subprocess.Popen.poll(process) is None, "it lives on"


def test_an_outage_of_the_server_shuffles_nothing(killable: Killable) -> None:
    """Longer than the leases last: all are void, and each worker finds its own feeds again."""
    server = Server(killable.url)
    names = registered_feeds(server, 9)
    with ExitStack() as stack:
        three = [
            stack.enter_context(running_worker(killable.url, lease_ttl_s=1.0)) for _ in range(3)
        ]
        wait_until(lambda: shared(names, *three))
        before = held(*three)
        tokens = {lease.token for worker in three for lease in worker.pipeline._leases.held()}
        killable.kill()
        time.sleep(2.0)
        killable.start()
        wait_until(
            lambda: (
                tokens.isdisjoint(
                    lease.token for worker in three for lease in worker.pipeline._leases.held()
                )
                and shared(names, *three)
            )
        )
        assert held(*three) == before


def test_a_feed_that_comes_later_has_an_owner_soon(
    server: Server, server_url: str, workers: ExitStack
) -> None:
    two = [workers.enter_context(running_worker(server_url, lease_ttl_s=60)) for _ in range(2)]
    wait_until(lambda: len(live_workers(server)) == 2)
    names = registered_feeds(server, 5)
    wait_until(lambda: shared(names, *two))
    late = push_frames(server, "late", 1)
    wait_until(lambda: read_books(server, late.feed).published == 1)
    token = server.command("GET", FeedKeys.of("late").lease).decode()
    assert owner_of(token) in {worker.pipeline._leases.me for worker in two}
