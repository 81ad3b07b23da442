"""Frames of the feeds we hold, each feed in its order, formed into batches across feeds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import structlog

from worker.consume.leases import Lease, Leases
from worker.errors import ServerError
from worker.wire.keys import CONSUMER, GROUP
from worker.wire.server import Server, fields_of, text

log = structlog.get_logger()

_NEW = ">"
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.01


@dataclass(frozen=True, slots=True)
class Delivery:
    """One entry of a frame stream in our hands. It must be settled."""

    lease: Lease
    frame_id: str
    body: bytes | None = field(repr=False)
    """The field `frame`; None if the entry has none."""
    gone: bool = False
    """The entry was deleted after it was read: nothing is left but to count it."""
    redelivered: bool = False
    """It has been in a worker's hands before."""
    stale: bool = False
    """A live frame that has waited longer than its feed's staleness budget."""

    @property
    def feed(self) -> str:
        return self.lease.feed


class Reader:
    """Reads what is pending before what is new, and asks only for what fits into the batch."""

    def __init__(self, server: Server, leases: Leases) -> None:
        self._server = server
        self._leases = leases
        # Lease token -> where its next read begins: after an id of what is pending, or what is new.
        self._after: dict[str, str] = {}
        self._turn = 0

    def forget(self, lease: Lease | None = None) -> None:
        """After any doubt about what is in hand (of all feeds: None): ask the server again."""
        if lease is None:
            self._after.clear()
        else:
            self._after.pop(lease.token, None)

    def next_batch(
        self, size: int, wait_s: float, stop: threading.Event, idle_s: float = 0.25
    ) -> list[Delivery]:
        """Up to ``size`` deliveries; a feed's own stand in the order of their ids.

        The first one starts the timer: the batch leaves when it is full or ``wait_s`` later.
        Nothing comes back after ``idle_s`` without a frame, so that the caller looks up.

        A frame that was in hand before comes alone, so that no other shares its fate.
        """
        batch: list[Delivery] = []
        deadline = time.monotonic() + idle_s
        pause_s = _SHORTEST_PAUSE_S
        while not stop.is_set():
            leases = self._leases.held()
            if not batch:
                pending = self._read_pending(leases)
                if pending is not None:
                    return [pending]
            found = self._read_new(leases, size - len(batch))
            if found and not batch:
                deadline = time.monotonic() + wait_s
            batch += found
            if len(batch) >= size or time.monotonic() >= deadline:
                break
            if found:
                pause_s = _SHORTEST_PAUSE_S
            else:
                stop.wait(pause_s)
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        return batch

    def _read_pending(self, leases: list[Lease]) -> Delivery | None:
        """The next frame that was in hand before, of any feed whose pending frames are not done."""
        for lease in leases:
            after = self._after.setdefault(lease.token, "0")
            if after == _NEW:
                continue
            found = self._read([(lease, after, 1)])
            if found:
                self._after[lease.token] = found[0].frame_id
                return found[0]
            self._after[lease.token] = _NEW
        known = {lease.token for lease in leases}
        for token in self._after.keys() - known:
            del self._after[token]
        return None

    def _read_new(self, leases: list[Lease], room: int) -> list[Delivery]:
        """Up to ``room`` new frames, the same share for each feed, another feed first each time."""
        ready = [lease for lease in leases if self._after.get(lease.token) == _NEW]
        if not ready:
            return []
        first = self._turn % len(ready)
        asked = (ready[first:] + ready[:first])[:room]
        self._turn += len(asked)
        share, extra = divmod(room, len(asked))
        return self._read(
            [(lease, _NEW, share + (1 if i < extra else 0)) for i, lease in enumerate(asked)]
        )

    def _read(self, requests: list[tuple[Lease, str, int]]) -> list[Delivery]:
        replies = self._server.run_many(
            "read",
            [
                ([lease.keys.lease, lease.keys.frames], [lease.token, GROUP, CONSUMER, after, n])
                for lease, after, n in requests
            ],
        )
        deliveries: list[Delivery] = []
        for (lease, after, _), reply in zip(requests, replies, strict=True):
            if isinstance(reply, ServerError):
                log.warning("feed cannot be read", feed=lease.feed, why=str(reply))
            elif reply[0] == b"lost":
                self._leases.lost(lease)
            else:
                _, now_ms, entries = reply
                deliveries += [
                    _delivery(lease, text(entry_id), flat, now_ms, redelivered=after != _NEW)
                    for entry_id, flat in entries
                ]
        return deliveries


def _delivery(
    lease: Lease, frame_id: str, flat: list[bytes] | None, now_ms: int, *, redelivered: bool
) -> Delivery:
    age_s = (now_ms - int(frame_id.partition("-")[0])) / 1000
    return Delivery(
        lease=lease,
        frame_id=frame_id,
        body=None if flat is None else fields_of(flat).get(b"frame"),
        gone=flat is None,
        redelivered=redelivered,
        stale=lease.settings.policy == "live" and age_s > lease.settings.staleness_s,
    )
