"""Measurements through the real stream: a server, a worker, and frames that are there or come."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

from worker.bench.figures import warm_up
from worker.bench.pictures import Clip
from worker.bench.processes import Timing, Worker, child, worker_process
from worker.capture.writer import Writer
from worker.embedded import embedded
from worker.errors import MienError, ServerError
from worker.records import Encoding, Frame, FrameEvent
from worker.subscribe.events import events
from worker.usage import cpu_s, peak_bytes
from worker.wire.books import Books, read_all_books
from worker.wire.registry import register
from worker.wire.server import Server

_POLL_S = 0.05
_TAKEN_S = 60.0
"""How long a worker may take to get the leases of all feeds, and in the end to drain them."""
_WARM_UP_S = 2.0
_EXTRA_S = 0.5
"""For which is pushed beyond the last look."""

FULL = {"MIEN_DETECT_EVERY": "1"}
"""Settings of (c), full detection on every frame."""
DEFAULT: dict[str, str] = {}
"""Settings of (d)."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What came of frames that had all been there before the worker."""

    events: list[FrameEvent]
    peak_bytes: int
    """Of the worker's processes, each with its start, added."""
    frames: int
    """After the warm-up; what follows belongs to these."""
    worker_cpu_s: float
    server_cpu_s: float
    stages: dict[str, Timing]


@dataclass(frozen=True, slots=True)
class Paced:
    """What came of frames pushed at their pace to live feeds, after a warm-up."""

    events: list[FrameEvent]
    seconds: float
    """For which was measured."""
    offered: int
    published: int
    dropped: int
    skipped: int
    dead: int
    worker_cpu_s: float
    server_cpu_s: float
    behind: int
    """By how many frames more were waiting or in hand in the end than in the beginning."""
    push_late_ms: float
    """95th percentile of how much later than planned a frame was pushed."""


@dataclass(frozen=True, slots=True)
class _Look:
    """One moment: the books of all feeds added, and the CPU time that it took so far."""

    at_s: float
    books: Books
    worker_s: float
    server_s: float


def filled(
    clip: Clip, settings: Mapping[str, str], *, threads: int | None, feeds: int = 1
) -> Filled:
    """Push the clip to each of ``feeds`` lossless feeds, then start a worker and let it drain them.

    Raises:
        MienError: the worker ends before, a frame comes to no event, or there are too few frames.
    """
    names = _names(feeds)
    total = feeds * len(clip.jpegs)
    with _server() as (url, server):
        for name in names:
            _fill(server, name, clip)
        with worker_process(url, threads=threads, settings=settings) as worker:
            _until(lambda: _sum(server, names).published >= warm_up(total), worker)
            first, stages_before = _look(server, worker, names), worker.stages()
            _until(lambda: not _sum(server, names).in_flight, worker)
            last, stages = _look(server, worker, names), worker.stages()
            peak = peak_bytes(worker.pids)
        found = list(events(redis=url, since="start", follow=False))
    if len(found) != total:
        raise MienError(f"{total - len(found)} of {total} frames came to no event")
    frames = last.books.published - first.books.published
    if not frames:
        raise MienError(f"{total} frames are too few to measure: give more with --frames")
    return Filled(
        events=found,
        peak_bytes=peak,
        frames=frames,
        worker_cpu_s=last.worker_s - first.worker_s,
        server_cpu_s=last.server_s - first.server_s,
        stages={
            name: timing.since(stages_before[name]) if name in stages_before else timing
            for name, timing in stages.items()
        },
    )


def paced(
    clip: Clip,
    settings: Mapping[str, str],
    *,
    threads: int | None,
    feeds: int,
    rate: float,
    seconds: float,
    step: float | None = None,
) -> Paced:
    """Push the clip, over and over, to ``feeds`` live feeds, ``rate`` frames a second to each.

    From one frame of a feed to its next are ``step`` of the clip's, 1 at least. By default a rate
    below the clip's own leaves frames out, as a slower camera would: what moves is as fast. At a
    higher one all are shown, in less time.
    The pushes come from another process, those of the feeds evenly spread over each period. What
    the server accepts in a warm-up of two seconds is not counted.

    Raises:
        MienError: the worker or the pusher ends before.
    """
    names = _names(feeds)
    pushed_s = _WARM_UP_S + seconds + _EXTRA_S
    plan = {
        "feeds": names, "rate": rate, "step": max(1.0, step or clip.rate / rate),
        "seconds": pushed_s, "warm_up_s": _WARM_UP_S,
    }  # fmt: skip
    with (
        _server() as (url, server),
        tempfile.TemporaryDirectory() as folder,
        worker_process(url, threads=threads, settings=settings) as worker,
    ):
        for name in names:
            register(server, name, policy="live", source="mien bench")
        _until(lambda: _sum(server, names).owned, worker, _TAKEN_S)
        clip.write(Path(folder))
        with child("pusher", "worker.bench.pusher", url, folder, json.dumps(plan)) as pusher:
            pusher.line()  # it begins
            time.sleep(_WARM_UP_S)
            first = _look(server, worker, names)
            time.sleep(seconds)
            last = _look(server, worker, names)
            late_ms = float(pusher.line())
        _until(lambda: not _sum(server, names).in_flight, worker, _TAKEN_S)
        end = _sum(server, names)
        since = datetime.fromtimestamp(first.books.read_ms / 1000, UTC)
        found = list(events(redis=url, since=since, follow=False))
    return Paced(
        events=found,
        seconds=last.at_s - first.at_s,
        offered=last.books.offered - first.books.offered,
        published=last.books.published - first.books.published,
        dropped=end.dropped - first.books.dropped,
        skipped=end.skipped - first.books.skipped,
        dead=end.dead - first.books.dead,
        worker_cpu_s=last.worker_s - first.worker_s,
        server_cpu_s=last.server_s - first.server_s,
        behind=last.books.in_flight - first.books.in_flight,
        push_late_ms=late_ms,
    )


def frame(writer: Writer, sequence: int, data: bytes, at: datetime, pts_s: float) -> Frame:
    """A JPEG as the ``sequence``-th frame of the writer's session."""
    return Frame(
        feed=writer.feed,
        session=writer.session,
        sequence=sequence,
        captured_at=at,
        pts=round(1000 * pts_s),
        time_base=Fraction(1, 1000),
        width=0,
        height=0,
        encoding=Encoding.JPEG,
        data=data,
    )


def _names(feeds: int) -> list[str]:
    return [f"bench{i}" for i in range(feeds)]


@contextmanager
def _server() -> Iterator[tuple[str, Server]]:
    """An embedded server without persistence: its URL and a connection."""
    with embedded(save="") as process:
        url = f"redis://127.0.0.1:{process.port}"
        server = Server(url)
        try:
            yield url, server
        finally:
            server.close()


def _fill(server: Server, feed: str, clip: Clip) -> None:
    writer = Writer(
        server, feed, stop=threading.Event(), policy="lossless", depth=len(clip.jpegs),
        source=clip.source,
    )  # fmt: skip
    start = datetime.now(UTC)
    for i, (data, at_s) in enumerate(zip(clip.jpegs, clip.seconds, strict=True)):
        writer.push(frame(writer, i, data, start + timedelta(seconds=at_s), at_s))


def _look(server: Server, worker: Worker, feeds: Sequence[str]) -> _Look:
    pid = server.command("INFO", "server")["process_id"]
    return _Look(time.monotonic(), _sum(server, feeds), cpu_s(worker.pids), cpu_s([pid]))


def _sum(server: Server, feeds: Sequence[str]) -> Books:
    """The books of all feeds added; ``owned`` says whether each has a worker."""
    some = []
    for books in read_all_books(server, feeds).values():
        if isinstance(books, ServerError):
            raise books
        some.append(books)
    counts = ("offered", "in_flight", "in_hand", "published", "dropped", "skipped", "dead")
    return Books(
        **{name: sum(getattr(books, name) for books in some) for name in counts},
        oldest_age_s=max(books.oldest_age_s for books in some),
        owned=all(books.owned for books in some),
        read_ms=some[-1].read_ms,
    )


def _until(condition: Callable[[], bool], worker: Worker, timeout_s: float = float("inf")) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        worker.child.check()
        if time.monotonic() > deadline:
            raise MienError("the worker does not get on: it neither takes all feeds nor ends them")
        time.sleep(_POLL_S)
