"""A feed that floods takes nothing from the others: counted, not felt."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from tests.doubles import OneFace, running_worker
from tests.feeds import frame_of, push_frames, wait_until
from worker.capture.writer import Writer
from worker.records import Image, Policy
from worker.wire.books import Books, read_books
from worker.wire.server import Server

FRAME_S = 0.01
"""What the stub model takes for a frame: 100 frames a second are all it can do."""
EVERY_S = 0.1
"""The others push ten frames a second, three feeds of them: a third of what can be done."""
ROUNDS = 40


def slow(images: Sequence[Image]) -> None:
    time.sleep(FRAME_S * len(images))


def share_of_the_others(
    server: Server, url: str, *, policy: Policy, flooding: int
) -> tuple[float, Books]:
    """Published by offered of three feeds, beside one that pushes ``flooding`` times as much."""
    names = ["a", "b", "c"]
    server.command("FLUSHALL")
    others = [push_frames(server, name, 0, policy=policy, depth=8) for name in names]
    flood = push_frames(server, "flood", 0, policy=policy, depth=64)
    over = threading.Event()

    def pour() -> None:
        writer = Writer(Server(url), "flood", stop=over, say=lambda message: None)
        sequence = 0
        while flooding and not over.is_set():
            for _ in range(flooding):
                writer.push(frame_of(writer, sequence))
                sequence += 1
            over.wait(EVERY_S)

    with running_worker(url, OneFace(slow)):
        wait_until(lambda: all(read_books(server, name).owned for name in names))
        pouring = threading.Thread(target=pour, daemon=True)
        pouring.start()
        for sequence in range(ROUNDS):
            for writer in others:
                writer.push(frame_of(writer, sequence))
            time.sleep(EVERY_S)
        wait_until(lambda: all(read_books(server, name).in_flight == 0 for name in names))
        over.set()
        pouring.join(timeout=10)
    books = [read_books(server, name) for name in names]
    assert all(one.offered == ROUNDS and one.balanced for one in books)
    assert flood.feed == "flood"
    return sum(one.published for one in books) / (ROUNDS * 3), read_books(server, "flood")


@pytest.mark.parametrize("policy", ["live", "lossless"])
def test_the_others_publish_what_they_do_without_the_flood(
    server: Server, server_url: str, policy: Policy
) -> None:
    alone, none = share_of_the_others(server, server_url, policy=policy, flooding=0)
    beside, flood = share_of_the_others(server, server_url, policy=policy, flooding=20)
    assert none.offered == 0
    assert flood.published > ROUNDS, "it gets what the others leave"
    if policy == "live":
        assert flood.dropped + flood.skipped > 0, "and that is less than it pushes"
    assert alone >= 0.98
    assert beside >= alone - 0.02
