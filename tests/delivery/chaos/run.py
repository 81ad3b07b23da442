"""One chaos run from start to verdict."""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from tests.delivery.chaos.evidence import Evidence, RolledBack, collect, order
from tests.delivery.chaos.plan import Act, plan
from tests.delivery.chaos.roles import Feed
from tests.delivery.chaos.servers import Servers
from tests.delivery.chaos.stage import Stage, Undo
from tests.delivery.chaos.verdict import Verdict, judge
from tests.delivery.machines import Workshop
from worker.subscribe.events import Rewind, events
from worker.wire.books import read_books
from worker.wire.server import Server

FEEDS = (
    Feed("lossless-a", 0, "lossless", 30.0),
    Feed("live-a", 1, "live", 30.0),
    Feed("lossless-b", 2, "lossless", 20.0),
    Feed("live-b", 3, "live", 20.0),
)
WORKERS = 3
_TICK_S = 0.02
_LATER_S = 0.25
_DRAINS_WITHIN_S = 120.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run has shown."""

    seed: int
    counts: Counter[str]
    evidence: Sequence[Evidence]
    verdicts: Sequence[Verdict]
    rolled_back: Sequence[RolledBack]
    rewinds: int
    drained_in_s: float
    faults: tuple[str, ...]
    """Everything that must not be; empty if all is well."""


def run(seed: int, seconds: float, folder: Path, *, failovers: bool, say: Say) -> Report:
    """Disturb the system for ``seconds``, let it drain, and judge.

    Args:
        folder: empty; data, logs and journals of the run are left there.
        failovers: whether the server has a replica that takes its place now and then.
        say: told how far the run has come.
    """
    acts = plan(seed, seconds, workers=WORKERS, writers=len(FEEDS), failovers=failovers)
    names = [feed.name for feed in FEEDS]
    # One of the lossless writers waits for the replica, if there is one; the other does not.
    feeds = [replace(FEEDS[0], replicas=int(failovers)), *FEEDS[1:]]
    with ExitStack() as held:
        workshop = held.enter_context(Workshop(folder / "data"))
        servers = held.enter_context(closing(Servers(workshop, names, replica=failovers)))
        stage = held.enter_context(closing(Stage(folder, servers, feeds, WORKERS, seed)))
        seen = held.enter_context(_watching(servers.proxy.door("subscriber").url))
        _disturb(stage, acts, seconds, say)
        say("the writers stop")
        stage.stop(stage.writers)
        _until(stage, lambda: stage.gone(stage.writers), writers=False)
        say("everything drains")
        began = time.monotonic()
        server = held.enter_context(closing(servers.direct()))
        faults = []
        if not _until(
            stage, lambda: all(_is_drained(server, name) for name in names), writers=False
        ):
            faults.append(f"not drained in {_DRAINS_WITHIN_S:.0f} s")
        drained_in_s = time.monotonic() - began
        stage.stop(stage.workers)
        _until(stage, lambda: stage.gone(stage.workers), writers=False, workers=False)
        evidence = [collect(server, feed, stage.journals) for feed in FEEDS]
        _wait(lambda: all(len(seen.ids[one.feed.name]) >= len(one.events) for one in evidence))
    verdicts = [
        judge(
            one, seen.ids[one.feed.name], seed=seed, feeds=len(FEEDS),
            rolled_back=servers.rolled_back[one.feed.name],
        )
        for one in evidence
    ]  # fmt: skip
    for one, verdict in zip(evidence, verdicts, strict=True):
        faults += [f"{one.feed.name}: {fault}" for fault in verdict.faults]
    doors = servers.proxy.doors.values()
    counts = stage.counts + Counter(
        connections_cut=sum(door.cuts for door in doors),
        replies_swallowed=sum(door.cuts_at_reply for door in doors),
    )
    return Report(
        seed, counts, evidence, verdicts, list(servers.rolled_back.values()), seen.rewinds,
        drained_in_s, (*stage.faults, *faults),
    )  # fmt: skip


def _disturb(stage: Stage, acts: Sequence[Act], seconds: float, say: Say) -> None:
    """Perform the acts at their times, and undo each when it has lasted long enough."""
    began = time.monotonic()
    ties = count()
    steps: list[tuple[float, int, Act | Undo]] = [(act.at_s, next(ties), act) for act in acts]
    heapq.heapify(steps)
    said_s = 0.0
    while (now_s := time.monotonic() - began) < seconds or steps:
        stage.tend()
        while steps and steps[0][0] <= now_s:
            _, _, step = heapq.heappop(steps)
            if isinstance(step, Act):
                # It lasts from when it is done: a machine may be late.
                undo = stage.perform(step)
                done_s = time.monotonic() - began
                if undo is not None:
                    heapq.heappush(steps, (done_s + step.lasts_s, next(ties), undo))
                elif done_s < seconds:
                    heapq.heappush(steps, (done_s + _LATER_S, next(ties), step))
            else:
                step()
        if now_s - said_s > 10:
            said_s = now_s
            say(
                f"{now_s:.0f} of {seconds:.0f} s, {sum(stage.counts.values())} things have happened"
            )
        time.sleep(_TICK_S)


def _until(stage: Stage, done: Callable[[], bool], **tended: bool) -> bool:
    """Tend the stage until ``done``; False if that takes too long."""
    deadline = time.monotonic() + _DRAINS_WITHIN_S
    while not done():
        if time.monotonic() > deadline:
            return False
        stage.tend(**tended)
        time.sleep(_TICK_S)
    return True


def _wait(done: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not done() and time.monotonic() < deadline:
        time.sleep(_TICK_S)


def _is_drained(server: Server, feed: str) -> bool:
    books = read_books(server, feed)
    return books.in_flight == 0 and books.in_hand == 0


class _Seen:
    """What a subscriber has had; what a failover took back is taken out again."""

    def __init__(self) -> None:
        self.ids: dict[str, list[tuple[str, int]]] = {feed.name: [] for feed in FEEDS}
        self.rewinds = 0

    def watch(self, url: str, stop: threading.Event) -> None:
        for event in events(redis=url, since="start", stop=stop, on_rewind=self._rewind):
            self.ids[event.feed].append((event.frame_id, event.ordinal))

    def _rewind(self, rewind: Rewind) -> None:
        self.rewinds += 1
        had = self.ids[rewind.feed]
        while had and order(had[-1][0]) > order(rewind.last):
            had.pop()


@contextmanager
def _watching(url: str) -> Iterator[_Seen]:
    seen, stop = _Seen(), threading.Event()
    thread = threading.Thread(target=seen.watch, args=(url, stop), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(timeout=20)
