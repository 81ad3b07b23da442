"""Which node takes a command: the one server, the primary that Sentinels name, or a Cluster's node
that owns the key.

The client library's own retries are off: it cannot know which commands may be sent twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.retry import Retry
from redis.sentinel import Sentinel

from worker.errors import SettingsError
from worker.wire.addresses import Address

_REFRESH_S = 1.0
_SHORTEST_REST_S, _LONGEST_REST_S = 0.1, 8.0
_SHARE = 4
"""A node of a Cluster that gives no answer costs the other nodes' commands a fifth of their time:
it rests four times as long as it was waited for."""


@dataclass(frozen=True, slots=True)
class Node:
    """One server process that takes commands."""

    name: str
    client: redis.Redis


class Nodes(Protocol):
    """Finds nodes, and learns from what they answer. Safe to share between threads."""

    def owner(self, key: str | None) -> Node:
        """The node for ``key``; any node for None.

        Raises:
            redis.RedisError, redis.exceptions.RedisClusterException: there is none now.
        """
        ...

    def primaries(self) -> Sequence[Node]:
        """All nodes that own keys."""
        ...

    def redirect(self, node: Node, error: redis.exceptions.AskError) -> Node | None:
        """Where ``node`` sends us (MOVED, ASK); None if that is not to be followed."""
        ...

    def trouble(self, node: Node, error: Exception, spent_s: float) -> None:
        """``node`` gave no answer for so long, or is not what we took it for."""
        ...

    def close(self) -> None: ...


def connect(address: Address) -> Nodes:
    """The nodes at ``address``. Connects to none of them yet.

    Raises:
        SettingsError: the client library takes some option for wrong.
    """
    try:
        if address.kind == "cluster":
            return ClusterNodes(address)
        client = _primary(address) if address.kind == "sentinel" else _single(address)
    except (ValueError, TypeError, redis.RedisError) as error:
        raise SettingsError(f"{address.name} is not a server's URL: {error}") from None
    return OneNode(Node(address.name, client))


def _patience(connect_s: float, answer_s: float) -> dict[str, Any]:
    """How long a connection is waited for, and an answer; nothing is sent twice."""
    return {
        "socket_connect_timeout": connect_s,
        "socket_timeout": answer_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def _without_host(options: Mapping[str, Any]) -> dict[str, Any]:
    """What redis-py's parser made of a URL, as its clients take it that find hosts themselves."""
    taken = {name: value for name, value in options.items() if name not in ("host", "port", "db")}
    if taken.pop("connection_class", None) is not None:
        taken["ssl"] = True
    return taken


def _single(address: Address) -> redis.Redis:
    return redis.Redis(
        connection_pool=redis.ConnectionPool(**_patience(3, 5), **address.options),
        retry_on_error=[],
    )


def _primary(address: Address) -> redis.Redis:
    """A client of the primary: each new connection asks the Sentinels which one it is."""
    options = _without_host(address.options)
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        address.hosts, sentinel_kwargs={**_patience(1, 1), **tls, **address.sentinel_options}
    )
    client: redis.Redis = sentinels.master_for(  # type: ignore[no-untyped-call]
        address.service, db=address.options.get("db", 0), **_patience(3, 5), **options
    )
    return client


class OneNode:
    """One server takes everything; with Sentinels, whichever they name when we connect."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def owner(self, key: str | None) -> Node:
        return self._node

    def primaries(self) -> Sequence[Node]:
        return [self._node]

    def redirect(self, node: Node, error: redis.exceptions.AskError) -> None:
        return None

    def trouble(self, node: Node, error: Exception, spent_s: float) -> None:
        if isinstance(error, redis.exceptions.ReadOnlyError):
            # A failover made it a replica: what its name or address stands for may be another one.
            node.client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        self._node.client.close()


class ClusterNodes:
    """The nodes of a Cluster, as redis-py knows them; where each slot is, is asked when in doubt.

    A shard that gives no answer must not take the time of the others: it rests for a while.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._known: RedisCluster | None = None
        # By a node's name: until when it is left alone (monotonic seconds), and why.
        self._resting: dict[str, tuple[float, Exception]] = {}
        self._refresh_at = float("inf")

    def owner(self, key: str | None) -> Node:
        if key is None:
            awake = [node for node in self.primaries() if not self._rests(node.name)]
            if awake:
                return awake[0]
            raise redis.ConnectionError("none of its nodes answered a moment ago")
        cluster = self._cluster()
        found = cluster.nodes_manager.get_node_from_slot(key_slot(key.encode()))
        if why := self._rests(found.name):
            raise redis.ConnectionError(f"its node {found.name} gave no answer ({why})")
        return self._node(cluster, found)

    def primaries(self) -> Sequence[Node]:
        cluster = self._cluster()
        found = cluster.get_primaries()  # type: ignore[no-untyped-call]
        return [self._node(cluster, one) for one in found]

    def redirect(self, node: Node, error: redis.exceptions.AskError) -> Node:
        cluster = self._cluster()
        # No host in the answer stands for the host that gave it.
        error.host = error.host or node.name.rpartition(":")[0]
        if isinstance(error, redis.exceptions.MovedError):
            cluster.nodes_manager.move_slot(error)
            self._refresh_at = min(self._refresh_at, time.monotonic() + _REFRESH_S)
        known = cluster.get_node(error.host, error.port)  # type: ignore[no-untyped-call]
        return self._node(cluster, known or _cluster_node(error.host, error.port))

    def trouble(self, node: Node, error: Exception, spent_s: float) -> None:
        now = time.monotonic()
        if isinstance(error, redis.ConnectionError | redis.TimeoutError):
            rest_s = min(max(_SHARE * spent_s, _SHORTEST_REST_S), _LONGEST_REST_S)
            self._resting[node.name] = (now + rest_s, error)
        self._refresh_at = min(self._refresh_at, now + _SHORTEST_REST_S)

    def close(self) -> None:
        if self._known is not None:
            self._known.close()

    def _rests(self, name: str) -> Exception | None:
        until, why = self._resting.get(name, (0.0, None))
        return why if until > time.monotonic() else None

    def _cluster(self) -> RedisCluster:
        with self._lock:
            if self._known is None:
                self._known = self._connect()
            elif time.monotonic() >= self._refresh_at:
                # While a node rests a replica may take its place: ask again and again.
                resting = [name for name in self._resting if self._rests(name)]
                self._refresh_at = time.monotonic() + (_REFRESH_S if resting else float("inf"))
                self._known.nodes_manager.initialize(
                    last_failed_node_name=resting[0] if resting else None
                )
            return self._known

    def _connect(self) -> RedisCluster:
        patience = _patience(2, 2)
        return RedisCluster(
            startup_nodes=[_cluster_node(host, port) for host, port in self._address.hosts],
            require_full_coverage=False,
            retry=patience.pop("retry"),
            **patience,
            **_without_host(self._address.options),
        )

    def _node(self, cluster: RedisCluster, found: ClusterNode) -> Node:
        return Node(found.name, cluster.get_redis_connection(found))


def _cluster_node(host: str, port: int) -> ClusterNode:
    return ClusterNode(host, port)  # type: ignore[no-untyped-call]
