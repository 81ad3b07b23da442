"""Settle frames: the outcome recorded and the frame gone, in one atomic step on the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from worker.consume.reader import Delivery
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
    faces: int = 0


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
    server: Server, outcomes: Sequence[Outcome], *, events_kept: int, dead_kept: int
) -> list[Settled]:
    """Settle all ``outcomes`` in one round trip; a feed's own must stand in the order of ids.

    Safe to repeat: what has its outcome keeps it.

    Raises:
        ServerUnavailable: no answer; some, all or none may be settled.
    """
    calls: list[Call] = []
    for outcome in outcomes:
        lease = outcome.delivery.lease
        keys = lease.keys
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
                    dead_kept if outcome.kind == "dead" else events_kept,
                    outcome.reason,
                    outcome.detail,
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
