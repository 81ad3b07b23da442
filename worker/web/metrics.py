"""What the web server counts of itself."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

# A second series for each counter, which Prometheus does not use.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Registers itself in ``registry``; one for each application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "mien_web_requests", "Requests answered.", ["endpoint", "status"], registry=registry
        )
        self.seconds = Histogram(
            "mien_web_request_seconds", "Until the answer began.", ["endpoint"], registry=registry
        )
        self.viewers = Gauge("mien_web_live_viewers", "Live streams now.", registry=registry)
        self.channels = Gauge(
            "mien_web_live_feeds", "Feeds that somebody watches now.", registry=registry
        )
        self.sent = Counter(
            "mien_web_live_sent_bytes", "Bytes sent in live streams.", registry=registry
        )
        self._logged = Counter(
            "mien_log_messages", "Lines logged, by level.", ["level"], registry=registry
        )
        for level in ("warning", "error"):
            self._logged.labels(level)  # an increase from nothing would not be seen

    def logged(self, level: str) -> None:
        """A line was logged: what goes wrong is said there, so it is counted there."""
        self._logged.labels(level).inc()
