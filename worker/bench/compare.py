"""``mien bench``: decoding, the naive loop, full detection and the default, interleaved."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from worker.bench.agreement import Seen, agreement, label_changes, seen
from worker.bench.facts import Conditions
from worker.bench.figures import latencies_ms, percentiles, rate, spread, stage
from worker.bench.pictures import Clip
from worker.bench.processes import Child, child, merged
from worker.bench.report import (
    Comparison,
    Decode,
    Latency,
    Naive,
    Ours,
    SizeResult,
    Spread,
)
from worker.bench.stream import DEFAULT, FULL, Filled, filled, paced
from worker.config import WorkerSettings, cores
from worker.errors import SettingsError
from worker.usage import peak_bytes

_STREAM_FRAMES = 1_000
"""In the streams of (c) and (d), at least: a few batches more or less must not matter."""
_LATENCY_S = 5.0
_TRIED_FRAMES, _TRIES = 12, 2

Say = Callable[[str], None]


def compare(
    clips: Sequence[Clip], settings: WorkerSettings, *, rounds: int, against: bool, say: Say
) -> Comparison:
    """Measure each clip; ``against`` also the naive loop; ``say`` is told each step as it begins.

    Raises:
        SettingsError: ``against`` without the training extra.
        MienError: a process of the measurement could not go on.
    """
    conditions = Conditions(settings)
    results, libraries = [], {}
    for clip in clips:
        with naive_loop(clip, settings) if against else nullcontext() as naive:
            race = _Race(clip, settings, naive, say)
            for number in range(1, rounds + 1):
                race.round(f"{clip.width}x{clip.height}, round {number} of {rounds}")
        results.append(race.result())
        libraries = naive.versions if naive else {}
    return Comparison(
        facts=conditions.facts(race.default[0].events[0], libraries),
        rounds=rounds,
        sizes=results,
    )


@dataclass(frozen=True, slots=True)
class NaiveRun:
    frames_per_s: float
    cpu_s: float
    peak_bytes: int
    seen: list[list[Seen]]


class NaiveLoop:
    """The naive loop in a process of its own, with the number of threads that is best for it."""

    def __init__(self, process: Child, frames: int) -> None:
        self._process, self._frames = process, frames
        told = json.loads(process.line())
        self.versions: dict[str, str] = told["versions"]
        self.device: str = told["device"]
        count = min(frames, _TRIED_FRAMES)
        choices = sorted({cores(), *(2**i for i in range(cores().bit_length()))})
        taken: dict[int, list[float]] = {threads: [] for threads in choices}
        for _ in range(_TRIES):
            for threads in choices:
                taken[threads].append(self._ask(threads, count)["seconds"])
        self.tried = {threads: count / min(seconds) for threads, seconds in taken.items()}
        self.threads = max(self.tried, key=self.tried.__getitem__)

    def run(self) -> NaiveRun:
        told = self._ask(self.threads, self._frames)
        faces = [[Seen(tuple(box), label) for box, label in frame] for frame in told["faces"]]
        pid = self._process.process.pid
        return NaiveRun(self._frames / told["seconds"], told["cpu_s"], peak_bytes([pid]), faces)

    def _ask(self, threads: int, frames: int) -> dict[str, Any]:
        self._process.tell(f"{threads} {frames}")
        told: dict[str, Any] = json.loads(self._process.line())
        return told


@contextmanager
def naive_loop(clip: Clip, settings: WorkerSettings) -> Iterator[NaiveLoop]:
    """The loop on ``clip``, with the worker's settings of what a face is.

    Raises:
        SettingsError: the training extra is not there.
    """
    check_training_extra()
    plan = {
        "min_face": settings.min_face,
        "thresholds": settings.face_thresholds,
        "factor": settings.pyramid_factor,
        "model": str(settings.model.absolute()) if settings.model else None,
        "gpu": settings.provider != "cpu",
    }
    with tempfile.TemporaryDirectory() as folder:
        clip.write(Path(folder))
        with child("naive loop", "training.naive", folder, json.dumps(plan)) as process:
            yield NaiveLoop(process, len(clip.jpegs))


def check_training_extra() -> None:
    if not find_spec("torch") or not find_spec("facenet_pytorch"):
        raise SettingsError(
            "--against facenet-pytorch needs the training extra: pip install 'mien[training]'"
        )


def decode_rate(clip: Clip) -> float:
    """Frames a second of full-size decoding to RGB, in one thread."""
    cv2.setNumThreads(1)
    began = time.perf_counter()
    for data in clip.jpegs:
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return len(clip.jpegs) / (time.perf_counter() - began)


class _Race:
    """The rounds of one clip."""

    def __init__(
        self, clip: Clip, settings: WorkerSettings, loop: NaiveLoop | None, say: Say
    ) -> None:
        self._clip, self._settings, self._loop, self._say = clip, settings, loop, say
        self._stream = clip.lasting(_STREAM_FRAMES)
        self.decode: list[float] = []
        self.naive: list[NaiveRun] = []
        self.full: list[Filled] = []
        self.default: list[Filled] = []

    def round(self, name: str) -> None:
        """Each contender once, one after the other, so that what else runs here meets all."""
        threads = self._settings.threads
        self._say(f"{name}: decoding")
        self.decode.append(decode_rate(self._clip))
        if self._loop:
            self._say(f"{name}: the naive loop")
            self.naive.append(self._loop.run())
        self._say(f"{name}: full detection on every frame")
        self.full.append(filled(self._stream, FULL, threads=threads))
        self._say(f"{name}: as configured by default")
        self.default.append(filled(self._stream, DEFAULT, threads=threads))

    def result(self) -> SizeResult:
        clip = self._clip
        # The naive loop sees the clip once.
        full, default = (
            seen(runs[-1].events)[: len(clip.jpegs)] for runs in (self.full, self.default)
        )
        agreements = [agreement("default", default, "full", full)]
        if self.naive:
            naive = self.naive[-1].seen
            agreements = [
                agreement("full", full, "naive", naive),
                agreement("default", default, "naive", naive),
                *agreements,
            ]
        return SizeResult(
            source=clip.source,
            width=clip.width,
            height=clip.height,
            frames=len(clip.jpegs),
            stream_frames=len(self._stream.jpegs),
            jpeg_bytes=round(statistics.fmean(map(len, clip.jpegs))),
            decode=Decode(frames_per_s=spread(self.decode)),
            naive=self._naive(),
            full=self._ours(self.full, FULL),
            default=self._ours(self.default, DEFAULT),
            agreement=agreements,
            ratios=self._ratios(),
        )

    def _ratios(self) -> dict[str, Spread]:
        rates = {
            "decode": self.decode,
            "naive": [run.frames_per_s for run in self.naive],
            "full": [rate(run.events) for run in self.full],
            "default": [rate(run.events) for run in self.default],
        }
        pairs = [
            ("full", "naive"),
            ("default", "naive"),
            ("default", "decode"),
            ("default", "full"),
        ]
        return {
            f"{one}/{other}": spread([a / b for a, b in zip(rates[one], rates[other], strict=True)])
            for one, other in pairs
            if rates[other]
        }

    def _naive(self) -> Naive | None:
        loop, runs, frames = self._loop, self.naive, len(self._clip.jpegs)
        if loop is None:
            return None
        return Naive(
            frames_per_s=spread([run.frames_per_s for run in runs]),
            cpu_s_per_1000_frames=spread([1000 * run.cpu_s / frames for run in runs]),
            peak_memory_bytes=spread([run.peak_bytes for run in runs]),
            faces_per_frame=_faces_per_frame(runs[-1].seen),
            threads=loop.threads,
            device=loop.device,
            tried=loop.tried,
        )

    def _ours(self, runs: Sequence[Filled], settings: Mapping[str, str]) -> Ours:
        rates = spread([rate(run.events) for run in runs])
        frames = sum(run.frames for run in runs)
        stages = merged([run.stages for run in runs])
        return Ours(
            frames_per_s=rates,
            cpu_s_per_1000_frames=spread([1000 * run.worker_cpu_s / run.frames for run in runs]),
            server_cpu_s_per_1000_frames=spread(
                [1000 * run.server_cpu_s / run.frames for run in runs]
            ),
            peak_memory_bytes=spread([run.peak_bytes for run in runs]),
            faces_per_frame=_faces_per_frame(seen(runs[-1].events)),
            stages=[
                stage(name, timing.buckets, timing.seconds, frames)
                for name, timing in stages.items()
            ],
            latency=self._latency(rates.median / 2, settings),
            label_changes=label_changes(runs[-1].events),
        )

    def _latency(self, frames_per_s: float, settings: Mapping[str, str]) -> Latency:
        """In a filled stream frames queue: latency is measured at a pace the worker keeps."""
        clip = self._clip
        self._say(f"{clip.width}x{clip.height}: latency at {frames_per_s:.0f} frames/s")
        run = paced(
            clip, settings, threads=self._settings.threads, feeds=1, rate=frames_per_s,
            seconds=_LATENCY_S,
        )  # fmt: skip
        return Latency(
            offered_per_s=run.offered / run.seconds,
            ms=percentiles(latencies_ms(run.events)),
            lost_frames=run.dropped + run.skipped + run.dead,
        )


def _faces_per_frame(frames: Sequence[Sequence[Seen]]) -> float:
    return statistics.fmean(map(len, frames))
