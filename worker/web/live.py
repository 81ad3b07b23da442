"""The endpoints that do not end: live events, of one feed or of several in one stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from worker.errors import SettingsError
from worker.web.access import Access
from worker.web.api import Api
from worker.web.guard import client_of, grant_of
from worker.web.hub import Hub
from worker.web.limits import Places
from worker.web.messages import read_cursor
from worker.web.metrics import Metrics
from worker.web.threads import Threads
from worker.web.viewer import Viewer
from worker.wire.server import Server

MAX_FEEDS = 64
_HISTORY_THREADS = 2
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The second tells nginx, which would gather what is to be sent at once."""


class Live:
    """The endpoints, on what they share."""

    def __init__(
        self, server: Server, hub: Hub, api: Api, access: Access, places: Places, metrics: Metrics
    ) -> None:
        self._server, self._hub, self._api = server, hub, api
        self._access, self._places, self._metrics = access, places, metrics
        # Threads of its own: many who come back at once do not keep the API from answering.
        self._threads = Threads(_HISTORY_THREADS)
        metrics.viewers.set_function(lambda: places.taken)

    async def one(self, request: Request) -> Response:
        """Live events of one feed."""
        return await self._open(request, [request.path_params["feed"]], named=False)

    async def several(self, request: Request) -> Response:
        """Live events of several feeds: browsers open but few connections to one host."""
        feeds = list(dict.fromkeys(request.query_params.getlist("feed")))
        if not 1 <= len(feeds) <= MAX_FEEDS:
            raise SettingsError(f"feed is to be given 1 to {MAX_FEEDS} times, not {len(feeds)}")
        return await self._open(request, feeds, named=True)

    def close(self) -> None:
        self._threads.close()

    async def _open(self, request: Request, feeds: Sequence[str], *, named: bool) -> Response:
        for feed in feeds:
            await self._api.visible(request, feed)
        cursor = request.headers.get("last-event-id") or request.query_params.get("since", "")
        since = read_cursor(cursor, feeds)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=_HEADERS)
        client = client_of(request)
        if self._places.full_for(client):
            raise HTTPException(
                429,
                f"{self._places.each} live streams of yours are open: close one",
                {"Retry-After": "5"},
            )
        if self._places.full():
            raise HTTPException(
                503,
                f"all {self._places.total} places for live streams are taken: try again later",
                {"Retry-After": "15"},
            )
        grant = grant_of(request)
        viewer = Viewer(
            self._server, self._hub, self._threads, feeds, since,
            lambda: self._access.still(grant), named=named,
        )  # fmt: skip
        return _LiveResponse(viewer, self._places, client, self._metrics)


class _LiveResponse(StreamingResponse):
    """A viewer's stream; its place is given back however it ends."""

    def __init__(
        self, viewer: Viewer, places: Places, client: tuple[str, str], metrics: Metrics
    ) -> None:
        self._viewer, self._places, self._client = viewer, places, client
        self._sent = metrics.sent
        places.enter(client)
        super().__init__(self._counted(), media_type="text/event-stream", headers=_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._viewer.leave()
            self._places.leave(self._client)

    async def _counted(self) -> AsyncIterator[bytes]:
        async for chunk in self._viewer.chunks():
            self._sent.inc(len(chunk))
            yield chunk
