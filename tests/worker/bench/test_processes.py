"""Timings from a worker's histograms, and children that do not live."""

from __future__ import annotations

import math

import pytest

from worker.bench.processes import Timing, child, merged
from worker.errors import MienError


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
