"""``mien demo``: the whole main job once, as separate processes on a real server."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker.capture.push import push
from worker.consume.images import decode_picture
from worker.embedded import embedded
from worker.errors import MienError, ServerError, ServerUnavailable
from worker.records import Frame, FrameEvent, PreviewMode
from worker.subscribe.annotate import AnnotatedVideo, draw
from worker.subscribe.events import Since, events
from worker.subscribe.watch import Board, latency_s, line_of
from worker.terminal import plain_console
from worker.wire.books import Books, read_books
from worker.wire.codec import decode_frame, encode_frame
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server, text

FEED = "demo"
_NEVER = datetime.fromtimestamp(0, UTC)
_START_S = 60.0
_OUTAGE_S = 30.0
_TOLD_S = 2.0
"""How long after its lease was taken a worker of ours may take to tell us."""


class _Thread(threading.Thread):
    """A thread that ends with the process, and whose error is raised where it is waited for."""

    error: Exception | None = None

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        self.join()
        if self.error:
            raise self.error


@dataclass
class _Push:
    """What is pushed, and what came of it."""

    source: str
    url: str
    stop: threading.Event
    spool: IO[bytes] | None
    loop: bool = False
    session: str = ""
    sizes: list[int] = field(default_factory=list)

    def run(self) -> None:
        push(
            self.source, FEED, redis=self.url, realtime=True, loop=self.loop, stop=self.stop,
            on_frame=self._keep, say=lambda message: None,
        )  # fmt: skip

    def _keep(self, frame: Frame) -> None:
        """Keep what was pushed, to draw on it when all events are there."""
        self.session = frame.session
        if self.spool is not None:
            self.sizes.append(self.spool.write(encode_frame(frame)))

    def frames(self) -> Iterator[Frame]:
        if self.spool is None:
            return
        self.spool.seek(0)
        for size in self.sizes:
            yield decode_frame(self.spool.read(size), FEED, ingested_at=_NEVER)


@dataclass
class _Seen:
    """The demo's own subscriber."""

    url: str
    console: Console
    position: Since
    stop: threading.Event = field(default_factory=threading.Event)
    board: Board = field(default_factory=Board)
    events: list[FrameEvent] = field(default_factory=list)
    _last_line: float = 0.0

    def read(self, *, follow: bool) -> None:
        """Show what comes until ``stop`` is set, or what is there."""
        for event in events(
            FEED, redis=self.url, since=self.position, follow=follow, stop=self.stop
        ):
            self.position = event
            self.events.append(event)
            self.board.add(event)
            if not self.console.is_terminal and time.monotonic() - self._last_line >= 1:
                self._last_line = time.monotonic()
                print(line_of(event), flush=True)


@dataclass
class _Worker:
    """A worker process and what it has written."""

    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    @property
    def has_feed(self) -> bool:
        """Whether it has told of a lease: that there is one does not say whose it is."""
        return any("lease taken" in line for line in self.log)

    def listen(self) -> None:
        for line in self.process.stderr or ():
            self.log.append(line)

    def check(self) -> None:
        """Raise MienError with its last words if it has ended."""
        if self.process.poll() is not None:
            time.sleep(0.1)  # for :meth:`listen`
            last_words = (self.log or ["it left no word"])[-1].strip().removeprefix("mien: ")
            raise MienError(f"the worker could not go on: {last_words}")


def demo(
    source: str | None,
    *,
    redis: str | None,
    model: Path | None,
    annotate: Path | None,
    preview: PreviewMode | None = None,
    stay: bool = False,
    stop: threading.Event,
) -> None:
    """Run server, worker, page and push; show the events live; print the summary.

    Args:
        source: what to push, at its own pace; None for the sample clip.
        redis: an own server's URL; None starts an embedded one that ends with the demo.
        model: another classifier than the one that ships.
        annotate: where to write the video with its events drawn in; None for nowhere.
        preview: what the page shows of the pictures; None: the sample clip's as they are, nothing
            of any other.
        stay: push again and again, and keep the page, until ``stop`` is set.
        stop: set it to end the push early; what was pushed is still analysed and summed up.

    Raises:
        MienError: whatever kept the main job from running.
        KeyboardInterrupt: ``stop`` was set before anything was pushed.
    """
    console = plain_console()
    video = AnnotatedVideo(annotate) if annotate else None
    with ExitStack() as stack:
        url = redis or stack.enter_context(_embedded_server())
        server = Server(url)
        stack.callback(server.close)
        if read_books(server, FEED).owned:
            raise _other_worker(server)
        register(server, FEED)
        with console.status("loading the models ..."):
            shown = preview or ("off" if source else "clear")
            worker = stack.enter_context(_worker(url, model, shown))
            page = stack.enter_context(_page(url, stop))
            before = _wait_for_worker(worker, server, stop)
        console.print(f"page: {page}#/feed/{FEED}" + ("   (Ctrl-C ends it)" if stay else ""))
        spool = stack.enter_context(tempfile.TemporaryFile()) if annotate else None
        job = _Push(source or str(sample_clip()), url, stop, spool, loop=stay)
        seen = _Seen(url, console, _newest_event(server))
        stack.callback(stop.set)  # whatever happens, the push ends with us
        pushing = _Thread(target=job.run, name="push", daemon=True)
        reading = _Thread(target=seen.read, kwargs={"follow": True}, name="events", daemon=True)
        pushing.start()
        reading.start()
        with (
            Live(seen.board, console=console, refresh_per_second=8)
            if console.is_terminal
            else nullcontext()
        ):
            books = _wait_for_the_end(pushing, reading, worker, server, before)
            seen.stop.set()
            reading.finish()
            seen.stop.clear()
            seen.read(follow=False)  # what came since its last look
        if pushing.error and not books.offered:
            raise pushing.error  # there is nothing to sum up
        own = [event for event in seen.events if event.session == job.session]
        _summary(console, books, own, source is None)
        if video:
            _write_video(video, job, own)
            console.print(f"annotated video: {annotate}")
        pushing.finish()


@contextmanager
def _embedded_server() -> Iterator[str]:
    # The demo's frames are worth nothing after it: no persistence.
    with ExitStack() as stack:
        # A terminal's Ctrl-C reaches all processes of its group. The server inherits that SIGINT
        # is blocked, so that it outlives what is stopped in order.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            server = stack.enter_context(embedded())
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        yield f"redis://127.0.0.1:{server.port}"


@contextmanager
def _worker(url: str, model: Path | None, preview: PreviewMode) -> Iterator[_Worker]:
    """A worker process on the demo's feed, asked to stop at the end, or made to."""
    command = ["worker", "--redis", url, "--feed", FEED, "--preview", preview]
    if model:
        command += ["--model", str(model)]
    with _command(command) as process:
        worker = _Worker(process)
        threading.Thread(target=worker.listen, name="worker-log", daemon=True).start()
        yield worker


@contextmanager
def _page(url: str, stop: threading.Event) -> Iterator[str]:
    """The page's process; its address."""
    command = ["web", "--redis", url, "--port", "0", "--log-format", "json"]
    with _command(command) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        try:
            address = str(json.loads(line)["url"])
        except (ValueError, KeyError):
            if stop.is_set():  # the signal may have met it, too, before it was on its own
                raise KeyboardInterrupt from None
            why = line.strip().removeprefix("mien: ") or "it left no word"
            raise MienError(f"the page cannot be served: {why}") from None
        # Nobody reads what it says later on; a full pipe must not stop it.
        threading.Thread(target=process.stderr.read, name="page-log", daemon=True).start()
        yield address


@contextmanager
def _command(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command of mien's as a process that ends with us."""
    # In a session of its own, so that Ctrl-C reaches the demo alone, which stops things in order.
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.app", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    except (KeyboardInterrupt, SystemExit):
        process.kill()
        raise
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for_worker(worker: _Worker, server: Server, stop: threading.Event) -> Books:
    """The books once our worker has the feed and nothing of the feed's past is in flight."""
    began = free_at = time.monotonic()
    while True:
        books = read_books(server, FEED)
        now = time.monotonic()
        if stop.is_set():  # perhaps while the page was starting, which the worker may have outrun
            raise KeyboardInterrupt
        if worker.has_feed and books.in_flight == 0:
            return books
        worker.check()
        if worker.has_feed or not books.owned:
            free_at = now
        elif now - free_at > _TOLD_S:
            raise _other_worker(server)
        if not worker.has_feed and now - began > _START_S:
            raise MienError("the worker did not start in time")
        time.sleep(0.05)


def _other_worker(server: Server) -> ServerError:
    return ServerError(
        f"another worker reads the feed {FEED} at {server.name}: stop it, or leave --redis out"
    )


def _newest_event(server: Server) -> str:
    """Id of the feed's newest event, to go on after it."""
    newest = server.command("XREVRANGE", FeedKeys.of(FEED).events, "+", "-", "COUNT", 1)
    return text(newest[0][0]) if newest else "0-0"


def _wait_for_the_end(
    pushing: _Thread, reading: _Thread, worker: _Worker, server: Server, before: Books
) -> Books:
    """The demo's books, once the push is over and nothing is in flight."""
    answered = time.monotonic()
    while True:
        time.sleep(0.1)
        worker.check()
        if reading.error:
            raise reading.error
        over = not pushing.is_alive()
        try:
            books = _since(read_books(server, FEED), before)
            answered = time.monotonic()
        except ServerUnavailable:
            if time.monotonic() - answered > _OUTAGE_S:
                raise
            continue
        if over and books.in_flight == 0:
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


def _write_video(video: AnnotatedVideo, job: _Push, seen: list[FrameEvent]) -> None:
    """Each pushed frame with its event drawn in; a frame that was dropped stays as it is."""
    by_sequence = {event.sequence: event for event in seen}
    with video:
        for frame in job.frames():
            image = decode_picture(frame)
            event = by_sequence.get(frame.sequence)
            video.add(draw(image, event) if event else image, float(frame.pts * frame.time_base))


def sample_clip() -> Path:
    """The clip that ships with mien: 14 s, 640x360, 25 frames a second."""
    return Path(str(resources.files("worker.sample") / "faces.mp4"))
