"""The schedule of a chaos run: plain data, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that is done to the system."""

    at_s: float
    """Seconds since the start of the run."""
    what: str
    """Name of a method of :class:`tests.delivery.chaos.stage.Stage`."""
    who: int
    """Index of the worker, writer or link that it is done to; 0 for the server."""
    lasts_s: float
    """After so long it is undone (what is killed is not: it is replaced)."""


Choices = dict[str, tuple[float, float]]
"""What may be done, and how long it lasts: at least, at most (s)."""

_TO_WORKERS: Choices = {
    "kill_worker": (0, 0),
    "pause_worker": (0.2, 2.0),
    "stop_worker": (0, 0),
    "stop_worker_twice": (0, 0),
    "pause_worker_long": (2.0, 4.0),
}
_TO_WRITERS: Choices = {
    "kill_writer": (0, 0),
    "pause_writer": (0.2, 2.0),
    "stop_writer": (0, 0),
    "replace_writer": (0.5, 2.0),
}
_TO_LINKS: Choices = {
    "cut_link": (0, 0),
    "cut_link_at_reply": (0, 0),
    "stall_link": (0.2, 2.0),
}
_TO_THE_SERVER: Choices = {
    "kill_server": (0.2, 1.0),
    "fill_server": (0.5, 1.5),
    "restart_server": (0.1, 0.5),
    "fail_over": (0.2, 0.6),
}
_CALM_S = 3.0
"""At the start, so that there is something to disturb."""


def plan(
    seed: int, seconds: float, *, workers: int, writers: int, failovers: bool
) -> tuple[Act, ...]:
    """All acts of a run in the order of their times; each has ended after ``seconds``."""
    rng = random.Random(seed)
    to_the_server = dict(_TO_THE_SERVER)
    if not failovers:
        del to_the_server["fail_over"]
    acts = [
        *_acts(rng, seconds, _TO_WORKERS, range(workers), every_s=4.0),
        *_acts(rng, seconds, _TO_WRITERS, range(writers), every_s=4.0),
        *_acts(rng, seconds, _TO_LINKS, range(workers + writers), every_s=2.0),
        *_acts(rng, seconds, to_the_server, [0], every_s=7.0),
    ]
    return tuple(sorted(acts, key=lambda act: act.at_s))


def _acts(
    rng: random.Random, seconds: float, choices: Choices, whom: Sequence[int], *, every_s: float
) -> Iterator[Act]:
    """About one act in ``every_s``; a choice comes again when all others have had their turn."""
    turns: list[str] = []
    at_s = _CALM_S
    while True:
        if not turns:
            turns = rng.sample(list(choices), len(choices))
        what = turns.pop()
        lasts_s = rng.uniform(*choices[what])
        if at_s + lasts_s > seconds:
            return
        yield Act(round(at_s, 3), what, rng.choice(whom), round(lasts_s, 3))
        at_s += rng.uniform(0.6, 1.4) * every_s
