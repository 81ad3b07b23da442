"""The connection to Redis or Valkey: scripts run by name, errors in our own words, back-off.

The client library's own retries are off: it cannot know which commands may be sent twice. What we
send again is idempotent by design (the scripts), or is read again from the server's own record.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha1
from importlib import resources
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.errors import ServerError, ServerFull, ServerUnavailable, SettingsError
from worker.wire.addresses import server_name, server_url

_SCRIPTS = {
    path.name.removesuffix(".lua"): path.read_text()
    for path in (resources.files("worker.wire") / "scripts").iterdir()
    if path.name.endswith(".lua")
}
_DIGESTS = {name: sha1(source.encode()).hexdigest() for name, source in _SCRIPTS.items()}

_NOT_NOW = frozenset(
    {
        "NOREPLICAS",
        "MISCONF",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "BUSY",
        "LOADING",
        "READONLY",
    }
)
"""Refusals that pass: too few replicas, a full disk, a failover, a script that runs too long."""

Argument = str | bytes | int | float
Call = tuple[Sequence[str], Sequence[Argument]]
"""Keys and arguments of one run of a script."""


class Server:
    """One Redis or Valkey server. Safe to share between threads.

    Raises (all methods):
        ServerUnavailable: no connection, no answer in time, or the server is starting up.
        ServerFull: a write was refused because memory is at its limit.
        ServerError: anything else that the server refused.
    """

    def __init__(self, url: str | None = None) -> None:
        """``url``: None for the server that ``MIEN_REDIS`` names, or the default one.

        Raises:
            SettingsError: it is not a server's URL.
        """
        url = server_url(url)
        self.name = server_name(url)
        try:
            self._client = redis.Redis.from_url(
                url,
                protocol=2,
                socket_connect_timeout=3,
                socket_timeout=5,
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
            )
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{self.name} is not a server's URL: {error}") from None

    def close(self) -> None:
        self._client.close()

    def command(self, *words: Argument) -> Any:
        """One plain command and its reply as redis-py gives it."""
        with self._translated():
            return self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run one of wire/scripts by name."""
        (reply,) = self.run_many(script, [(keys, arguments)])
        if isinstance(reply, ServerError):
            raise reply
        return reply

    def run_many(self, script: str, calls: Sequence[Call]) -> list[Any]:
        """Run a script several times in one round trip.

        Returns:
            One reply for each call, in order; a call that the server refused for good gives its
            ServerError as the reply, so that one bad feed does not hide the others' replies.
        """
        with self._translated():
            replies = self._pipeline(script, calls)
            if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
                # The server has restarted or was flushed. Each call that was refused did nothing.
                self._client.script_load(_SCRIPTS[script])
                missing = [
                    i
                    for i, reply in enumerate(replies)
                    if isinstance(reply, redis.exceptions.NoScriptError)
                ]
                for i, reply in zip(
                    missing, self._pipeline(script, [calls[i] for i in missing]), strict=True
                ):
                    replies[i] = reply
        in_our_words = [
            self._in_our_words(reply) if isinstance(reply, redis.RedisError) else reply
            for reply in replies
        ]
        for reply in in_our_words:
            # What the server cannot do now for one key it cannot do for the others.
            if isinstance(reply, ServerUnavailable):
                raise reply
        return in_our_words

    def now_us(self) -> int:
        """The server's clock, in microseconds since 1970."""
        seconds, micros = self.command("TIME")
        return int(seconds) * 1_000_000 + int(micros)

    def _pipeline(self, script: str, calls: Sequence[Call]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for keys, arguments in calls:
            pipeline.execute_command(  # type: ignore[no-untyped-call]
                "EVALSHA", _DIGESTS[script], len(keys), *keys, *arguments
            )
        replies: list[Any] = pipeline.execute(raise_on_error=False)
        for reply in replies:
            # A broken connection concerns the whole call.
            if isinstance(reply, redis.ConnectionError | redis.TimeoutError):
                raise reply
        return replies

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise self._in_our_words(error) from None

    def _in_our_words(self, error: redis.RedisError) -> ServerError:
        exceptions = redis.exceptions
        if isinstance(error, exceptions.AuthenticationError):
            return ServerError(f"the server at {self.name} refused our name or password: {error}")
        if isinstance(error, exceptions.NoPermissionError):
            return ServerError(f"the server at {self.name} does not permit this: {error}")
        if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
            return ServerUnavailable(f"no answer from a server at {self.name}: {error}")
        if isinstance(error, exceptions.ReadOnlyError):
            return ServerUnavailable(f"the server at {self.name} is a read-only replica")
        if str(error).partition(" ")[0] in _NOT_NOW:
            return ServerUnavailable(f"the server at {self.name} cannot do this now: {error}")
        if isinstance(error, exceptions.OutOfMemoryError):
            return ServerFull(f"the server at {self.name} has reached its memory limit")
        return ServerError(f"the server at {self.name} answered: {error}")


class Backoff:
    """Waits between attempts: random up to a bound that doubles, so that clients spread out."""

    def __init__(self, first_s: float = 0.05, ceiling_s: float = 2.0) -> None:
        self._first_s = first_s
        self._ceiling_s = ceiling_s
        self._bound_s = first_s

    def wait(self, stop: threading.Event) -> None:
        """Wait once, or until ``stop`` is set."""
        stop.wait(random.uniform(self._bound_s / 2, self._bound_s))
        self._bound_s = min(self._bound_s * 2, self._ceiling_s)

    def reset(self) -> None:
        self._bound_s = self._first_s


def text(reply: bytes | str) -> str:
    """A reply as text; what is not UTF-8 is shown escaped."""
    return reply.decode("utf-8", "backslashreplace") if isinstance(reply, bytes) else reply


def fields_of(flat: Sequence[bytes]) -> Mapping[bytes, bytes]:
    """Field -> value of a stream entry as the protocol sends it: [field, value, field, ...]."""
    return dict(zip(flat[::2], flat[1::2], strict=False))
