"""The search for the greatest number of feeds, and what a level's verdict is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.worker.bench.events import event
from worker.bench.capacity import MOST_FEEDS, level, search
from worker.bench.stream import Paced

RUN = Paced(
    events=[event(i, published_ms=10.0 * i) for i in range(11)],
    seconds=2.0,
    offered=20,
    published=20,
    dropped=0,
    skipped=0,
    dead=0,
    worker_cpu_s=3.0,
    server_cpu_s=0.5,
    behind=2,
    push_late_ms=1.0,
)


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5, 8, 100, MOST_FEEDS - 1, MOST_FEEDS])
def test_the_greatest_number_that_meets_the_target_is_found(most):
    tried = []

    def measure(feeds):
        tried.append(feeds)
        return level(feeds, RUN if feeds <= most else replace(RUN, dropped=1), 200)

    levels = search(measure)
    assert max((one.feeds for one in levels if one.verdict == "met"), default=0) == most
    assert [one.feeds for one in levels] == sorted(tried)
    assert len(set(tried)) == len(tried) <= 25
    if most < MOST_FEEDS:
        assert most + 1 in tried  # that one more is too many was seen, not supposed


def test_a_level_that_meets_its_target():
    found = level(4, RUN, 200)
    assert found.verdict == "met"
    assert (found.offered_per_s, found.frames_per_s) == (10.0, 10.0)
    assert (found.worker_cores, found.server_cores) == (1.5, 0.25)
    assert (found.ms.p50, found.ms.p95) == (50.0, pytest.approx(95.0))


@pytest.mark.parametrize(("behind", "verdict"), [(16, "met"), (17, "behind")])
def test_a_level_that_does_not_keep_up_is_none(behind, verdict):
    assert level(4, replace(RUN, behind=behind), 200).verdict == verdict


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "late"),
        ({"behind": 17}, "late"),
        ({"dropped": 1}, "lost"),
        ({"skipped": 1}, "lost"),
        ({"dead": 1}, "lost"),
        ({"push_late_ms": 21.0, "dropped": 1}, "pusher late"),
    ],
)
def test_why_a_level_does_not(change, verdict):
    assert level(4, replace(RUN, **change), 94).verdict == verdict
