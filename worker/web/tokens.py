"""The file of tokens: who may read which feeds. It holds hashes; a token is shown once, when it is
made.

    [[token]]
    name = "wall"
    sha256 = "..."                   # of the token's text
    feeds = ["cam*", "door"]         # patterns: * ? [abc]
    expires = 2027-01-01T00:00:00Z   # may be left out

A token is 256 random bits: nobody can guess one, so the hash need not be slow. A slow hash (scrypt)
protects what people choose themselves, and would have to be paid at every request.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import tomllib
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from worker.errors import SettingsError

_PREFIX = "mien_"
"""So that scanners for leaked secrets can tell what it is."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9._*?\[\]!-]{1,100}$")]


class Token(BaseModel):
    """What is known of one token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    feeds: tuple[Pattern, ...] = Field(min_length=1)
    expires: AwareDatetime | None = None

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)

    @property
    def everything(self) -> bool:
        """Whether it is for all feeds, and so for what concerns the whole installation."""
        return "*" in self.feeds

    def sees(self, feed: str) -> bool:
        return any(fnmatchcase(feed, pattern) for pattern in self.feeds)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: tuple[Token, ...] = ()


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file.

    Raises:
        SettingsError: it cannot be read or used; names the first fault.
    """
    try:
        tokens = _File.model_validate(tomllib.loads(path.read_text())).token
    except FileNotFoundError:
        raise SettingsError(
            f"there is no token file {path}: mien web token NAME --tokens {path} makes one"
        ) from None
    except OSError as error:
        raise SettingsError(f"cannot read the token file {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(
            f"{part + 1}" if isinstance(part, int) else str(part) for part in first["loc"]
        )
        raise SettingsError(f"token file {path}, {where}: {first['msg']}") from None
    except ValueError as error:
        raise SettingsError(f"the token file {path} is not TOML: {error}") from None
    names = [token.name for token in tokens]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SettingsError(f"token file {path}: there are two tokens of the name {twice}")
    return tokens


def new_token(
    path: Path, name: str, feeds: tuple[str, ...], expires: datetime | None = None
) -> str:
    """Make a token, append its hash to the file (which is made if need be), and return it.

    Raises:
        SettingsError: the file cannot be used, or has a token of that name.
    """
    made = _PREFIX + secrets.token_urlsafe(32)
    try:
        token = Token(name=name, sha256=digest(made), feeds=feeds, expires=expires)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"{first['loc'][0]} = {str(first['input'])[:100]!a} cannot be used: {first['msg']}"
        ) from None
    try:
        # Two who make tokens at once must not lose one.
        with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if any(other.name == name for other in read_tokens(path)):
                raise SettingsError(f"the token file {path} has a token of the name {name} already")
            file.write(_table(token))
    except OSError as error:
        raise SettingsError(f"cannot write the token file {path}: {error.strerror}") from None
    return made


def digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def find(tokens: tuple[Token, ...], presented: str) -> Token | None:
    """The token that was presented; all are compared, so that time tells nothing."""
    known = digest(presented)
    same = [token for token in tokens if hmac.compare_digest(token.sha256, known)]
    return same[0] if same and not same[0].expired else None


def _table(token: Token) -> str:
    feeds = ", ".join(f'"{pattern}"' for pattern in token.feeds)
    lines = [f'name = "{token.name}"', f'sha256 = "{token.sha256}"', f"feeds = [{feeds}]"]
    if token.expires:
        lines.append(f"expires = {token.expires.isoformat(timespec='seconds')}")
    return "\n[[token]]\n" + "\n".join(lines) + "\n"
