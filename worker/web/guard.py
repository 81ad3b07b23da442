"""What stands before every endpoint: limits, who may come in, what browsers are to refuse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.web.access import COOKIE, SESSION_S, Access, Grant
from worker.web.limits import Rate
from worker.web.metrics import Metrics

log = structlog.get_logger()

_LONGEST_URL = 16_384
_LARGEST_BODY = 4_096
_BODY_S = 10.0
"""Within this time a body must have come."""
_POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_OPEN = {("GET", "/api/openapi.json"), ("POST", "/api/session"), ("DELETE", "/api/session")}
"""What of the API needs no token."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is let in."""

    hosts: tuple[str, ...] | None = None
    """Names by which we may be called; None for any. A page of another name that resolves to
    our loopback address (DNS rebinding) would be let in by a browser: not by us."""
    origins: tuple[str, ...] = ()
    """Other sites whose pages may read the API, with a token."""
    per_s: float = 100.0
    """Requests of one client a second, over time."""
    burst: float = 300.0


def loopback_names(extra: Sequence[str] = ()) -> tuple[str, ...]:
    """The names by which a server that only this machine reaches may be called."""
    return (*_LOOPBACK, *(name.lower() for name in extra))


def refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The one shape of all errors."""
    return JSONResponse({"error": sentence}, status, headers)


def grant_of(request: Request) -> Grant:
    """What the guard found that this client may do."""
    grant: Grant = request.state.grant
    return grant


def client_of(request: Request) -> tuple[str, str]:
    """Who asks: the token's name and the address; the screens of one token have a share each."""
    grant: Grant | None = getattr(request.state, "grant", None)
    name = grant.token.name if grant and grant.token else ""
    return name, request.client.host if request.client else ""


class Guard:
    """ASGI middleware. It answers what may not pass, and dresses what goes out."""

    def __init__(self, app: ASGIApp, rules: Rules, access: Access, metrics: Metrics) -> None:
        self._app, self._rules, self._access, self._metrics = app, rules, access, metrics
        self._rate = Rate(rules.per_s, rules.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        began, started = time.monotonic(), False

        async def dressed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                self._dress(request, headers)
                endpoint = getattr(scope.get("endpoint"), "__name__", "none")
                self._metrics.requests.labels(endpoint, str(message["status"])).inc()
                self._metrics.seconds.labels(endpoint).observe(time.monotonic() - began)
            await send(message)

        answer = self._refuse_shape(request) or self._refuse_client(request)
        try:
            await (answer or self._app)(scope, _limited(receive), dressed)
        except _TooLarge:
            await refusal(413, f"the body is larger than {_LARGEST_BODY} bytes")(
                scope, receive, dressed
            )
        except _TooSlow:
            answer = refusal(408, f"the body has not come within {_BODY_S:g} s")
            await answer(scope, receive, dressed)
        except Exception:
            log.exception("a request failed", path=scope["path"])
            if started:
                raise
            answer = refusal(500, "an error of mien itself: its log says more")
            await answer(scope, receive, dressed)

    def _refuse_shape(self, request: Request) -> JSONResponse | None:
        """What is wrong with the request, whoever sends it."""
        path, query = request.scope["raw_path"] or b"", request.scope["query_string"]
        if len(path) + len(query) > _LONGEST_URL:
            return refusal(414, f"the URL is longer than {_LONGEST_URL} bytes")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _LARGEST_BODY:
            return refusal(413, f"the body is larger than {_LARGEST_BODY} bytes")
        if request.method in ("GET", "HEAD") and (
            int(length) or "transfer-encoding" in request.headers
        ):
            return refusal(413, f"{request.method} takes no body")
        host = _without_port(request.headers.get("host", ""))
        if self._rules.hosts is not None and host not in self._rules.hosts:
            return refusal(
                403, f"this server is not called {host[:100]!a} (mien web --allow-host NAME)"
            )
        if request.scope["path"].startswith("/api/") and self._from_elsewhere(request):
            return refusal(403, "pages of other sites may not use this API (--allow-origin)")
        return None

    def _from_elsewhere(self, request: Request) -> bool:
        """Whether a page of another site makes this request, in a browser that says so."""
        origin = request.headers.get("origin")
        if origin is not None and origin in self._rules.origins:
            return False
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            return True
        site = request.headers.get("sec-fetch-site", "none")
        navigates = request.headers.get("sec-fetch-mode") == "navigate"
        return site not in ("same-origin", "none") and not navigates

    def _refuse_client(self, request: Request) -> JSONResponse | None:
        """Whether its sender has to show a token first, or asks too often."""
        path = request.scope["path"]
        request.state.grant = grant = self._access.grant(request)
        if wait_s := self._rate.take(client_of(request)):
            return refusal(429, "too many requests: wait a little", {"Retry-After": str(wait_s)})
        if path == "/metrics" and grant and not grant.everything:
            return refusal(403, "this token is not for all feeds: /metrics tells of all")
        guarded = path == "/metrics" or path.startswith("/api/")
        if grant or not guarded or (request.method, path) in _OPEN or request.method == "OPTIONS":
            return None
        return refusal(*self._access.turn_away(request))

    def _dress(self, request: Request, headers: MutableHeaders) -> None:
        for name, value in _HEADERS.items():
            headers[name] = value
        if not self._rules.origins:
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers.setdefault("Cache-Control", "no-store")
        grant: Grant | None = getattr(request.state, "grant", None)
        if grant and grant.token and grant.renew and "set-cookie" not in headers:
            headers.append("Set-Cookie", cookie(request, self._access.session(grant.token)))


def cookie(request: Request, value: str) -> str:
    """The session's cookie, with ``value``; empty to end it."""
    secure = "; Secure" if request.scope["scheme"] == "https" else ""
    life_s = SESSION_S if value else 0
    return f"{COOKIE}={value}; Max-Age={life_s}; Path=/; HttpOnly; SameSite=Strict{secure}"


class _TooLarge(Exception):
    """A body without a stated length has grown beyond the limit."""


class _TooSlow(Exception):
    """A body does not come to its end."""


def _limited(receive: Receive) -> Receive:
    size, complete = 0, False
    until = asyncio.get_running_loop().time() + _BODY_S

    async def counted() -> Message:
        nonlocal size, complete
        if complete:
            return await receive()  # that the client has gone, some day
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise _TooSlow from None
        size += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if size > _LARGEST_BODY:
            raise _TooLarge
        return message

    return counted


def _without_port(host: str) -> str:
    """``host:port`` or ``[::1]:port`` without the port, in lower case."""
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]
