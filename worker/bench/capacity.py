"""``mien bench --feeds``: how many feeds one worker takes before its events come late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from worker.bench.facts import Conditions
from worker.bench.figures import latencies_ms, percentiles
from worker.bench.pictures import Clip
from worker.bench.report import Capacity, Level
from worker.bench.stream import DEFAULT, Paced, paced
from worker.config import WorkerSettings
from worker.errors import MienError

MOST_FEEDS = 4096
PUSH_LATE_MS = 20.0
"""Pushes that are later than this at the 95th percentile are no longer those that were planned."""

MOST_BEHIND = 16
"""Frames, a batch's: where more are left over, more come than are analysed."""


def capacity(
    clip: Clip,
    settings: WorkerSettings,
    *,
    rate: float,
    target_ms: float,
    seconds: float,
    say: Callable[[str], None],
) -> Capacity:
    """Double the number of feeds until the target is missed, then halve the step.

    A level meets the target when the 95th percentile of ingest to event is at most ``target_ms``,
    no frame is dropped, skipped or dead, and no more wait in the end than in the beginning, but for
    a batch.

    Raises:
        MienError: a process of the measurement could not go on, or no frame came through at all.
    """
    conditions = Conditions(settings)
    event = None

    def measure(feeds: int) -> Level:
        nonlocal event
        say(f"feeds: {feeds}, each at {rate:g} frames/s")
        run = paced(
            clip, DEFAULT, threads=settings.threads, feeds=feeds, rate=rate, seconds=seconds
        )
        if not run.events:
            raise MienError(f"no frame of {feeds} feeds came to an event within {seconds:g} s")
        event = event or run.events[0]
        return level(feeds, run, target_ms)

    levels = search(measure)
    assert event is not None  # or measuring has raised
    return Capacity(
        facts=conditions.facts(event),
        source=clip.source,
        width=clip.width,
        height=clip.height,
        rate=rate,
        target_ms=target_ms,
        seconds=seconds,
        feeds=max((one.feeds for one in levels if one.verdict == "met"), default=0),
        levels=levels,
    )


def search(measure: Callable[[int], Level]) -> list[Level]:
    """The levels that were tried, by number of feeds; the greatest one that is met is among them.

    It takes for granted that what a number of feeds misses, more of them miss, too.
    """
    levels: list[Level] = []
    good, bad = 0, MOST_FEEDS + 1
    while bad - good > 1:
        doubling = bad > MOST_FEEDS
        feeds = min(max(1, 2 * good), MOST_FEEDS) if doubling else (good + bad) // 2
        levels.append(measure(feeds))
        if levels[-1].verdict == "met":
            good = feeds
        else:
            bad = feeds
    return sorted(levels, key=lambda one: one.feeds)


def level(feeds: int, run: Paced, target_ms: float) -> Level:
    """What a run says of its number of feeds."""
    ms = percentiles(latencies_ms(run.events))
    verdict: Literal["met", "late", "lost", "behind", "pusher late"] = "met"
    if run.push_late_ms > PUSH_LATE_MS:
        verdict = "pusher late"
    elif run.dropped or run.skipped or run.dead:
        verdict = "lost"
    elif ms.p95 > target_ms:
        verdict = "late"
    elif run.behind > MOST_BEHIND:
        verdict = "behind"
    return Level(
        feeds=feeds,
        offered_per_s=run.offered / run.seconds,
        frames_per_s=run.published / run.seconds,
        ms=ms,
        dropped=run.dropped,
        skipped=run.skipped,
        dead=run.dead,
        worker_cores=run.worker_cpu_s / run.seconds,
        server_cores=run.server_cpu_s / run.seconds,
        push_late_ms=run.push_late_ms,
        verdict=verdict,
    )
