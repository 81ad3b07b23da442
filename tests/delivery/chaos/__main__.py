"""The command line of the chaos run."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.delivery.chaos.roles import HUNG, POISONED, SUPERSEDED
from tests.delivery.chaos.run import Report, run

_DONE = {
    "workers killed": "kill_worker",
    "workers stopped": "stop_worker",
    "workers stopped twice": "stop_worker_twice",
    "workers ended by a poison frame": f"ended {POISONED}",
    "workers ended by the watchdog": f"ended {HUNG}",
    "writers killed": "kill_writer",
    "writers stopped": "stop_writer",
    "writers ousted by another": f"ended {SUPERSEDED}",
    "servers killed": "kill_server",
    "servers restarted": "restart_server",
    "servers filled up": "fill_server",
    "failovers": "fail_over",
    "connections cut": "connections_cut",
    "replies swallowed": "replies_swallowed",
    "links held up": "stall_link",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.delivery.chaos",
        description="Kill, pause, cut off and fill up everything; then account for every frame.",
        epilog="Example: python -m tests.delivery.chaos --minutes 10 --seed 7",
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument(
        "--seed", type=int, help="of the schedule and the frames (default: a new one)"
    )
    parser.add_argument(
        "--failovers", action="store_true", help="with a replica that takes over now and then"
    )
    given = parser.parse_args()
    if not 0.1 <= given.minutes <= 10_000:
        parser.error(f"--minutes must be within 0.1 and 10000, not {given.minutes}")
    seed = random.randrange(10**6) if given.seed is None else given.seed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    screen = Console(width=100)
    folder = Path(tempfile.mkdtemp(prefix="mien-chaos-"))
    screen.print(f"seed {seed}; data and logs in {folder}", highlight=False)
    try:
        report = run(
            seed, given.minutes * 60, folder, failovers=given.failovers,
            say=lambda message: screen.print(message, style="dim", highlight=False),
        )  # fmt: skip
    except (KeyboardInterrupt, SystemExit) as error:
        shutil.rmtree(folder, ignore_errors=True)
        screen.print("stopped; nothing was judged")
        return 130 if isinstance(error, KeyboardInterrupt) else 143
    _show(screen, report)
    for fault in report.faults:
        screen.print(f"FAULT {fault}", highlight=False, markup=False, soft_wrap=True)
    if report.faults:
        again = f"python -m tests.delivery.chaos --minutes {given.minutes:g} --seed {seed}"
        screen.print(
            f"the same schedule again: {again}{' --failovers' if given.failovers else ''}",
            soft_wrap=True,
        )
    else:
        shutil.rmtree(folder, ignore_errors=True)
        screen.print("every frame is accounted for")
    return 1 if report.faults else 0


def _show(screen: Console, report: Report) -> None:
    done = Table(title=f"What was done (seed {report.seed})", show_header=False)
    for name, key in _DONE.items():
        done.add_row(name, str(report.counts[key]))
    paused = sum(n for what, n in report.counts.items() if what.startswith(("pause", "replace")))
    done.add_row("processes paused", str(paused))
    screen.print(done)

    words = ("offered", "published", "dropped", "skipped", "dead")
    became = Table("feed", *words, "repeated", "lost", title="What became of the frames")
    rows = [
        [*(getattr(one.books, word) for word in words), verdict.repeated, verdict.lost]
        for one, verdict in zip(report.evidence, report.verdicts, strict=True)
    ]
    names = [one.feed.name for one in report.evidence]
    for name, row in zip(names, rows, strict=True):
        became.add_row(name, *map(str, row))
    became.add_section()
    became.add_row("all", *(str(sum(column)) for column in zip(*rows, strict=True)))
    screen.print(became)
    screen.print(f"drained in {report.drained_in_s:.1f} s", highlight=False)
    if report.counts["fail_over"]:
        screen.print(
            f"failovers rolled back {sum(one.offered for one in report.rolled_back)} accepted "
            f"frames and {sum(one.outcomes for one in report.rolled_back)} outcomes, "
            f"{sum(one.pushed_again for one in report.verdicts)} of them came again; "
            f"the subscriber rewound {report.rewinds} times",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
