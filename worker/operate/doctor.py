"""What of a server's version, settings and state is not as mien needs it, and what to change.

Everything is read from INFO and a few harmless questions: nothing is written, no key of a feed is
touched. What our user may not ask is said to be unknown, not passed over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from worker.errors import ServerError
from worker.wire.registry import registered
from worker.wire.server import Server, text
from worker.wire.workers import live_workers

Status = Literal["good", "change", "bad", "unknown"]

_OLDEST = {"redis": (7, 0), "valkey": (8, 0)}
_MEMORY_HIGH, _MEMORY_FULL = 0.75, 0.95
_SKEW_S = 0.2
"""Beyond that capture-to-event times mislead, and captured_at orders cameras wrongly."""
_CLIENTS_HIGH = 0.8

_JOBS: Mapping[str, Sequence[Sequence[str]]] = {
    "push": (
        ("HSETNX", "mien:feeds", "doctor", "{}"),
        ("XADD", "mien:{doctor}:frames", "*", "frame", ""),
    ),
    "work": (
        ("SET", "mien:{doctor}:lease", ""),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "mien:{doctor}:frames", ">"),
        ("XADD", "mien:{doctor}:events", "*", "event", ""),
    ),
    "watch": (("XRANGE", "mien:{doctor}:events", "-", "+"), ("HGETALL", "mien:feeds")),
    "operate": (
        ("DEL", "mien:{doctor}:frames"),
        ("HSET", "mien:feeds", "doctor", "{}"),
        ("XRANGE", "mien:{doctor}:dead", "-", "+"),
    ),
}
"""What stands for each thing that a user may be there for; asked about, never done."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    about: str
    status: Status
    """bad: mien cannot work, or loses what it promises to keep; change: it works, but it will hurt
    some day; unknown: nobody would tell us."""
    said: str
    """What was found, in words."""
    advice: str = ""
    """What to do about it; empty if it is good."""


def examine_server(server: Server) -> Iterator[Finding]:
    """Look at every primary of ``server``, then at what is kept there.

    Raises:
        ServerError: it cannot be reached or refuses everything; the sentence says why.
    """
    server.now_us()  # what is wrong with the address or the password is said in one sentence
    nodes = server.each_node("INFO", "everything")
    for name, info in nodes.items():
        prefix = f"{name}: " if len(nodes) > 1 else ""
        for finding in _node(server, info):
            yield Finding(finding.about, finding.status, prefix + finding.said, finding.advice)
    yield _access(server)
    yield _clock(server)
    yield _listening(server)
    yield from _feeds(server)


def _node(server: Server, info: Mapping[str, Any] | ServerError) -> Iterator[Finding]:
    if isinstance(info, ServerError):
        yield Finding("server", "unknown", str(info), "permit INFO to this user: +info")
        return
    yield _version(info)
    yield _role(info)
    yield _eviction(info)
    yield _memory(info)
    yield _durability(server, info)
    yield _clients(info)


def _version(info: Mapping[str, Any]) -> Finding:
    kind = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get(f"{kind}_version", "0.0"))
    said = f"{kind.capitalize()} {version}"
    needed = _OLDEST[kind]
    if tuple(int(part) for part in version.split(".")[:2]) < needed:
        least = ".".join(map(str, needed))
        return Finding("version", "bad", said, f"mien needs {kind.capitalize()} {least} or later")
    return Finding("version", "good", said)


def _role(info: Mapping[str, Any]) -> Finding:
    if info.get("role") != "master":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        return Finding(
            "role", "bad", "this is a read-only replica", f"name its primary instead: {primary}"
        )
    replicas = int(info.get("connected_slaves", 0))
    if replicas:
        return Finding("role", "good", f"primary with {replicas} replica(s)")
    return Finding("role", "good", "primary without replicas")


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy == "noeviction":
        return Finding("eviction", "good", "nothing is evicted")
    return Finding(
        "eviction",
        "bad",
        f"maxmemory-policy is {policy}: a full server would throw feeds and their books away",
        "CONFIG SET maxmemory-policy noeviction (mien drains a full server by itself)",
    )


def _memory(info: Mapping[str, Any]) -> Finding:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    mib = used / 2**20
    if not most:
        return Finding(
            "memory",
            "change",
            f"{mib:.0f} MiB used, and no limit: the kernel may end the server",
            "CONFIG SET maxmemory to what it may use (deploy/SCALING.md says how much that is)",
        )
    share = used / most
    said = f"{mib:.0f} MiB used, {100 * share:.0f} % of maxmemory"
    if share >= _MEMORY_FULL:
        return Finding("memory", "bad", said, "writers wait or drop: add workers, or raise it")
    if share >= _MEMORY_HIGH:
        return Finding("memory", "change", said, "lower --depth or --events-kept, or raise it")
    return Finding("memory", "good", said)


def _durability(server: Server, info: Mapping[str, Any]) -> Finding:
    about = "durability"
    if info.get("aof_enabled") and info.get("aof_last_write_status", "ok") != "ok":
        return Finding(about, "bad", "the last write to the append-only file failed", "free disk")
    if not info.get("aof_enabled"):
        return Finding(
            about,
            "change",
            "no append-only file: a crash of the server loses frames and events",
            "CONFIG SET appendonly yes; CONFIG SET appendfsync always",
        )
    try:
        answer = server.command("CONFIG", "GET", "appendfsync")
    except ServerError:
        return Finding(
            about,
            "unknown",
            "an append-only file; this user may not ask how it is synced",
            "look for appendfsync always in the server's configuration",
        )
    sync = text(next(iter(answer.values()), "?") if isinstance(answer, dict) else answer[1])
    if sync == "always":
        return Finding(about, "good", "an append-only file, synced before each answer")
    return Finding(
        about,
        "change",
        f"appendfsync is {sync}: a crash of the server can lose the last second or two",
        "CONFIG SET appendfsync always, if every accepted frame must survive it",
    )


def _clients(info: Mapping[str, Any]) -> Finding:
    now, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0)) or 10_000
    said = f"{now} of at most {most} connections"
    if now >= _CLIENTS_HIGH * most:
        return Finding("connections", "change", said, "CONFIG SET maxclients to more")
    return Finding("connections", "good", said)


def _access(server: Server) -> Finding:
    """Who we are to the server, and what we may do there."""
    try:
        me = text(server.command("ACL", "WHOAMI"))
        able = [
            job
            for job, commands in _JOBS.items()
            if all(_permitted(server.command("ACL", "DRYRUN", me, *one)) for one in commands)
        ]
        anyone = me == "default" and b"nopass" in _flags(server.command("ACL", "GETUSER", me))
    except ServerError:
        return Finding(
            "access", "unknown", "this user may not ask what it may do", "ask as the operator"
        )
    said = f"the user {me} may {', '.join(able) or 'do nothing here'}"
    if anyone:
        return Finding(
            "access",
            "change",
            f"{said}, and so may anyone who reaches the server: it wants no password",
            "give it users: deploy/access",
        )
    return Finding("access", "good", said)


def _permitted(answer: object) -> bool:
    return answer in (b"OK", "OK", True)


def _flags(user: Mapping[Any, Any] | Sequence[Any]) -> set[bytes]:
    """The flags in the reply to ACL GETUSER, which redis-py gives as a mapping or as it comes."""
    flat = user if isinstance(user, Mapping) else dict(zip(user[::2], user[1::2], strict=True))
    found = flat.get("flags") or flat.get(b"flags") or ()
    return {flag if isinstance(flag, bytes) else str(flag).encode() for flag in found}


def _clock(server: Server) -> Finding:
    """The server's clock beside ours, from the quickest of a few answers."""
    looks = []
    for _ in range(5):
        before = time.time()
        theirs = server.now_us() / 1e6
        after = time.time()
        looks.append((after - before, theirs - (before + after) / 2))
    trip_s, ahead_s = min(looks)
    said = f"the server's is {1000 * abs(ahead_s):.0f} ms {'ahead' if ahead_s > 0 else 'behind'}"
    said += f", answers take {1000 * trip_s:.1f} ms"
    if abs(ahead_s) - trip_s / 2 > _SKEW_S:
        return Finding("clock", "change", said, "let NTP set both (mien trusts the server's alone)")
    return Finding("clock", "good", said)


def _listening(server: Server) -> Finding:
    """Whether this user may be told of new frames instead of asking."""
    try:
        server.command("CLIENT", "TRACKINGINFO")
    except ServerError:
        return Finding(
            "wake-up",
            "change",
            "this user may not use CLIENT TRACKING: a worker has to ask 100 times a second",
            "ACL SETUSER <user> +client|tracking +client|trackinginfo +hello",
        )
    return Finding("wake-up", "good", "workers are told when frames come")


def _feeds(server: Server) -> Iterator[Finding]:
    try:
        feeds, complaints = registered(server)
        workers = live_workers(server).values()
    except ServerError as error:  # a replica, or what this user may not see
        yield Finding("workers", "unknown", str(error), "ask the primary, as the operator")
        return
    for name, why in complaints.items():
        cure = f"HDEL mien:feeds {name!a}"
        yield Finding("registry", "bad", f"the entry of {name!a}: {why}", cure)
    if feeds and not workers:
        said = f"{len(feeds)} feeds and no worker"
        yield Finding("workers", "change", said, "start one: mien worker")
        return
    owned = {feed for worker in workers for feed in worker.feeds}
    said = f"{len(workers)} workers hold {len(owned & feeds.keys())} of {len(feeds)} feeds"
    if missing := sorted(feeds.keys() - owned):
        yield Finding("workers", "change", f"{said}; not {missing[0]}", "see mien feeds")
    else:
        yield Finding("workers", "good", said)
