"""A connection in a thread of its own: what is kept, what is passed over, what cannot be called
off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest

from tests.feeds import wait_until
from worker.capture.base import Source
from worker.capture.reader import Reader, Stopped
from worker.errors import SourceError, SourceLost
from worker.records import Picture


class Fake(Source):
    """``count`` pictures, then ``end`` is called."""

    name, width, height, rate, frames, duration_s = "fake", 8, 8, None, None, None

    def __init__(
        self, count: int, *, live: bool = True, end: Callable[[], None] = lambda: None
    ) -> None:
        self.count, self.live, self.end = count, live, end
        self.given, self.closed = 0, threading.Event()

    def pictures(self) -> Iterator[Picture]:
        for pts in range(self.count):
            self.given += 1
            yield Picture(np.zeros((8, 8, 3), np.uint8), pts, Fraction(1, 25))
        self.end()

    def close(self) -> None:
        self.closed.set()


def rest(reader: Reader) -> list[int]:
    found: list[int] = []
    while (picture := reader.take(threading.Event(), 5)) is not None:
        found.append(picture.pts)
    return found


@pytest.mark.parametrize(("live", "keep_all"), [(True, True), (False, False)])
def test_all_pictures_are_kept_and_few_are_held(live: bool, keep_all: bool) -> None:
    fake = Fake(100, live=live)
    reader = Reader(lambda: fake, keep_all=keep_all)
    assert reader.opened(threading.Event(), 5) is fake
    wait_until(lambda: fake.given == 3)
    time.sleep(0.1)
    assert fake.given == 3, "two wait, one waits to wait"
    assert rest(reader) == list(range(100))
    assert reader.missed == 0
    assert fake.closed.wait(5)


def test_the_latest_pictures_of_a_live_source_are_kept() -> None:
    fake = Fake(100)
    reader = Reader(lambda: fake, keep_all=False)
    wait_until(fake.closed.is_set)
    assert rest(reader) == [98, 99]
    assert reader.missed == 98


def test_a_burst_of_a_live_source_is_kept() -> None:
    fake, stop = Fake(30), threading.Event()
    reader = Reader(lambda: fake, keep_all=False)
    taken = []
    while (picture := reader.take(stop, 5)) is not None:
        taken.append(picture.pts)
        time.sleep(0.002)
    assert taken == list(range(30))
    assert reader.missed == 0


def test_a_taker_that_stays_too_slow_gets_the_latest() -> None:
    fake, stop = Fake(100_000), threading.Event()
    reader = Reader(lambda: fake, keep_all=False)
    for _ in range(100):
        picture = reader.take(stop, 5)
        time.sleep(0.01)
        if reader.missed:
            break
    assert picture is not None
    assert reader.missed > 0
    reader.close()


def test_what_came_before_an_error_is_taken_first() -> None:
    def fail() -> None:
        raise SourceLost("unplugged")

    reader = Reader(lambda: Fake(2, end=fail), keep_all=True)
    assert [reader.take(threading.Event(), 5) is not None for _ in range(2)] == [True, True]
    with pytest.raises(SourceLost, match="unplugged"):
        reader.take(threading.Event(), 5)


def test_a_source_that_cannot_be_opened() -> None:
    def open_() -> Source:
        raise SourceError("no such camera")

    with pytest.raises(SourceError, match="no such camera"):
        Reader(open_, keep_all=True).opened(threading.Event(), 5)


def test_a_read_that_hangs_holds_nobody_up() -> None:
    hanging, stop = threading.Event(), threading.Event()
    fake = Fake(0, end=lambda: bool(hanging.wait(30)) or None)
    reader = Reader(lambda: fake, keep_all=True)
    with pytest.raises(SourceLost, match=r"^fake has stalled: no picture for 0\.2 s$"):
        reader.take(threading.Event(), 0.2)
    stop.set()
    with pytest.raises(Stopped):
        reader.take(stop, 30)
    assert not reader.close(timeout_s=0.1), "the read still holds the source"
    assert not fake.closed.is_set()
    hanging.set()
    assert reader.close(timeout_s=5)
    assert fake.closed.is_set()


def test_closing_ends_a_reader_that_nobody_takes_from() -> None:
    fake = Fake(100)
    reader = Reader(lambda: fake, keep_all=True)
    wait_until(lambda: fake.given == 3)
    assert reader.close(timeout_s=5)
    assert fake.closed.is_set()
    assert fake.given == 3
