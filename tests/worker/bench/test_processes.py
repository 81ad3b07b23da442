"""What the system says of processes, and children that do not live."""

from __future__ import annotations

import math
import os
import time

import pytest

from worker.bench.processes import Timing, child, cpu_s, merged, peak_bytes
from worker.errors import MienError


def test_cpu_time_grows_with_work():
    before, began = cpu_s(os.getpid()), time.process_time()
    while time.process_time() - began < 0.05:
        pass
    assert 0.03 <= cpu_s(os.getpid()) - before < 5


def test_the_peak_stays_when_memory_is_given_back():
    before = peak_bytes(os.getpid())
    wanted = before + 50_000_000
    held = b"x" * wanted
    del held
    assert peak_bytes(os.getpid()) >= wanted


def test_timings_are_taken_from_each_other_and_added():
    early = Timing({0.1: 1.0, math.inf: 2.0}, 0.5)
    late = Timing({0.1: 4.0, math.inf: 6.0}, 1.75)
    assert late.since(early) == Timing({0.1: 3.0, math.inf: 4.0}, 1.25)
    both = merged([{"detect": early}, {"detect": late, "settle": early}])
    assert both == {"detect": Timing({0.1: 5.0, math.inf: 8.0}, 2.25), "settle": early}


def test_a_child_that_ends_is_quoted():
    with (
        child("worker", "worker.app", "worker", "--redis", "nonsense://") as started,
        pytest.raises(MienError, match=r"the worker could not go on: .*nonsense"),
    ):
        started.line()


def test_a_child_does_not_outlive_its_block():
    with child("listener", "http.server", "0") as started:
        assert started.process.poll() is None
    assert started.process.poll() is not None
