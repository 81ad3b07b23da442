"""What wakes a worker: the server says when a key has changed, whoever changed it, and how.

This is Redis's own server-assisted client-side caching (CLIENT TRACKING). We ask for the size of
a key, and the size is true until the server takes it back. So feeds without frames cost nothing
between two looks, a plain client's XADD rings as well as our own push script does, no frame's body
travels twice, and in a Cluster each node needs one connection, whatever the slots.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import redis
import structlog
from redis import exceptions

from worker.errors import ServerError, ServerUnavailable
from worker.wire.nodes import Node
from worker.wire.refusals import in_our_words
from worker.wire.server import Server, text

log = structlog.get_logger()

_DEAF_S = 0.01
"""How often we ask where the server does not let us listen."""

_FAILURES = (redis.RedisError, exceptions.RedisClusterException)


class Bell:
    """The sizes of keys, each asked for only when it may have changed. For one thread alone."""

    def __init__(self, server: Server, command: str, *, trust_s: float) -> None:
        """
        Args:
            command: what tells the size of a key: XLEN, HLEN.
            trust_s: after so long a size is asked for again, in case the server could not tell us.
        """
        self._server = server
        self._nodes = server.nodes
        self._command = command
        self._trust_s = trust_s
        # By the node's name.
        self._ears: dict[str, _Ear] = {}

    def news(self, keys: Iterable[str]) -> dict[str, int | ServerError]:
        """The size of each key that may have changed since it was last asked for.

        An error instead of the size where the server refuses, or where a node of a Cluster gives no
        answer; such a key is asked for again the next time. So is one that moves to another node,
        of which nothing is said.

        Raises:
            ServerUnavailable: no node gives an answer.
        """
        found: dict[str, int | ServerError] = {}
        by_node: dict[str, tuple[Node, list[str]]] = {}
        for key in keys:
            try:
                node = self._nodes.owner(key)
            except _FAILURES as error:
                found[key] = in_our_words(error, self._server.name)
            else:
                by_node.setdefault(node.name, (node, []))[1].append(key)
        for node, owned in by_node.values():
            found |= self._ask(node, owned)
        outages = [reply for reply in found.values() if isinstance(reply, ServerUnavailable)]
        if outages and not self._ears:
            raise outages[0]
        return found

    def doubt(self, keys: Collection[str]) -> None:
        """Ask for these again: we are about to change them, and may be quicker than the word."""
        for ear in self._ears.values():
            ear.doubt(keys)

    def wait(self, timeout_s: float, *others: socket.socket) -> None:
        """Until some key may have changed, something came on one of ``others``, or ``timeout_s``
        have passed."""
        if any(ear.deaf for ear in self._ears.values()):
            timeout_s = min(timeout_s, _DEAF_S)
        try:
            if any(ear.listen() for ear in self._ears.values()):
                return
            with selectors.DefaultSelector() as selector:
                for ear in self._ears.values():
                    selector.register(ear.socket, selectors.EVENT_READ)
                for other in others:
                    selector.register(other, selectors.EVENT_READ)
                selector.select(timeout_s)
        except (*_FAILURES, OSError, ValueError):
            self.close()  # the next news() connects again, or says why it cannot

    def close(self) -> None:
        for ear in self._ears.values():
            ear.close()
        self._ears.clear()

    def _ask(self, node: Node, keys: list[str]) -> dict[str, int | ServerError]:
        began = time.monotonic()
        try:
            if node.name not in self._ears:
                self._ears[node.name] = _Ear(node, self._trust_s)
            replies = self._ears[node.name].ask(self._command, keys)
        except _FAILURES as error:
            self._nodes.trouble(node, error, time.monotonic() - began)
            if ear := self._ears.pop(node.name, None):
                ear.close()
            return dict.fromkeys(keys, in_our_words(error, self._server.name))
        found: dict[str, int | ServerError] = {}
        for key, reply in replies.items():
            if isinstance(reply, exceptions.AskError):  # MOVED is one
                self._nodes.redirect(node, reply)
            elif isinstance(reply, Exception):
                found[key] = in_our_words(reply, self._server.name)
            else:
                found[key] = reply
        return found


class _Ear:
    """A connection of our own to one node, on which the server says what has changed."""

    def __init__(self, node: Node, trust_s: float) -> None:
        pool = node.client.connection_pool
        # Only this protocol carries what is said without being asked for.
        self._connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 3})
        self._trusted: dict[str, float] = {}
        """Key -> until when its size holds (monotonic seconds)."""
        self._connection.connect()
        self._connection._parser.set_invalidation_push_handler(self._changed)
        self._connection.send_command("CLIENT", "TRACKING", "ON")
        self.deaf = False
        self._trust_s = trust_s
        try:
            self._connection.read_response()
        except exceptions.ResponseError as error:
            self.deaf, self._trust_s = True, _DEAF_S / 2
            log.warning("the server does not say when frames come: asking it often", why=str(error))

    @property
    def socket(self) -> Any:
        return self._connection._sock

    def close(self) -> None:
        self._connection.disconnect()

    def listen(self) -> bool:
        """Take what has been said; whether anything was."""
        said = False
        while self._connection.can_read(0):
            self._connection.read_response(push_request=True)
            said = True
        return said

    def ask(self, command: str, keys: Sequence[str]) -> dict[str, int | Exception]:
        """The sizes of those ``keys`` that are not to be trusted any more, in one round trip."""
        self.listen()
        now = time.monotonic()
        due = [key for key in keys if self._trusted.get(key, 0.0) <= now]
        if not due:
            return {}
        # Before the replies are read: what is said after them takes the trust back.
        self._trusted |= dict.fromkeys(due, now + self._trust_s)
        connection = self._connection
        connection.send_packed_command(connection.pack_commands([(command, key) for key in due]))
        replies: dict[str, int | Exception] = {}
        for key in due:
            try:
                replies[key] = connection.read_response()
            except exceptions.ResponseError as error:
                replies[key] = error
                self._trusted.pop(key, None)
        return replies

    def doubt(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._trusted.pop(key, None)

    def _changed(self, message: list[Any]) -> None:
        """The server's word: ["invalidate", keys]; no keys stand for all."""
        if message[1] is None:
            self._trusted.clear()
        else:
            self.doubt(map(text, message[1]))
