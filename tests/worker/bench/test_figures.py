"""Percentiles, quantiles of a histogram, rates, against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from tests.worker.bench.events import event
from worker.bench.figures import latencies_ms, percentiles, quantile, rate, spread, stage, warm_up
from worker.errors import MienError


def test_percentiles_lie_between_the_two_nearest_values():
    found = percentiles([4.0, 1.0, 2.0, 3.0, 5.0])
    assert found.p50 == 3.0
    assert found.p95 == pytest.approx(4.8)
    assert found.p99 == pytest.approx(4.96)


def test_percentiles_of_nothing_are_zero():
    assert percentiles([]).p99 == 0.0


def test_a_spread_is_the_median_and_the_range():
    found = spread([3.0, 9.0, 4.0])
    assert (found.median, found.low, found.high) == (4.0, 3.0, 9.0)


# 10 observations up to 0.1 s, 10 more up to 0.2, 5 beyond the last bound.
_BUCKETS = {0.1: 10.0, 0.2: 20.0, 0.4: 20.0, math.inf: 25.0}


@pytest.mark.parametrize(
    ("part", "value"), [(0.2, 0.05), (0.4, 0.1), (0.6, 0.15), (0.8, 0.2), (0.99, 0.4)]
)
def test_a_quantile_is_interpolated_within_its_bucket(part, value):
    assert quantile(_BUCKETS, part) == pytest.approx(value)


def test_an_empty_histogram_has_quantile_zero():
    assert quantile({0.1: 0.0, math.inf: 0.0}, 0.5) == 0.0


def test_a_stage_shares_its_time_out_over_the_frames():
    found = stage("detect", _BUCKETS, seconds=3.0, frames=100)
    assert (found.stage, found.batches) == ("detect", 25)
    assert found.ms_per_frame == pytest.approx(30.0)
    assert found.batch_ms.p50 == pytest.approx(125.0)


def test_the_rate_begins_at_the_end_of_the_batch_in_which_the_warm_up_ends():
    # Batches of 8: the warm-up of 40 frames is 10, so the second batch's end is where it begins.
    times = [1000 + 400 * batch + i * 0.1 for batch in range(5) for i in range(8)]
    assert warm_up(len(times)) == 10
    found = rate([event(i, published_ms=at) for i, at in enumerate(times)])
    assert found == pytest.approx(24 / 1.2)


def test_the_rate_of_single_frames():
    found = rate([event(i, published_ms=20 * i) for i in range(41)])
    assert found == pytest.approx(50.0)


def test_frames_that_settle_all_at_once_tell_no_rate():
    with pytest.raises(MienError, match=r"8 frames are too few .* --frames"):
        rate([event(i, published_ms=0.1 * i) for i in range(8)])


def test_latency_is_from_the_frame_to_its_event():
    assert latencies_ms([event(0, published_ms=12.5)]) == [12.5]
