"""What a worker tells Prometheus. One prefix, base units, few labels: feeds in hand, constants.

What all feeds have in common, with or without a worker, :mod:`worker.operate.exporter` tells.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker import usage
from worker.errors import ServerError
from worker.records import ModelInfo

_STAGE_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_AGE_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)
"""Fewer: each of them is a series for each feed."""

UNCERTAIN = "uncertain"
"""What stands for the expression of a face on which the model abstains."""

# A second series for each counter, which Prometheus does not use.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one worker, in the registry that is passed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.frames = Counter(
            "mien_frames",
            "Frames settled by this worker, by outcome.",
            ["feed", "outcome"],
            registry=registry,
        )
        self.faces = Counter(
            "mien_faces",
            "Faces in the events published, by the expression perceived.",
            ["feed", "expression"],
            registry=registry,
        )
        self.stage = Histogram(
            "mien_stage_seconds",
            "Time a batch spends in each step of the pipeline.",
            ["stage"],
            buckets=_STAGE_S,
            registry=registry,
        )
        self.batch_frames = Histogram(
            "mien_batch_frames",
            "Frames analysed together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.batch_faces = Histogram(
            "mien_batch_faces",
            "Faces classified together.",
            buckets=(0, 1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.ingest_to_event = Histogram(
            "mien_ingest_to_event_seconds",
            "From the server's acceptance of a frame to that of its event, by the server's clock.",
            ["feed"],
            buckets=_AGE_S,
            registry=registry,
        )
        self._held: set[str] = set()
        self._feeds = Gauge(
            "mien_feeds_held", "Feeds whose lease this worker holds.", registry=registry
        )
        self.server_errors = Counter(
            "mien_server_unavailable",
            "Times the server could not be reached or did not answer.",
            registry=registry,
        )
        self._info = Gauge(
            "mien_worker_info",
            "1, with the worker's name in mien feeds and in the logs, and its server.",
            ["worker", "server"],
            registry=registry,
        )
        self._logged = Counter(
            "mien_log_messages", "Lines logged, by level.", ["level"], registry=registry
        )
        for level in ("warning", "error"):
            self._logged.labels(level)  # an increase from nothing would not be seen
        self._model = Gauge(
            "mien_model_info",
            "1 for each model in use.",
            ["role", "name", "version", "digest"],
            registry=registry,
        )
        if usage.TOLD:
            registry.register(_Usage())

    def hold(self, feeds: set[str]) -> None:
        """These feeds are ours now; the series of those that were end, so that labels stay few."""
        for feed in self._held - feeds:
            for metric in (self.frames, self.faces, self.ingest_to_event):
                metric.remove_by_labels({"feed": feed})
        self._held = feeds
        self._feeds.set(len(feeds))

    def settled(
        self,
        feed: str,
        outcome: str,
        *,
        expressions: Iterable[str] = (),
        age_s: float | None = None,
    ) -> None:
        """One frame has reached its outcome.

        Args:
            expressions: of a published frame the top label of each face, or UNCERTAIN.
            age_s: of a published frame how long after the server took the frame it took the event.
        """
        self.frames.labels(feed, outcome).inc()
        for expression in expressions:
            self.faces.labels(feed, expression).inc()
        if age_s is not None:
            self.ingest_to_event.labels(feed).observe(age_s)

    def introduce(self, worker: str, server: str) -> None:
        """Who we are: host and process, and where our feeds are."""
        self._info.labels(worker, server).set(1)

    def logged(self, level: str) -> None:
        """A line was logged: what goes wrong is said there, so it is counted there."""
        self._logged.labels(level).inc()

    def model(self, role: str, info: ModelInfo) -> None:
        """``info`` is in use as ``role`` now, instead of what was before."""
        self._model.remove_by_labels({"role": role})
        self._model.labels(role, info.name, info.version, info.digest).set(1)

    def follow(self, busy: Callable[[], float], backlog: Callable[[], tuple[int, float]]) -> None:
        """What an autoscaler goes by, looked up whenever it is asked for.

        Args:
            busy: the share of the worker's time that it works, 0 to 1.
            backlog: frames in flight in the feeds held, and the oldest one's age in seconds. Where
                the server does not tell, the two metrics are absent: nothing false is said.
        """
        Gauge(
            "mien_worker_busy_ratio",
            "Share of its time that this worker works, over the last seconds.",
            registry=self.registry,
        ).set_function(busy)
        self.registry.register(_Backlog(backlog))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the enclosed step to ``mien_stage_seconds``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage.labels(stage).observe(time.perf_counter() - start)


class _Usage(Collector):
    """What the worker takes with the processes that it has started, which prometheus_client's own
    metrics of the process leave out."""

    def collect(self) -> Iterator[Metric]:
        pids = usage.family(os.getpid())
        try:
            cpu_s, resident_bytes = usage.cpu_s(pids), usage.resident_bytes(pids)
        except OSError:  # one of them has just ended, and the worker will
            return
        yield CounterMetricFamily(
            "mien_worker_cpu_seconds",
            "Processor time of this worker and the processes that detect faces for it.",
            cpu_s,
        )
        yield GaugeMetricFamily(
            "mien_worker_memory_bytes",
            "Resident memory of this worker and the processes that detect faces for it, added; "
            "what they share counts in each.",
            resident_bytes,
        )


class _Backlog(Collector):
    """Two metrics from one look at the server."""

    def __init__(self, look: Callable[[], tuple[int, float]]) -> None:
        self._look = look

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            frames, oldest_age_s = self._look()
        except ServerError:
            return
        yield GaugeMetricFamily(
            "mien_in_flight_frames",
            "Frames of the feeds held that wait or are in this worker's hands.",
            frames,
        )
        yield GaugeMetricFamily(
            "mien_oldest_frame_age_seconds",
            "Age of the oldest of these frames, by the server's clock; 0 if there is none.",
            oldest_age_s,
        )

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # registering must not ask the server
