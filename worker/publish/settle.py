"""Settle frames: the outcome recorded and the frame gone, in one atomic step on the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.consume.inhand import Delivery
from worker.consume.leases import Lease
from worker.errors import ServerError
from worker.wire.keys import GROUP
from worker.wire.server import Call, Server, text

Kind = Literal["published", "skipped", "dropped", "dead"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one frame."""

    delivery: Delivery
    kind: Kind
    body: bytes = b""
    """published: the serialized event; dead: the frame's header."""
    state: bytes = b""
    """published: the tracker's state after this frame."""
    reason: str = ""
    detail: str = ""
    expressions: tuple[str, ...] = ()
    """published: for each face what is counted as its expression."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The server's answer to one outcome."""

    outcome: Outcome
    status: Literal["settled", "already", "order", "lost", "refused"]
    published_ms: int
    """The server's clock when it settled."""
    kind: Kind
    """What the server recorded: dead instead of published if its event stream took no event."""
    error: str = ""


def settle(
    server: Server,
    outcomes: Sequence[Outcome],
    *,
    events_kept: int,
    dead_kept: int,
    events_age_s: float = 0.0,
    dead_age_s: float = 0.0,
) -> list[Settled]:
    """Settle all ``outcomes`` in one round trip; a feed's own must stand in the order of ids.

    Safe to repeat: what has its outcome keeps it.

    Args:
        events_kept, dead_kept: about how many entries each feed's streams keep, and
        events_age_s, dead_age_s: for how long (0: for ever), where the feed does not say it.

    Raises:
        ServerUnavailable: no answer; some, all or none may be settled.
    """
    calls: list[Call] = []
    for outcome in outcomes:
        lease = outcome.delivery.lease
        keys, feed = lease.keys, lease.settings
        calls.append(
            (
                [keys.lease, keys.frames, keys.events, keys.dead, keys.stats, keys.state],
                [
                    lease.token,
                    GROUP,
                    outcome.delivery.frame_id,
                    outcome.kind,
                    outcome.body,
                    outcome.state,
                    feed.events_kept or events_kept,
                    outcome.reason,
                    outcome.detail,
                    int(1000 * (feed.events_age_s or events_age_s)),
                    feed.dead_kept or dead_kept,
                    int(1000 * (feed.dead_age_s or dead_age_s)),
                    int(feed.dead_pixels),
                ],
            )
        )
    answers = []
    for outcome, reply in zip(outcomes, server.run_many("settle", calls), strict=True):
        if isinstance(reply, ServerError):
            answers.append(Settled(outcome, "refused", 0, outcome.kind, str(reply)))
        else:
            answers.append(Settled(outcome, text(reply[0]), reply[1], text(reply[2])))  # type: ignore[arg-type]
    return answers


def trim(
    server: Server, leases: Sequence[Lease], *, events_age_s: float = 0.0, dead_age_s: float = 0.0
) -> None:
    """Trim by age what the feeds of ``leases`` keep; to be called now and then for quiet feeds.

    Raises:
        ServerUnavailable: no answer; call it again later.
    """
    calls: list[Call] = []
    for lease in leases:
        events_ms = int(1000 * (lease.settings.events_age_s or events_age_s))
        dead_ms = int(1000 * (lease.settings.dead_age_s or dead_age_s))
        if events_ms or dead_ms:
            calls.append(([lease.keys.events, lease.keys.dead], [events_ms, dead_ms]))
    if calls:
        server.run_many("trim", calls)
