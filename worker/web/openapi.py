"""The description of the API, as OpenAPI 3.1."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from worker.web.api import DEFAULT_LIMIT, MAX_LIMIT
from worker.web.live import MAX_FEEDS
from worker.web.schemas import COUNT, ID, Schema, ref, schemas

_ABOUT = """\
What mien's workers publish: events with faces and their *perceived expressions*, which are not
inner states. An event is the canonical JSON of the protobuf message mien.v1.FrameEvent.

Times are UTC. An event's id is `milliseconds-counter`, when the server accepted its frame."""

_LIVE = """\
Server-sent events. The stream begins now, or after the cursor in `Last-Event-ID` or `since`, and
then misses nothing that is retained. It ends when the server stops or the token is taken back.

| event | data |
| --- | --- |
| `event` | a FrameEvent; its id is the cursor with which to go on |
| `gap` | `{"feed", "missing", "before"}`: so many (null: unknown) were trimmed before this id |
| `rewind` | `{"feed", "seen", "last"}`: the server went back; what comes follows on `last` |
| `preview` | `{"feed", "frameId", "width", "height"}`: there is a new small picture |
| `away`, `back` | `{"error"}`, `{}`: the Redis server gives no answer; it does again |
| `beat` | `{}`: nothing else was sent for five seconds |"""

_FEED: Schema = {
    "name": "feed",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"},
}
_MOMENT: Schema = {
    "type": "string",
    "anyOf": [{"pattern": r"^[0-9]{1,19}(-[0-9]{1,19})?$"}, {"format": "date-time"}],
    "examples": ["1760000000000-0", "1760000000000", "2026-03-01T12:00:00Z"],
}
_RANGE = [
    {
        "name": "from",
        "in": "query",
        "description": "From here on: an event's id, milliseconds, or a time with its zone.",
        "schema": _MOMENT,
    },
    {
        "name": "to",
        "in": "query",
        "description": "Up to here and not with it: the same kinds.",
        "schema": _MOMENT,
    },
]
_SINCE: Schema = {
    "name": "since",
    "in": "query",
    "description": "A cursor, the id of an earlier message; Last-Event-ID goes before it.",
    "schema": {"type": "string"},
}
_LAST: Schema = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "What EventSource sends by itself when it connects again.",
    "schema": {"type": "string"},
}
_ERRORS = {
    "400": "A parameter cannot be used.",
    "401": "A valid token is wanted.",
    "403": "Not from this site, or not by this name.",
    "404": "There is no such feed, or not for this token.",
    "408": "The body has not come in time.",
    "409": "This server has no tokens.",
    "413": "The body is too large.",
    "414": "The URL is too long.",
    "415": "The body is not JSON.",
    "429": "Too much was asked; see Retry-After.",
    "502": "The Redis server refuses what we ask.",
    "503": "The Redis server gives no answer, or too many wait; see Retry-After.",
}


@cache
def description() -> dict[str, Any]:
    """The document that /api/openapi.json serves."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "mien", "version": version("mien"), "description": _ABOUT},
        "security": [{}, {"bearer": []}, {"session": []}],
        "paths": _paths(),
        "components": {
            "schemas": schemas(),
            "responses": {
                status: {
                    "description": words,
                    "content": {"application/json": {"schema": ref("Error")}},
                }
                for status, words in _ERRORS.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "mien_session"},
            },
        },
    }


def _paths() -> dict[str, Any]:
    several = {
        "name": "feed",
        "in": "query",
        "required": True,
        "schema": {
            "type": "array",
            "items": _FEED["schema"],
            "minItems": 1,
            "maxItems": MAX_FEEDS,
        },
    }
    limit = {
        "name": "limit",
        "in": "query",
        "schema": {
            "type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT
        },
    }  # fmt: skip
    order = {
        "name": "order",
        "in": "query",
        "description": "desc: newest first. Go on with to=next, in asc with from=next.",
        "schema": {"type": "string", "enum": ["asc", "desc"], "default": "asc"},
    }
    after = {
        "name": "after",
        "in": "query",
        "description": "Nothing is sent while the newest preview is of this frame.",
        "schema": {"type": "string"},
    }
    feed = "/api/feeds/{feed}"
    stream = {"200": _answer("The stream.", {"type": "string"}, "text/event-stream")}
    return {
        "/api/feeds": {"get": _get("How the feeds stand", "Feeds")},
        "/api/workers": {"get": _get("The workers that live", "Workers")},
        f"{feed}/events": {
            "get": _get("Retained events, by id or time", "Events", _FEED, *_RANGE, limit, order)
        },
        f"{feed}/events/live": {
            "get": _operation("Live events of one feed", stream, _FEED, _SINCE, _LAST)
            | {"description": _LIVE}
        },
        "/api/events/live": {
            "get": _operation("Live events of several feeds", stream, several, _SINCE, _LAST)
            | {"description": _LIVE}
        },
        f"{feed}/summary": {
            "get": _get("Share of each expression, overall and by track", "Summary", _FEED, *_RANGE)
        },
        f"{feed}/preview": {
            "get": _operation("The newest small picture", _preview(), _FEED, after)
        },
        "/api/session": {
            "get": _get("Who this client is", "Session"),
            "post": _operation("A session for a token", _ok("Session"))
            | {"requestBody": {"required": True, **_json("Token")}},
            "delete": _operation("No session any more", {"204": {"description": "Ended."}}),
        },
    }


def _operation(summary: str, answers: Schema, *parameters: Schema) -> Schema:
    errors = {status: {"$ref": f"#/components/responses/{status}"} for status in _ERRORS}
    return {"summary": summary, "parameters": list(parameters), "responses": answers | errors}


def _get(summary: str, answer: str, *parameters: Schema) -> Schema:
    return _operation(summary, _ok(answer), *parameters)


def _ok(schema: str) -> Schema:
    return {"200": {"description": "As asked for.", **_json(schema)}}


def _json(schema: str) -> Schema:
    return {"content": {"application/json": {"schema": ref(schema)}}}


def _answer(words: str, schema: Schema, kind: str, **headers: Schema) -> Schema:
    answer: Schema = {"description": words, "content": {kind: {"schema": schema}}}
    if headers:
        answer["headers"] = {name: {"schema": schema} for name, schema in headers.items()}
    return answer


def _preview() -> Schema:
    headers = {"X-Frame-Id": ID, "X-Width": COUNT, "X-Height": COUNT}
    picture = _answer("The picture.", {"type": "string"}, "image/jpeg", **headers)
    return {"200": picture, "204": {"description": "No other than `after`."}}
