"""The books of all feeds, as Prometheus takes them: also of those that no worker holds.

Whoever serves this asks the server at each scrape, once for all feeds. Two that serve it say the
same: rules take the largest of equal labels.

For each feed there are fourteen series, whatever happens in it. That is nothing for hundreds of
feeds; for many thousands keep what alerts need and drop the rest as it is scraped
(deploy/RUNBOOK.md, "Many feeds").
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from worker.errors import ServerError, ServerUnavailable
from worker.wire.books import Books, read_all_books
from worker.wire.registry import FeedSettings, registered
from worker.wire.server import Server
from worker.wire.workers import live_workers

_FRESH_S = 1.0
"""Several who scrape at once share one look."""


class FeedCollector(Collector):
    """What of the server and its feeds is to be watched: metrics ``mien_server_*``,
    ``mien_feed_*`` and ``mien_workers``.

    Register it once in a process: ``REGISTRY.register(FeedCollector(server))``. While the server
    is away there is ``mien_server_up`` 0 and nothing else: nothing false is said.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._found: list[Metric] = []

    def collect(self) -> list[Metric]:
        with self._lock:
            if time.monotonic() - self._at >= _FRESH_S:
                self._found = list(_look(self._server))
                self._at = time.monotonic()
            return self._found

    def describe(self) -> list[Metric]:
        return []  # registering must not ask the server


def _look(server: Server) -> Iterable[Metric]:
    try:
        nodes = server.each_node("INFO")
    except ServerError as error:
        nodes = {server.name: error}
    yield from _of_nodes(server.name, nodes)
    if all(isinstance(reply, ServerUnavailable) for reply in nodes.values()):
        return
    try:
        feeds, _ = registered(server)
        workers = live_workers(server)
        books = read_all_books(server, sorted(feeds))
    except ServerError:
        return
    yield _metric(
        Gauge,
        "workers",
        "Workers that say that they live.",
        ["server"],
        {(server.name,): len(workers)},
    )
    known = {feed: look for feed, look in books.items() if isinstance(look, Books)}
    yield from _of_feeds(server.name, feeds, known)


def _of_nodes(name: str, nodes: Mapping[str, Any]) -> Iterable[Metric]:
    """``nodes``: what each answers to INFO, or the error."""
    labels = ["server", "node"]
    up = {(name, node): not isinstance(info, ServerUnavailable) for node, info in nodes.items()}
    yield _metric(Gauge, "server_up", "1 if this node of the server answers.", labels, up)
    # A user who may not run INFO learns whether the server answers, and no more.
    told = {(name, node): info for node, info in nodes.items() if isinstance(info, dict)}
    yield _metric(
        Gauge, "server_memory_used_bytes", "Memory that the server uses.", labels,
        {node: info["used_memory"] for node, info in told.items()},
    )  # fmt: skip
    yield _metric(
        Gauge, "server_memory_max_bytes",
        "Its setting maxmemory, or the machine's memory where there is none.", labels,
        {node: info["maxmemory"] or info["total_system_memory"] for node, info in told.items()},
    )  # fmt: skip
    yield _metric(
        Counter, "server_evicted_keys",
        "Keys that the server threw away for want of memory; none of ours may be.", labels,
        {node: info["evicted_keys"] for node, info in told.items()},
    )  # fmt: skip
    yield _metric(
        Gauge, "server_persistence_ok",
        "1 if the last snapshot and the last write to the append-only file went well.", labels,
        {
            node: info["rdb_last_bgsave_status"] == "ok" == info["aof_last_write_status"]
            for node, info in told.items()
        },
    )  # fmt: skip


def _of_feeds(
    name: str, feeds: Mapping[str, FeedSettings], books: Mapping[str, Books]
) -> Iterable[Metric]:
    labels = ["server", "feed"]

    def gauge(
        what: str, words: str, value: Callable[[FeedSettings, Books], float | None]
    ) -> Metric:
        values = {(name, feed): value(feeds[feed], look) for feed, look in books.items()}
        return _metric(Gauge, f"feed_{what}", words, labels, values)

    yield _metric(
        Gauge, "feed_info", "1 for each feed of the registry, with its policy.",
        [*labels, "policy"], {(name, feed, feeds[feed].policy): 1 for feed in books},
    )  # fmt: skip
    yield gauge(
        "staleness_seconds",
        "The feed's setting: a live frame that has waited longer is skipped.",
        lambda settings, _: settings.staleness_s,
    )
    yield gauge(
        "depth_frames",
        "The feed's setting: how many frames may wait to be read.",
        lambda settings, _: settings.depth,
    )
    yield _metric(
        Counter, "feed_offered", "Frames that the server accepted.", labels,
        {(name, feed): look.offered for feed, look in books.items()},
    )  # fmt: skip
    yield _metric(
        Counter, "feed_frames", "Frames by the outcome that they reached.", [*labels, "outcome"],
        {
            (name, feed, outcome): getattr(look, outcome)
            for feed, look in books.items()
            for outcome in ("published", "dropped", "skipped", "dead")
        },
    )  # fmt: skip
    yield gauge(
        "in_flight_frames",
        "Frames that wait or are in a worker's hands.",
        lambda _, look: look.in_flight,
    )
    yield gauge("in_hand_frames", "Frames in a worker's hands.", lambda _, look: look.in_hand)
    yield gauge(
        "oldest_frame_age_seconds",
        "Age of the oldest frame in flight, by the server's clock; 0 if there is none.",
        lambda _, look: look.oldest_age_s,
    )
    yield gauge(
        "idle_seconds",
        "Time since the server accepted the last frame, by its clock; absent if it never did.",
        lambda _, look: look.idle_s,
    )
    yield gauge("owned", "1 if a worker holds the feed's lease.", lambda _, look: look.owned)
    yield gauge(
        "books_balanced",
        "1 if every frame offered is accounted for; 0: somebody else deleted frames.",
        lambda _, look: look.balanced,
    )


def _metric(
    kind: type[Counter] | type[Gauge],
    name: str,
    words: str,
    labels: Sequence[str],
    values: Mapping[Any, float | None],
) -> Metric:
    """``values``: values of the labels -> value; where it is None there is no series."""
    family = kind(f"mien_{name}", words, labels=labels)
    for those, value in values.items():
        if value is not None:
            family.add_metric(those, float(value))
    return family
