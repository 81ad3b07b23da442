"""Pushes JPEGs to live feeds at their pace: the other side of a measurement, as a process.

    python -m worker.bench.pusher URL FOLDER PLAN

FOLDER holds the JPEGs. PLAN is a JSON object: ``feeds`` (names), ``rate`` (frames a second of each
feed), ``step`` (from one frame of a feed to its next, in JPEGs), ``seconds`` (how long) and
``warm_up_s`` (of which the delays do not count). Prints a line when it begins, and at the end one
with the 95th percentile of the delays, in milliseconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from worker.bench.figures import percentiles
from worker.bench.stream import frame
from worker.capture.writer import Writer
from worker.wire.server import Server


def push(
    url: str,
    jpegs: Sequence[bytes],
    feeds: Sequence[str],
    *,
    rate: float,
    step: float,
    seconds: float,
    warm_up_s: float,
) -> list[float]:
    """Push for ``seconds``; how many milliseconds too late each frame after the warm-up went off.

    The feeds take turns, evenly spread over each period, and each begins elsewhere in the clip.
    """
    server, stop = Server(url), threading.Event()
    writers = [Writer(server, feed, stop=stop, policy="live") for feed in feeds]
    print("begins", flush=True)
    began, late_ms = time.monotonic(), []
    for turn in range(int(seconds * rate * len(writers))):
        sequence, i = divmod(turn, len(writers))
        due_s = turn / len(writers) / rate
        time.sleep(max(0.0, began + due_s - time.monotonic()))
        if due_s >= warm_up_s:
            late_ms.append(1000 * (time.monotonic() - began - due_s))
        data = jpegs[(int(sequence * step) + i * len(jpegs) // len(writers)) % len(jpegs)]
        writer = writers[i]
        writer.push(frame(writer, sequence, data, datetime.now(UTC), sequence / rate))
    server.close()
    return late_ms


def main() -> None:
    url, folder, plan = sys.argv[1:]
    jpegs = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    print(percentiles(push(url, jpegs, **json.loads(plan))).p95, flush=True)


if __name__ == "__main__":
    main()
