"""What waits in the feeds we hold, as an autoscaler wants to know it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from worker.consume.leases import Lease
from worker.errors import ServerError
from worker.wire.server import Server


@dataclass(frozen=True, slots=True)
class Backlog:
    """Frames in flight: waiting to be read, or in our hands."""

    frames: int
    oldest_age_s: float
    """Of the oldest of them, by the server's clock; 0 if there is none."""


def backlog(server: Server, leases: Collection[Lease]) -> Backlog:
    """What is in flight in the feeds of ``leases`` now; feeds that cannot be read are left out.

    Raises:
        ServerUnavailable: no answer.
    """
    if not leases:
        return Backlog(0, 0.0)
    replies = [
        reply
        for reply in server.run_many("backlog", [([lease.keys.frames], []) for lease in leases])
        if not isinstance(reply, ServerError)
    ]
    return Backlog(
        frames=sum(frames for frames, _ in replies),
        oldest_age_s=max((age_ms for _, age_ms in replies), default=0) / 1000,
    )
