"""``mien bench --growth``: what more feeds, more faces and more feeds held cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from worker.bench.facts import Conditions
from worker.bench.figures import rate, spread
from worker.bench.pictures import MOST_FACES, Clip, crowd
from worker.bench.report import Growth, Held, ManyFaces, ManyFeeds
from worker.bench.stream import DEFAULT, FULL, Filled, filled, paced
from worker.config import WorkerSettings
from worker.errors import MienError

MANY_FEEDS = 16
PROBE_FRAMES = 320
"""In the stream by which a rate is found that the worker keeps."""
CROWD_FRAMES, CROWD_STREAM_FRAMES = 64, 320
"""Pictures of a crowd, and how many the stream repeats them to."""
HELD_FEEDS, HELD_FRAMES = 50, 6
"""Feeds, and the frames of each that wait for the worker."""
_PACED_S = 8.0

Say = Callable[[str], None]


def growth(clip: Clip, settings: WorkerSettings, *, rounds: int, say: Say) -> Growth:
    """Measure, interleaved over ``rounds``: one feed and many, few faces and many; then memory.

    Raises:
        MienError: a process of the measurement could not go on.
    """
    conditions = Conditions(settings)
    threads = settings.threads
    say("finding a rate that the worker keeps")
    probe = filled(clip.lasting(PROBE_FRAMES), DEFAULT, threads=threads)
    many_feeds = _feeds(clip, rate(probe.events) / 2, threads, rounds, say)
    size, count = (clip.width, clip.height), min(CROWD_FRAMES, len(clip.jpegs))
    few, many = (
        crowd(faces, size, count).lasting(CROWD_STREAM_FRAMES) for faces in (1, MOST_FACES)
    )
    many_faces = [
        _faces("full", few, many, FULL, threads, rounds, say),
        _faces("default", few, many, DEFAULT, threads, rounds, say),
    ]
    say(f"memory with {HELD_FEEDS} feeds")
    some = Clip(
        clip.source, clip.width, clip.height, clip.jpegs[:HELD_FRAMES], clip.seconds[:HELD_FRAMES]
    )
    held = filled(some, DEFAULT, threads=threads, feeds=HELD_FEEDS)
    return Growth(
        facts=conditions.facts(probe.events[0]),
        rounds=rounds,
        width=clip.width,
        height=clip.height,
        many_feeds=many_feeds,
        many_faces=many_faces,
        held=Held(feeds=HELD_FEEDS, frames=len(held.events), peak_memory_bytes=held.peak_bytes),
    )


def _feeds(clip: Clip, total_rate: float, threads: int, rounds: int, say: Say) -> ManyFeeds:
    cost_ms: dict[int, list[float]] = {1: [], MANY_FEEDS: []}
    # What differs is the number of feeds alone: the one feed shows what each of the many does. With
    # all frames of the clip its faces would move less from one frame to the next, and cost less.
    step = clip.rate / (total_rate / MANY_FEEDS)
    for number in range(1, rounds + 1):
        for feeds, found in cost_ms.items():
            say(f"feeds: {feeds}, {total_rate:.0f} frames/s in all, round {number} of {rounds}")
            run = paced(
                clip, DEFAULT, threads=threads, feeds=feeds, rate=total_rate / feeds,
                seconds=_PACED_S, step=step,
            )  # fmt: skip
            if not run.published:
                raise MienError(f"no frame of {feeds} feeds came to an event")
            found.append(1000 * run.worker_cpu_s / run.published)
    one, many = cost_ms.values()
    return ManyFeeds(
        feeds=MANY_FEEDS,
        frames_per_s=total_rate,
        cpu_ms_per_frame_of_one=spread(one),
        cpu_ms_per_frame_of_many=spread(many),
        growth=spread([b / a for a, b in zip(one, many, strict=True)]),
    )


def _faces(
    of: Literal["full", "default"],
    few: Clip,
    many: Clip,
    settings: Mapping[str, str],
    threads: int,
    rounds: int,
    say: Say,
) -> ManyFaces:
    runs: list[tuple[Filled, Filled]] = []
    for number in range(1, rounds + 1):
        say(f"few faces and many, {of} detection, round {number} of {rounds}")
        first = filled(few, settings, threads=threads)
        runs.append((first, filled(many, settings, threads=threads)))
    counts = [_faces_per_frame([pair[i] for pair in runs]) for i in (0, 1)]
    extra = counts[1] - counts[0]
    if extra < 1:
        raise MienError(
            f"of {MOST_FACES} faces in {many.width}x{many.height} only {counts[1]:.1f} are found: "
            "give a larger --size"
        )
    wall = [[1000 / rate(run.events) for run in pair] for pair in runs]
    cpu = [[1000 * run.worker_cpu_s / run.frames for run in pair] for pair in runs]
    return ManyFaces(
        of=of,
        faces_of_few=counts[0],
        faces_of_many=counts[1],
        ms_per_frame_of_few=spread([pair[0] for pair in wall]),
        ms_per_frame_of_many=spread([pair[1] for pair in wall]),
        ms_per_extra_face=spread([(pair[1] - pair[0]) / extra for pair in wall]),
        cpu_ms_per_extra_face=spread([(pair[1] - pair[0]) / extra for pair in cpu]),
    )


def _faces_per_frame(runs: Sequence[Filled]) -> float:
    return statistics.fmean(len(event.faces) for run in runs for event in run.events)
