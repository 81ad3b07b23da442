"""The endpoints under /api that answer once; /api/openapi.json describes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from worker.errors import ServerError, SettingsError
from worker.operate.feeds import Look, Looks, as_json
from worker.subscribe.cursors import Position, tails
from worker.subscribe.history import Page, bound, history
from worker.subscribe.previews import latest_preview
from worker.subscribe.summary import Summary, Tally, summary
from worker.web.guard import client_of, grant_of
from worker.web.hub import Hub
from worker.web.limits import Places
from worker.web.threads import Busy, Threads
from worker.wire.codec import event_to_json
from worker.wire.keys import check_feed_name
from worker.wire.registry import registered
from worker.wire.server import Server
from worker.wire.workers import WorkerEntry, live_workers

_FRESH_S = 1.0
_SUMMARY_FRESH_S = 2.0
_PREVIEW_FRESH_S = 0.2
_HEAVY_THREADS, _HEAVY_DEADLINE_S = 2, 30.0
_HEAVY, _HEAVY_EACH = 32, 8
"""Questions that read thousands of events: so many at once, so many of them of one client."""
DEFAULT_LIMIT, MAX_LIMIT = 100, 2_000
_NUMBER = re.compile(r"[0-9]{1,9}")


Tails = Mapping[str, Position | ServerError]


class Api:
    """The endpoints, on what they share."""

    def __init__(self, server: Server, hub: Hub, threads: Threads) -> None:
        self._server, self._hub, self._threads = server, hub, threads
        self._looks = Looks(server)
        # What takes long waits for its like, and not what is asked every second for it.
        self._heavy = Threads(_HEAVY_THREADS, _HEAVY_DEADLINE_S)
        self._turns = Places(_HEAVY, _HEAVY_EACH)

    def close(self) -> None:
        self._heavy.close()

    async def feeds(self, request: Request) -> Response:
        """How the feeds stand that this client may see."""
        look, last, workers = await self._threads.shared("feeds", _FRESH_S, self._look)
        grant = grant_of(request)
        found = {
            feed: as_json(status) | _newest(last.get(feed), status.books.read_ms)
            for feed, status in look.feeds.items()
            if grant.sees(feed)
        }
        now_ms = max((status.books.read_ms for status in look.feeds.values()), default=None)
        return JSONResponse(
            {
                "server": {"name": self._server.name, "now_ms": now_ms},
                "workers": len(workers),
                "feeds": found,
                "complaints": {
                    feed: what for feed, what in look.complaints.items() if grant.sees(feed)
                },
            }
        )

    async def workers(self, request: Request) -> Response:
        """The workers that live, or those of them that hold a feed which this client may see."""
        found = await self._threads.shared("workers", _FRESH_S, lambda: live_workers(self._server))
        grant = grant_of(request)
        entries = [
            _worker(worker, {feed: load for feed, load in worker.feeds.items() if grant.sees(feed)})
            for worker in sorted(found.values(), key=lambda worker: worker.name)
        ]
        if not grant.everything:
            for entry in entries:
                entry["only"] = None
        shown = [entry for entry in entries if grant.everything or entry["feeds"]]
        return JSONResponse({"workers": shown})

    async def events(self, request: Request) -> Response:
        """What is retained of a feed's events, a page at a time."""
        feed = await self.visible(request, request.path_params["feed"])
        begin, end = _range(request)
        limit = _limit(request.query_params.get("limit", str(DEFAULT_LIMIT)))
        order = request.query_params.get("order", "asc")
        if order not in ("asc", "desc"):
            raise SettingsError(f"order = {order[:100]!a} is neither asc nor desc")

        def ask() -> bytes:
            page = history(
                self._server, feed, begin=begin, end=end, limit=limit, newest_first=order == "desc"
            )
            return _as_bytes(page)

        with self._turn(request):
            return Response(await self._heavy.run(ask), media_type="application/json")

    async def summary(self, request: Request) -> Response:
        """What a feed's events of some time add up to."""
        feed = await self.visible(request, request.path_params["feed"])
        begin, end = _range(request)
        with self._turn(request):
            found = await self._heavy.shared(
                ("summary", feed, begin, end),
                _SUMMARY_FRESH_S,
                lambda: summary(self._server, feed, begin=begin, end=end),
            )
        return JSONResponse({"feed": feed, **_summary(found)})

    async def preview(self, request: Request) -> Response:
        """The newest small picture of a feed."""
        feed = await self.visible(request, request.path_params["feed"])
        # Who comes because a live stream told of a new one must not get the one before.
        told = self._hub.preview(feed)
        found = await self._threads.shared(
            ("preview", feed, told and told.frame_id),
            _PREVIEW_FRESH_S,
            lambda: latest_preview(self._server, feed),
        )
        if found is None:
            raise HTTPException(
                404, f"there is no preview of {feed}: workers make them with --preview, for seconds"
            )
        if request.query_params.get("after") == found.frame_id:
            return Response(status_code=204)
        headers = {
            "X-Frame-Id": found.frame_id,
            "X-Width": str(found.width),
            "X-Height": str(found.height),
        }
        return Response(found.jpeg, media_type="image/jpeg", headers=headers)

    async def visible(self, request: Request, feed: str) -> str:
        """``feed`` itself, if there is such a feed for this client.

        Raises:
            FeedNameError: it cannot be a feed's name.
            HTTPException: 404, it is not registered, or this client may not know.
        """
        check_feed_name(feed)
        if grant_of(request).sees(feed):
            # What is not there may have come since: that is worth another look.
            for fresh_s in (_FRESH_S, 0.0):
                known, _ = await self._threads.shared(
                    "registered", fresh_s, lambda: registered(self._server)
                )
                if feed in known:
                    return feed
        raise HTTPException(404, f"no feed {feed} is registered")

    @contextmanager
    def _turn(self, request: Request) -> Iterator[None]:
        """While it lasts, one of this client's heavy questions is open."""
        client = client_of(request)
        if self._turns.full_for(client):
            raise HTTPException(
                429,
                f"{self._turns.each} such questions of yours are open: wait for an answer",
                {"Retry-After": "1"},
            )
        if self._turns.full():
            raise Busy
        self._turns.enter(client)
        try:
            yield
        finally:
            self._turns.leave(client)

    def _look(self) -> tuple[Look, Tails, Mapping[str, WorkerEntry]]:
        look = self._looks.again()
        return look, tails(self._server, sorted(look.feeds)), live_workers(self._server)


def _newest(tail: Position | ServerError | None, now_ms: int) -> dict[str, Any]:
    if not isinstance(tail, Position) or tail.frame_id == "0-0":
        return {"last_event_id": None, "last_event_age_s": None}
    age_s = max(0.0, (now_ms - int(tail.frame_id.partition("-")[0])) / 1000)
    return {"last_event_id": tail.frame_id, "last_event_age_s": age_s}


def _worker(worker: WorkerEntry, feeds: Mapping[str, float]) -> dict[str, Any]:
    return {
        "id": worker.id,
        "name": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "busy": worker.busy,
        "feeds": feeds,
        "only": worker.only,
    }


def _range(request: Request) -> tuple[str, str | None]:
    query = request.query_params
    return (
        bound("from", query["from"]) if "from" in query else "0-0",
        bound("to", query["to"]) if "to" in query else None,
    )


def _limit(given: str) -> int:
    if _NUMBER.fullmatch(given) and 1 <= (limit := int(given)) <= MAX_LIMIT:
        return limit
    raise SettingsError(f"limit = {given[:100]!a} is not a whole number from 1 to {MAX_LIMIT}")


def _as_bytes(page: Page) -> bytes:
    events = ", ".join(event_to_json(event) for event in page.events)
    return f'{{"events": [{events}], "next": {json.dumps(page.next)}}}'.encode()


def _summary(found: Summary) -> dict[str, Any]:
    tracks = [{"track_id": str(track), **_tally(tally)} for track, tally in found.tracks.items()]
    return {"events": found.events, **_tally(found.every), "tracks": tracks, "next": found.next}


def _tally(tally: Tally) -> dict[str, Any]:
    return {
        "faces": tally.faces,
        "uncertain": tally.uncertain,
        "seconds": round(tally.seconds, 3),
        "first": tally.first and tally.first.isoformat().replace("+00:00", "Z"),
        "last": tally.last and tally.last.isoformat().replace("+00:00", "Z"),
        "expressions": {
            label: {
                "faces": one.faces,
                "share": round(one.faces / tally.faces, 4),
                "seconds": round(one.seconds, 3),
            }
            for label, one in sorted(
                tally.expressions.items(), key=lambda item: item[1].faces, reverse=True
            )
        },
    }
