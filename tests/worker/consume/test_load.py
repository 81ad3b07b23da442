"""What feeds cost: seconds of work a second, forgotten with time."""

from __future__ import annotations

import pytest

from worker.consume.load import LoadMeter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> LoadMeter:
    return LoadMeter(clock)


def work(meter: LoadMeter, clock: Clock, seconds: float, busy: float, **shares: int) -> None:
    """Batches of a tenth of a second, ``busy`` of which is work."""
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        meter.worked(0.1 * busy, shares)


def test_who_always_works_is_busy_and_not_more(meter: LoadMeter, clock: Clock) -> None:
    assert meter.busy() == 0
    work(meter, clock, 60, 1.0, a=1)
    assert 0.98 < meter.busy() <= 1


def test_the_load_is_split_by_shares(meter: LoadMeter, clock: Clock) -> None:
    work(meter, clock, 60, 0.4, a=3, b=1)
    loads = meter.loads(["a", "b", "c"])
    assert loads == pytest.approx({"a": 0.3, "b": 0.1, "c": 0.0}, rel=0.02)
    assert meter.busy() == pytest.approx(0.4, rel=0.02)


def test_what_is_long_ago_is_forgotten(meter: LoadMeter, clock: Clock) -> None:
    work(meter, clock, 60, 0.5, a=1)
    clock.now += 30
    assert 0 < meter.loads(["a"])["a"] < 0.03
    clock.now += 1000
    assert meter.loads(["a"]) == {"a": 0}


def test_a_long_batch_counts_as_the_time_it_took(meter: LoadMeter, clock: Clock) -> None:
    clock.now += 300
    meter.worked(300, {"a": 1})
    assert meter.busy() == pytest.approx(1.0)


def test_a_load_from_elsewhere_is_believed_and_is_not_our_work(
    meter: LoadMeter, clock: Clock
) -> None:
    meter.expect("a", 0.5)
    assert meter.loads(["a"])["a"] == pytest.approx(0.5)
    assert meter.busy() == 0
    work(meter, clock, 60, 0.1, a=1)
    assert meter.loads(["a"])["a"] == pytest.approx(0.1, rel=0.05)
