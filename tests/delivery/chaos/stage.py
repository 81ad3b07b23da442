"""The processes of a chaos run, and what can be done to them."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.delivery.chaos import roles
from tests.delivery.chaos.nursery import Child, Nursery
from tests.delivery.chaos.plan import Act
from tests.delivery.chaos.roles import Feed
from tests.delivery.chaos.servers import Servers

Undo = Callable[[], None]

_REPLACED_AFTER_S = 0.3
"""So soon a process that has ended is replaced, as an orchestrator of containers does."""
_WORKERS_END = {0, -signal.SIGKILL, roles.POISONED, roles.HUNG, roles.TWICE}
_WRITERS_END = {0, -signal.SIGKILL, roles.SUPERSEDED, roles.NO_SERVER}


@dataclass(slots=True)
class Place:
    """Where one process after the other does the same work."""

    name: str
    child: Child | None = None
    count: int = 0
    """How many processes have had the place."""
    empty_since: float = 0.0
    ousted: list[Child] = field(default_factory=list)
    """Processes that were replaced and have not ended yet."""


class Stage:
    """Workers and writers, each with a door of its own to the server."""

    def __init__(
        self, folder: Path, servers: Servers, feeds: Sequence[Feed], workers: int, seed: int
    ) -> None:
        self._folder, self._servers, self._feeds, self._seed = folder, servers, feeds, seed
        for name in ("logs", "hung", "journals"):
            (folder / name).mkdir()
        self._nursery = Nursery(folder / "logs")
        self.workers = [Place(f"worker-{i}") for i in range(workers)]
        self.writers = [Place(feed.name) for feed in feeds]
        self.counts: Counter[str] = Counter()
        """What was done, and how processes ended."""
        self.faults: list[str] = []
        """Processes that ended as none should."""
        self._server_in_trouble = False

    @property
    def journals(self) -> Path:
        return self._folder / "journals"

    def close(self) -> None:
        self._nursery.close()

    def perform(self, act: Act) -> Undo | None:
        """Do it now; what is returned is to be called when it has lasted long enough.

        None: it cannot be done yet, because the server is in other trouble.
        """
        do: Callable[[int], Undo | None] = getattr(self, act.what)
        undo = do(act.who)
        self.counts[act.what] += undo is not None
        return undo

    def tend(self, *, writers: bool = True, workers: bool = True) -> None:
        """Note who has ended, and replace them."""
        for place in self.workers:
            if self._vacant(place, _WORKERS_END, replace=workers):
                self._start_worker(place)
        for i, place in enumerate(self.writers):
            if self._vacant(place, _WRITERS_END, replace=writers):
                self._start_writer(place, i)

    def stop(self, places: Sequence[Place]) -> None:
        """SIGTERM for all who work there; and SIGCONT, so that they hear it."""
        for place in places:
            for child in (place.child, *place.ousted):
                if child is not None:
                    child.send(signal.SIGTERM)
                    child.send(signal.SIGCONT)

    def gone(self, places: Sequence[Place]) -> bool:
        return all(place.child is None and not place.ousted for place in places)

    # What can be done. Each returns how it is undone.

    def kill_worker(self, who: int) -> Undo:
        return self._send(self.workers[who], signal.SIGKILL)

    def stop_worker(self, who: int) -> Undo:
        return self._send(self.workers[who], signal.SIGTERM)

    def stop_worker_twice(self, who: int) -> Undo:
        self._send(self.workers[who], signal.SIGTERM)
        time.sleep(0.005)  # two signals at the same moment are one
        return self._send(self.workers[who], signal.SIGTERM)

    def pause_worker(self, who: int) -> Undo:
        return self._pause(self.workers[who])

    def pause_worker_long(self, who: int) -> Undo:
        return self._pause(self.workers[who])

    def kill_writer(self, who: int) -> Undo:
        return self._send(self.writers[who], signal.SIGKILL)

    def stop_writer(self, who: int) -> Undo:
        return self._send(self.writers[who], signal.SIGTERM)

    def pause_writer(self, who: int) -> Undo:
        return self._pause(self.writers[who])

    def replace_writer(self, who: int) -> Undo:
        """A second writer comes while the first one is paused, which then finds itself ousted."""
        place = self.writers[who]
        first = place.child
        undo = self._pause(place)
        if first is not None:
            place.ousted.append(first)
            self._start_writer(place, who)
        return undo

    def cut_link(self, who: int) -> Undo:
        self._servers.proxy.door(self._link(who)).cut()
        return _nothing

    def cut_link_at_reply(self, who: int) -> Undo:
        self._servers.proxy.door(self._link(who)).cut_at_reply()
        return _nothing

    def stall_link(self, who: int) -> Undo:
        door = self._servers.proxy.door(self._link(who))
        door.stall()
        return door.resume

    def kill_server(self, _: int) -> Undo | None:
        return self._to_the_server(self._servers.kill, self._servers.start)

    def restart_server(self, _: int) -> Undo | None:
        return self._to_the_server(self._servers.stop, self._servers.start)

    def fill_server(self, _: int) -> Undo | None:
        return self._to_the_server(self._servers.fill, self._servers.make_room)

    def fail_over(self, _: int) -> Undo | None:
        if not self._servers.in_step():
            return None
        return self._to_the_server(self._servers.hold_up_replication, self._servers.fail_over)

    def _to_the_server(self, do: Undo, undo: Undo) -> Undo | None:
        """One thing at a time: a server that is down cannot be filled."""
        if self._server_in_trouble:
            return None

        def end() -> None:
            undo()
            self._server_in_trouble = False

        self._server_in_trouble = True
        do()
        return end

    def _link(self, who: int) -> str:
        return [*self.workers, *self.writers][who].name

    def _send(self, place: Place, number: int) -> Undo:
        if place.child is not None:
            place.child.send(number)
        return _nothing

    def _pause(self, place: Place) -> Undo:
        child = place.child
        if child is None:
            return _nothing
        child.send(signal.SIGSTOP)
        return lambda: child.send(signal.SIGCONT)

    def _vacant(self, place: Place, ends: set[int], *, replace: bool) -> bool:
        """Whether somebody is to be started there now."""
        for child in [*place.ousted, place.child]:
            if child is None or child.code is None:
                continue
            self.counts[f"ended {child.code}"] += 1
            if child.code not in ends:
                self.faults.append(f"{child.name} ended with {child.code}, see its log")
            if child is place.child:
                place.child, place.empty_since = None, time.monotonic()
            else:
                place.ousted.remove(child)
        waited_s = time.monotonic() - place.empty_since
        return replace and place.child is None and waited_s > _REPLACED_AFTER_S

    def _start_worker(self, place: Place) -> None:
        door = self._servers.proxy.door(place.name)
        place.count += 1
        place.child = self._nursery.start(
            f"{place.name}.{place.count}", "work", door.url, str(self._folder / "hung")
        )

    def _start_writer(self, place: Place, number: int) -> None:
        feed = self._feeds[number]
        door = self._servers.proxy.door(place.name)
        place.count += 1
        name = f"{feed.name}.{place.count}"
        place.child = self._nursery.start(
            name, "write", door.url, asdict(feed), place.count, len(self._feeds), self._seed,
            str(self.journals / name),
        )  # fmt: skip


def _nothing() -> None:
    """What has no end needs no undoing."""
