"""A live feed that brings three times what can be analysed stays fresh, and all is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from tests.doubles import OneFace, running_worker
from tests.feeds import frame_of, wait_until
from worker.capture.writer import Writer
from worker.records import Image
from worker.subscribe.events import events
from worker.subscribe.watch import latency_s
from worker.wire.books import read_books
from worker.wire.server import Server

SLOW_S, DEPTH, STALENESS_S = 0.06, 4, 1.0


def test_a_live_feed_under_three_times_its_load_stays_fresh(
    server: Server, server_url: str, feed: str
) -> None:
    def look(images: Sequence[Image]) -> None:
        time.sleep(SLOW_S * len(images))

    writer = Writer(
        server, feed, stop=threading.Event(),
        policy="live", depth=DEPTH, staleness_s=STALENESS_S,
    )  # fmt: skip
    with running_worker(server_url, OneFace(look), batch_size=1):
        for sequence in range(150):
            assert writer.push(frame_of(writer, sequence)).status == "accepted"
            time.sleep(SLOW_S / 3)
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    books = read_books(server, feed)
    assert books.balanced
    assert books.offered == 150
    assert books.dead == 0
    assert books.dropped + books.skipped >= 75, "two of three at the best, but for the last few"
    assert books.published >= 10
    found = list(events(feed, redis=server_url, since="start", follow=False))
    assert len(found) == books.published
    sequences = [event.sequence for event in found]
    assert sequences == sorted(set(sequences))
    assert sequences[-1] == 149, "the newest frame is never the one that makes room"
    # What waited in the depth, and what was still fresh when it was read; a slow machine's share.
    worst = max(latency_s(event) or 0.0 for event in found)
    assert worst < STALENESS_S + DEPTH * SLOW_S + 2.0
