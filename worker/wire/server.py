"""The connection to Redis or Valkey: scripts run by name, errors in our own words, back-off.

The client library's own retries are off: it cannot know which commands may be sent twice. What we
send again is idempotent by design (the scripts), or is read again from the server's own record.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from redis import exceptions

from worker.errors import ServerError, ServerUnavailable
from worker.wire.addresses import parse_address, server_url
from worker.wire.commands import SCRIPTS, Argument, Command, Words, send, send_to
from worker.wire.nodes import connect
from worker.wire.refusals import in_our_words

_KEY = "mien:"
_OF_EVERY_NODE = frozenset({"CONFIG", "FLUSHALL", "SCRIPT"})
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.05

Call = tuple[Sequence[str], Sequence[Argument]]
"""Keys and arguments of one run of a script."""


class Server:
    """Redis or Valkey: one server, the primary that Sentinels name, or a Cluster.

    Which of them the URL says: see :mod:`worker.wire.addresses`. Safe to share between threads.

    Raises (all methods):
        ServerUnavailable: no connection, no answer in time, or the server is starting up, is a
            replica, or waits for a failover: what passes by itself.
        ServerFull: a write was refused because memory is at its limit.
        ServerError: anything else that the server refused: our password, what our user may not do,
            its certificate.
    """

    def __init__(self, url: str | None = None) -> None:
        """``url``: None for the server that ``MIEN_REDIS`` names, or the default one.

        Raises:
            SettingsError: it is not a server's URL, or a file that it names cannot be used.
        """
        address = parse_address(server_url(url))
        self.name = address.name
        self.nodes = connect(address)
        """Which node takes a command, for who needs a connection of their own."""
        self.spread = address.kind == "cluster"
        """Whether feeds are on several nodes: then one that is gone says nothing of the others."""

    def close(self) -> None:
        self.nodes.close()

    def command(self, *words: Argument) -> Any:
        """One plain command and its reply as redis-py gives it.

        In a Cluster its first word that begins with ``mien:`` is the key that says which node takes
        it. CONFIG, FLUSHALL and SCRIPT go to all primaries, and the first one's reply comes back.
        """
        if words[0] in _OF_EVERY_NODE:
            return self._everywhere(words)
        key = next(
            (word for word in words if isinstance(word, str) and word.startswith(_KEY)), None
        )
        return self._one(Command(key, words))

    def each_node(self, *words: Argument) -> dict[str, Any]:
        """One plain command to each node that owns keys: by the node's name its reply, or the
        ServerError where it gives none.

        Raises:
            ServerUnavailable: nobody says which nodes there are.
        """
        try:
            nodes = self.nodes.primaries()
        except (redis.RedisError, exceptions.RedisClusterException) as error:
            raise self._in_our_words(error) from None
        return {node.name: self._in_our_words(send_to(self.nodes, node, words)) for node in nodes}

    def load_scripts(self) -> None:
        """Bring all of wire/scripts to every primary, for users who may run but not bring them."""
        for source in SCRIPTS.values():
            self.command("SCRIPT", "LOAD", source)

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run one of wire/scripts by name."""
        return self._one(_script(script, keys, arguments))

    def run_many(self, script: str, calls: Sequence[Call]) -> list[Any]:
        """Run a script several times in one round trip (in a Cluster: one for each node).

        Returns:
            One reply for each call, in order; a call that the server refused for good gives its
            ServerError as the reply, so that one bad feed does not hide the others' replies. So
            do, with a ServerUnavailable, the calls for nodes of a Cluster that give no answer.

        Raises:
            ServerUnavailable: no node gives an answer. Some, all or none of the calls may be done.
        """
        replies = self._send([_script(script, keys, arguments) for keys, arguments in calls])
        outages = [reply for reply in replies if isinstance(reply, ServerUnavailable)]
        if outages and len(outages) == len(replies):
            raise outages[0]
        return replies

    def run_replicated(
        self,
        script: str,
        keys: Sequence[str],
        arguments: Sequence[Argument],
        *,
        replicas: int,
        timeout_ms: int,
    ) -> tuple[Any, int]:
        """Run a script, then wait until ``replicas`` replicas have all that it and earlier commands
        wrote, or ``timeout_ms`` (1 to 1000) have passed.

        A script that wrote nothing waits for nothing: Valkey counts a connection's own writes.

        Returns:
            The script's reply, and how many replicas have it.
        """
        wait: tuple[Argument, ...] = ("WAIT", replicas, timeout_ms)
        reply, acknowledged = self._one(_script(script, keys, arguments, then=wait))
        return reply, int(acknowledged)

    def read_streams(
        self, after: Mapping[str, str], *, count: int, block_ms: int | None = None
    ) -> list[tuple[str, list[tuple[bytes, dict[bytes, bytes]]]]]:
        """XREAD of several streams, wherever they are: up to ``count`` entries of each.

        Args:
            after: key of the stream -> id after which to read.
            block_ms: wait so long for the first entry; None: take what is there.

        Returns:
            Key and entries (id, fields) of those streams that have any. In a Cluster those whose
            node gives no answer are left out.

        Raises:
            ServerUnavailable: no node gives an answer.
        """
        deadline = time.monotonic() + (block_ms or 0) / 1000
        pause_s = _SHORTEST_PAUSE_S
        # A Cluster reads streams of different slots by different commands, and none may block then.
        reads = [{key: id} for key, id in after.items()] if self.spread else [after]
        wait_ms = block_ms if len(reads) == 1 else None
        while True:
            replies = self._send([_read(streams, count, wait_ms) for streams in reads])
            found = [stream for reply in replies if isinstance(reply, list) for stream in reply]
            errors = [reply for reply in replies if isinstance(reply, ServerError)]
            lasting = [error for error in errors if not isinstance(error, ServerUnavailable)]
            if lasting or (errors and len(errors) == len(replies)):
                raise (lasting or errors)[0]
            if found or wait_ms or time.monotonic() >= deadline:
                return [(text(key), entries) for key, entries in found]
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    def now_us(self) -> int:
        """The server's clock, in microseconds since 1970."""
        seconds, micros = self.command("TIME")
        return int(seconds) * 1_000_000 + int(micros)

    def _one(self, command: Command) -> Any:
        (reply,) = self._send([command])
        if isinstance(reply, ServerError):
            raise reply
        return reply

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        """Each command's reply, in order; a ServerError where it has none."""
        return [self._in_our_words(reply) for reply in send(self.nodes, commands)]

    def _everywhere(self, words: Words) -> Any:
        replies = list(self.each_node(*words).values())
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
        return replies[0]

    def _in_our_words(self, reply: Any) -> Any:
        return in_our_words(reply, self.name) if isinstance(reply, Exception) else reply


def _script(script: str, keys: Sequence[str], arguments: Words, then: Words = ()) -> Command:
    return Command(keys[0], (len(keys), *keys, *arguments), script, then)


def _read(after: Mapping[str, str], count: int, block_ms: int | None) -> Command:
    block = ("BLOCK", block_ms) if block_ms else ()
    words = ("XREAD", "COUNT", count, *block, "STREAMS", *after, *after.values())
    return Command(next(iter(after)), words)


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
