"""From samples to figures: percentiles, spreads over rounds, rates, histograms' quantiles."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np

from worker.bench.report import Percentiles, Spread, Stage
from worker.errors import MienError
from worker.records import FrameEvent

_ONE_BATCH = timedelta(milliseconds=1)
"""Events whose times lie closer together were settled in one round trip."""

Buckets = Mapping[float, float]
"""Upper bound in seconds (the last is infinite) -> observations up to it, as Prometheus counts."""


def spread(values: Sequence[float]) -> Spread:
    """One value for each round -> their median and range."""
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def percentiles(values: Sequence[float]) -> Percentiles:
    """Linear between the two nearest values; of no values at all: zeros."""
    if not values:
        return Percentiles(p50=0.0, p95=0.0, p99=0.0)
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).tolist()
    return Percentiles(p50=p50, p95=p95, p99=p99)


def quantile(buckets: Buckets, part: float) -> float:
    """The value (seconds) below which ``part`` of the observations lie.

    Linear within a bucket, as Prometheus' histogram_quantile; what lies beyond the last bound is
    said to be that bound. Of no observations it is 0.
    """
    bounds = sorted(buckets)
    if not buckets[bounds[-1]]:
        return 0.0
    wanted = part * buckets[bounds[-1]]
    low = below = 0.0
    for bound in bounds[:-1]:
        count = buckets[bound]
        if count >= wanted and count > below:
            return low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low


def stage(name: str, buckets: Buckets, seconds: float, frames: int) -> Stage:
    """Figures of one step of the pipeline, from the worker's histogram over ``frames`` frames."""
    p50, p95, p99 = (1000 * quantile(buckets, part) for part in (0.5, 0.95, 0.99))
    return Stage(
        stage=name,
        batches=round(buckets[max(buckets)]),
        ms_per_frame=1000 * seconds / frames,
        batch_ms=Percentiles(p50=p50, p95=p95, p99=p99),
    )


def warm_up(frames: int) -> int:
    """So many of the first frames count for nothing: buffers grow, caches fill."""
    return min(32, frames // 4)


def rate(found: Sequence[FrameEvent]) -> float:
    """Frames a second through a stream that was filled beforehand, by the server's clock.

    From the end of the batch in which the warm-up ends to the last event. The worker may have begun
    on later frames by then, and runs dry at the end: over hundreds of frames neither shows.

    Raises:
        MienError: there are too few events.
    """
    times = sorted(event.published_at for event in found if event.published_at)
    first = max(0, warm_up(len(times)) - 1)
    for before, after in itertools.pairwise(times[first:]):
        if after - before > _ONE_BATCH:
            break
        first += 1
    later = len(times) - 1 - first
    if later < 1:
        raise MienError(f"{len(times)} frames are too few to tell a rate: give more with --frames")
    return later / (times[-1] - times[first]).total_seconds()


def latencies_ms(found: Sequence[FrameEvent]) -> list[float]:
    """From the server's acceptance of each frame to that of its event, by the server's clock."""
    return [
        (event.published_at - event.ingested_at).total_seconds() * 1000
        for event in found
        if event.published_at
    ]
