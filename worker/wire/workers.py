"""The live workers, ``mien:workers``: who they are, which feeds they hold, and at what load.

Each entry runs out on the server's clock unless its worker says again that it lives. A feed's owner
is found by its lease: the token begins with the worker's id (:func:`owner_of`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from worker.wire.server import Server, text

WORKERS = "mien:workers"
"""Hash: worker's id -> when its entry runs out (ms since 1970), a blank, the entry as JSON."""


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """What one worker says of itself."""

    id: str
    """Random, for each process."""
    host: str = ""
    pid: int = 0
    busy: float = 0.0
    """Share of its time that it works, 0 to 1, over the last seconds."""
    feeds: Mapping[str, float] = field(default_factory=dict)
    """The feeds it holds: name -> load, in seconds of its work a second."""
    only: tuple[str, ...] | None = None
    """The feeds it may hold; None for all."""

    @property
    def name(self) -> str:
        return f"{self.host}:{self.pid}"


def process_name() -> str:
    """The :attr:`WorkerEntry.name` of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


_ENTRY = TypeAdapter(WorkerEntry)


def live_workers(server: Server) -> dict[str, WorkerEntry]:
    """The workers that live now, by id."""
    return _parse(server.run("workers", [WORKERS], ["", 0, ""]))


def beat(server: Server, entry: WorkerEntry, ttl_s: float) -> dict[str, WorkerEntry]:
    """Say that we live, for ``ttl_s`` seconds of the server's clock; all that live now, by id."""
    body = _ENTRY.dump_json(entry)
    return _parse(server.run("workers", [WORKERS], [entry.id, int(ttl_s * 1000), body]))


def leave(server: Server, worker_id: str) -> None:
    """Say that we live no more."""
    server.run("workers", [WORKERS], [worker_id, 0, ""])


def owner_of(token: str) -> str:
    """The id of the worker that took the lease with ``token``."""
    return token.partition(".")[0]


def _parse(flat: list[bytes]) -> dict[str, WorkerEntry]:
    found: dict[str, WorkerEntry] = {}
    for name, body in zip(flat[::2], flat[1::2], strict=True):
        try:
            entry = _ENTRY.validate_json(body)
        except ValidationError:  # a foreign hand's, or a later version's: not one of us
            continue
        if entry.id == text(name):
            found[entry.id] = entry
    return found
