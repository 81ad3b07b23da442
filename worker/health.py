"""/metrics, /healthz and /readyz of a worker, on one small HTTP server."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, Gauge, make_wsgi_app

from worker.errors import CANNOT_BIND, SettingsError, reason

log = structlog.get_logger()

ALIVE_S = 30.0
"""A worker of which a stage has not come round for so long hangs: a batch takes seconds at the
most."""


class Health:
    """What the worker knows of itself."""

    def __init__(self) -> None:
        # Stage of the pipeline -> when it came round last.
        self._turns = {"analysis": time.monotonic()}
        self._why_not_ready: str | None = "starting"
        self._stop = threading.Event()
        self._grace_s = math.inf

    def turn(self, stage: str = "") -> None:
        """A stage of the pipeline has come round: it works, or waits for the others.

        ``stage``: the caller's own if not given. Its thread has its name; any other one analyses.
        """
        own = threading.current_thread().name
        self._turns[stage or (own if own in self._turns else "analysis")] = time.monotonic()

    def ended(self, stage: str) -> None:
        """A stage has ended as it should: it will not come round."""
        self._turns.pop(stage, None)

    def ready(self) -> None:
        self._why_not_ready = None

    def not_ready(self, why: str) -> None:
        self._why_not_ready = why

    def slowest(self) -> tuple[str, float]:
        """The stage that has not come round for the longest time, and seconds since it did."""
        stage, last = min(self._turns.copy().items(), key=lambda item: item[1])
        return stage, time.monotonic() - last

    def alive(self) -> tuple[bool, str]:
        """Whether every stage still comes round, and a word on the one that did so first."""
        stage, age_s = self.slowest()
        return age_s < ALIVE_S, f"last turn of the {stage} {age_s:.1f} s ago"

    def stops_with(self, stop: threading.Event, grace_s: float) -> None:
        """Once ``stop`` is set the loop has ``grace_s`` seconds to settle what it has in hand."""
        self._grace_s = grace_s
        self._stop = stop

    def watch(self) -> None:
        """End the process when the loop hangs: a native call that never returns cannot be undone.

        So it ends when the loop takes longer to stop than it may. What it has in hand is still
        pending on the server, for the worker that comes after it.
        """

        def look() -> None:
            stopping_since = math.inf
            while self.alive()[0] and time.monotonic() - stopping_since < self._grace_s:
                if self._stop.is_set():
                    stopping_since = min(stopping_since, time.monotonic())
                    time.sleep(0.05)
                self._stop.wait(1)
            why = "it takes too long to stop" if self.alive()[0] else self.alive()[1]
            log.error("the loop hangs, the process ends", why=why)
            os._exit(70)  # EX_SOFTWARE; nothing here can be trusted to unwind

        self.turn()
        threading.Thread(target=look, name="watchdog", daemon=True).start()

    def readiness(self) -> tuple[bool, str]:
        """Whether the models are loaded and the server answers, and a word on it."""
        return self._why_not_ready is None, self._why_not_ready or "ready"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: they are not news."""


def serve(host: str, port: int, registry: CollectorRegistry, health: Health) -> _Server:
    """Serve in the background; ``server.server_port`` is the port that was bound.

    Raises:
        SettingsError: the address cannot be bound.
    """
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        checks = {"/healthz": health.alive, "/readyz": health.readiness}
        path = environ["PATH_INFO"]
        if path == "/metrics":
            body: Iterable[bytes] = metrics(environ, start_response)
            return body
        if path in checks:
            good, word = checks[path]()
            status = "200 OK" if good else "503 Service Unavailable"
        else:
            status, word = "404 Not Found", "here are /metrics, /healthz and /readyz"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [word.encode() + b"\n"]

    try:
        server = make_server(host, port, app, _Server, _Quiet)
    except CANNOT_BIND as error:
        raise SettingsError(f"cannot serve metrics on {host}:{port}: {reason(error)}") from None
    Gauge(
        "mien_loop_age_seconds",
        f"Time since the slowest stage of the worker's loop came round; at {ALIVE_S:g} the worker "
        "ends itself.",
        registry=registry,
    ).set_function(lambda: health.slowest()[1])
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
