"""Who may read what: bearer tokens, and the sessions that browsers get for them.

A browser's EventSource cannot send a token, and a token in a URL ends up in logs. So a page gives
its token once and gets a cookie: HttpOnly (no script reads it), SameSite=Strict (no other site can
use it), good for hours, and for no longer than its token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
from starlette.requests import HTTPConnection

from worker.errors import SettingsError
from worker.web.limits import Rate
from worker.web.tokens import Token, find, read_tokens

log = structlog.get_logger()

COOKIE = "mien_session"
SESSION_S = 12 * 3600
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What a client may do."""

    token: Token | None = None
    """None where nobody needs one: everything."""
    renew: bool = False
    """The session by which it came has lived half its life."""

    @property
    def everything(self) -> bool:
        return self.token is None or self.token.everything

    def sees(self, feed: str) -> bool:
        return self.token is None or self.token.sees(feed)


class Access:
    """The tokens of a file, as it stands; without a file everybody may read everything."""

    def __init__(self, path: Path | None, session_key: bytes | None = None) -> None:
        """``session_key``: signs sessions; None for a random one, with which they end with us.

        Raises:
            SettingsError: the file cannot be used.
        """
        self._path = path
        self._key = session_key or secrets.token_bytes(32)
        self._wrong = Rate(per_s=0.2, burst=20)
        self._seen = self._stamp()
        self._looked_at = time.monotonic()
        self._tokens = read_tokens(path) if path else ()

    @property
    def open(self) -> bool:
        """Whether nobody needs a token."""
        return self._path is None

    def grant(self, connection: HTTPConnection) -> Grant | None:
        """What the sender of this request may do; None if a token is wanted of it."""
        if self._path is None:
            return Grant()
        kind, _, presented = connection.headers.get("authorization", "").partition(" ")
        if kind:
            token = self.token(presented.strip()) if kind.lower() == "bearer" else None
            return Grant(token) if token else None
        return self._session(connection.cookies.get(COOKIE, ""))

    def token(self, presented: str) -> Token | None:
        """The token of this text, if it is one of ours and has not expired."""
        return find(self.tokens(), presented)

    def turn_away(self, connection: HTTPConnection) -> tuple[int, str, dict[str, str]]:
        """Status, sentence and headers for who has shown no token of ours; who shows many wrong
        ones is told to wait."""
        shown = "authorization" in connection.headers or connection.scope["method"] == "POST"
        address = connection.client.host if connection.client else ""
        if shown:
            log.warning("a wrong token was shown", address=address)
        if shown and (wait_s := self._wrong.take(address)):
            return 429, "too many wrong tokens: wait a little", {"Retry-After": str(wait_s)}
        return 401, "a valid token is wanted", {"WWW-Authenticate": "Bearer"}

    def still(self, grant: Grant) -> bool:
        """Whether ``grant`` would be given again: its token may have been taken out of the file."""
        return grant.token is None or (grant.token in self.tokens() and not grant.token.expired)

    def tokens(self) -> tuple[Token, ...]:
        """The file's tokens; those it had last where it cannot be used now."""
        if self._path is not None and time.monotonic() - self._looked_at >= _LOOK_S:
            self._looked_at = time.monotonic()
            stamp = self._stamp()
            if stamp != self._seen:
                self._seen = stamp
                self._read_again(self._path)
        return self._tokens

    def session(self, token: Token) -> str:
        """A cookie's value for whoever has presented ``token``."""
        expires = str(int(time.time()) + SESSION_S)
        return f"{token.name}~{expires}~{self._sign(token, expires)}"

    def _session(self, value: str) -> Grant | None:
        name, _, rest = value.partition("~")
        expires, _, signature = rest.partition("~")
        token = next((one for one in self.tokens() if one.name == name), None)
        if token is None or token.expired or not (expires.isascii() and expires.isdecimal()):
            return None
        if not hmac.compare_digest(self._sign(token, expires).encode(), signature.encode()):
            return None
        left_s = int(expires) - time.time()
        return Grant(token, renew=left_s < SESSION_S / 2) if left_s > 0 else None

    def _sign(self, token: Token, expires: str) -> str:
        said = f"{token.name}~{token.sha256}~{expires}".encode()
        signature = hmac.new(self._key, said, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(signature).decode().rstrip("=")

    def _read_again(self, path: Path) -> None:
        try:
            self._tokens = read_tokens(path)
            log.info("token file read again", file=str(path), tokens=len(self._tokens))
        except SettingsError as error:
            log.error("the token file cannot be used, the tokens of before stay", why=str(error))

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            at = self._path.stat() if self._path else None
        except OSError:
            return None
        return (at.st_mtime_ns, at.st_size, at.st_ino) if at else None
