"""Remove a feed: its keys in one atomic step, its entry in the registry before and after.

In a Cluster the registry lies in another slot than the feed's keys, so no one step can remove
both. First the entry is marked: the workers let go of the feed. Then one script removes all keys,
unless somebody is still at work. Then the marked entry goes. Whatever ends in between leaves a
marked entry, and the same command goes on from there.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import astuple, dataclass

from worker.errors import MienError, ServerError
from worker.operate.feeds import owner_name
from worker.wire.keys import GROUP, FeedKeys, check_feed_name
from worker.wire.registry import change, registered, replace_entry
from worker.wire.server import Server, text
from worker.wire.workers import live_workers

_QUIET_MS = 5_000
"""A writer that has pushed nothing for so long is not at work."""
_LET_GO_S, _FORCE_AFTER_S = 10.0, 2.0
_LOOK_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Look:
    """What the server has of a feed, and whether that may go."""

    status: str
    """As remove.lua returns it."""
    keys: int
    waiting: int
    """Frames that nobody has read."""
    in_hand: int
    """Frames that a worker has read and not settled."""
    events: int
    letters: int
    owner: str
    """Token of the worker that holds the lease; empty if none does."""


def remove(server: Server, feed: str, *, force: bool = False) -> Look:
    """Remove ``feed`` and all that the server has of it, once the workers have let go of it.

    Args:
        force: also if frames are in flight, a writer is at work or a worker does not let go.

    Returns:
        What went.

    Raises:
        FeedNameError: the name breaks the contract's rule.
        MienError: there is no such feed, or it is in use (and stays as it is).
        ServerUnavailable: no answer; the removal may be half done: give the command again.
    """
    check_feed_name(feed)
    before = registered(server, removing=True)[0].get(feed)
    found = _run(server, feed, "look")
    if before is None:
        if not found.keys:
            raise MienError(f"no feed {feed} is registered at {server.name}")
        return _remove_keys(server, feed, force)
    if not force and found.status in ("in-flight", "writer"):
        raise MienError(_in_use(server, feed, found))
    marked = change(server, feed, removing=True)
    try:
        gone = _remove_keys(server, feed, force)
    except BaseException:
        with suppress(ServerError):
            replace_entry(server, feed, marked, marked.model_copy(update={"removing": False}))
        raise
    # A writer that has registered the feed again meanwhile keeps its entry.
    replace_entry(server, feed, marked, None)
    return gone


def _remove_keys(server: Server, feed: str, force: bool) -> Look:
    deadline = time.monotonic() + (_FORCE_AFTER_S if force else _LET_GO_S)
    while True:
        late = time.monotonic() > deadline
        found = _run(server, feed, "remove")
        if force and found.status != "removed" and (late or not found.owner):
            found = _run(server, feed, "force")
        if found.status == "removed":
            return found
        if late or not (force or found.status == "owned"):
            raise MienError(_in_use(server, feed, found))
        time.sleep(_LOOK_AGAIN_S)


def _run(server: Server, feed: str, mode: str) -> Look:
    keys = FeedKeys.of(feed)
    first = [keys.lease, keys.frames, keys.events, keys.dead]
    others = [key for key in astuple(keys) if key not in first]
    reply = server.run("remove", [*first, *others], [GROUP, mode, _QUIET_MS])
    status, there, waiting, in_hand, events, letters, owner = reply
    return Look(text(status), there, waiting, in_hand, events, letters, text(owner))


def _in_use(server: Server, feed: str, found: Look) -> str:
    why = {
        "in-flight": f"{found.waiting + found.in_hand} of its frames are in flight",
        "writer": f"a frame has come within the last {_QUIET_MS // 1000} s",
        "owned": f"worker {owner_name(found.owner, live_workers(server))} does not let go of it",
    }[found.status]
    return f"feed {feed} is in use: {why}; wait, or remove it with --force"
