"""The web application: what is served where, and how errors are said."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from worker.errors import ServerError, ServerUnavailable, SettingsError
from worker.operate.exporter import FeedCollector
from worker.web.access import Access
from worker.web.api import Api
from worker.web.guard import Guard, Rules, refusal
from worker.web.hub import Hub
from worker.web.limits import Places
from worker.web.live import Live
from worker.web.metrics import Metrics
from worker.web.openapi import description
from worker.web.sessions import Sessions
from worker.web.threads import Busy, Threads
from worker.wire.server import Server

_STATIC = Path(__file__).parent / "static"
_THREADS = 8
_FRESH_S = 1.0
_SCRAPE_S = 9.0
"""Our connections give up after 8 seconds at the latest, Prometheus after 10."""

# What a machine's own table says of these differs, and browsers are told not to guess.
mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("application/manifest+json", ".webmanifest")


@dataclass(frozen=True, slots=True)
class Web:
    """The application, and what is stopped before it: live streams do not end by themselves."""

    app: Starlette
    hub: Hub


def build(
    server: Server,
    access: Access,
    rules: Rules,
    places: Places,
    metrics: Metrics,
    registry: CollectorRegistry,
) -> Web:
    """The application for one server's feeds. Nothing is asked of the server before it starts.

    Args:
        registry: what /metrics serves; the books of all feeds are added to it.
    """
    hub, threads = Hub(server), Threads(_THREADS)
    # That the server hangs is known when our connections to it time out, and is to be told.
    scrapes = Threads(1, deadline_s=_SCRAPE_S)
    api, sessions = Api(server, hub, threads), Sessions(access)
    live = Live(server, hub, api, access, places, metrics)
    static = _Static(directory=_STATIC)
    registry.register(FeedCollector(server))
    metrics.channels.set_function(lambda: hub.watched)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        hub.start()
        yield
        await hub.close()
        live.close()
        api.close()
        threads.close()
        scrapes.close()

    async def page(request: Request) -> Response:
        return await static.get_response("index.html", request.scope)

    async def openapi(request: Request) -> Response:
        return JSONResponse(description())

    async def healthz(request: Request) -> Response:
        if hub.alive:
            return PlainTextResponse("ok\n")
        return PlainTextResponse("the reader of live events has ended\n", 503)

    async def readyz(request: Request) -> Response:
        try:
            await threads.shared("ready", _FRESH_S, server.now_us)
        except (ServerError, Busy):
            return PlainTextResponse("the Redis server gives no answer\n", 503)
        return PlainTextResponse("ready\n")

    async def scrape(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        # In a thread: the collector asks the server.
        body = await scrapes.shared(("metrics", kind), _FRESH_S, lambda: encode(registry))
        return Response(body, headers={"Content-Type": kind})

    routes = [
        Route("/", page),
        Mount("/static", static),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", scrape),
        Route("/api/openapi.json", openapi),
        Route("/api/session", sessions.session, methods=["GET", "POST", "DELETE"]),
        Route("/api/feeds", api.feeds),
        Route("/api/workers", api.workers),
        Route("/api/events/live", live.several),
        Route("/api/feeds/{feed}/events", api.events),
        Route("/api/feeds/{feed}/events/live", live.one),
        Route("/api/feeds/{feed}/summary", api.summary),
        Route("/api/feeds/{feed}/preview", api.preview),
    ]
    guard = Middleware(Guard, rules=rules, access=access, metrics=metrics)
    app = Starlette(
        routes=routes,
        middleware=[*_cross_origin(rules), guard],
        exception_handlers={
            HTTPException: _say_http,
            SettingsError: _say_mistake,
            ServerError: _say_trouble,
            Busy: _say_busy,
        },
        lifespan=lifespan,
    )
    return Web(app, hub)


def _cross_origin(rules: Rules) -> list[Middleware]:
    """Pages of other sites are told nothing, unless they are named. They have no session here."""
    if not rules.origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=rules.origins,
            allow_methods=["GET"],
            allow_headers=["Authorization", "Last-Event-ID"],
            expose_headers=["Retry-After", "X-Frame-Id", "X-Width", "X-Height"],
        )
    ]


class _Static(StaticFiles):
    """The page's files: kept by browsers, but asked for again, as they have no versions."""

    def file_response(self, *arguments: Any, **named: Any) -> Response:
        response = super().file_response(*arguments, **named)
        response.headers["Cache-Control"] = "no-cache"
        return response


async def _say_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = error.detail
    if sentence == "Not Found":
        sentence = f"there is nothing at {request.url.path[:200]}"
    elif sentence == "Method Not Allowed":
        sentence = f"{request.method[:20]} is not for {request.url.path[:200]}"
    return refusal(error.status_code, sentence, error.headers)


async def _say_mistake(request: Request, error: Exception) -> Response:
    return refusal(400, str(error))


async def _say_trouble(request: Request, error: Exception) -> Response:
    passes = isinstance(error, ServerUnavailable)
    return refusal(503 if passes else 502, str(error), {"Retry-After": "2"} if passes else None)


async def _say_busy(request: Request, error: Exception) -> Response:
    return refusal(503, "too many requests wait already: try again", {"Retry-After": "1"})
