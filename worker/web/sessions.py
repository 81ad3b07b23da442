"""The endpoint by which a browser exchanges its token for a session, and ends it.

No other site can do so in its name: what a form can send is not JSON, what a script may send from
elsewhere is refused by its Origin (guard.py), and the cookie is not sent with what others start.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from worker.web.access import Access
from worker.web.guard import cookie, grant_of
from worker.web.tokens import Token


class Sessions:
    """The endpoint /api/session."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def session(self, request: Request) -> Response:
        """All that is done with a session."""
        methods = {"POST": self.begin, "DELETE": self.end}
        return await methods.get(request.method, self.show)(request)

    async def show(self, request: Request) -> Response:
        """Who this client is."""
        return JSONResponse(self._words(grant_of(request).token))

    async def begin(self, request: Request) -> Response:
        """A session for a token."""
        if self._access.open:
            raise HTTPException(409, "this server has no tokens: whoever reaches it may read")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HTTPException(415, 'send {"token": "mien_..."} as application/json')
        token = self._access.token(_presented(await request.body()))
        if token is None:
            raise HTTPException(*self._access.turn_away(request))
        answer = JSONResponse(self._words(token))
        answer.headers["Set-Cookie"] = cookie(request, self._access.session(token))
        return answer

    async def end(self, request: Request) -> Response:
        """No session any more."""
        return Response(status_code=204, headers={"Set-Cookie": cookie(request, "")})

    def _words(self, token: Token | None) -> dict[str, Any]:
        expires = token.expires if token else None
        return {
            "tokens": not self._access.open,
            "name": token.name if token else None,
            "feeds": token.feeds if token else ["*"],
            "expires": expires.isoformat() if expires else None,
        }


def _presented(body: bytes) -> str:
    try:
        token = json.loads(body)["token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        token = None
    if not isinstance(token, str):
        raise HTTPException(400, 'the body is not {"token": "mien_..."}')
    return token
