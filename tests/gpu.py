"""What detection reaches on each provider: full detection on every frame, frames a second.

    python -m tests.gpu --providers cpu cuda [--size 1280x720] [--frames 128] [--rounds 5]

Prints one table. "on the device": the frames lie on the device already, and faces come back (for
cpu: the frames lie in memory). "JPEG in memory": decoded on all cores while the device works.
"through the stream": ``mien bench``, with the classifier and the server. Medians of interleaved
rounds; the last column is of one run. For a GPU machine: deploy/gpu_check.sh.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, get_args

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from worker.bench.pictures import load_clip, size_of
from worker.config import cores
from worker.cores import Cores
from worker.detect.mtcnn import Detector, load_detector
from worker.detect.ongraph import GraphDetector, load_graph_detector
from worker.detect.propose import Pyramid
from worker.records import Image, Provider

MIN_FACE, THRESHOLDS, FACTOR = 40, (0.6, 0.7, 0.7), 0.709
TOGETHER = 16

T = TypeVar("T")


def in_groups(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + TOGETHER] for start in range(0, len(items), TOGETHER)]


def decoded(jpeg: bytes) -> Image:
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB), np.uint8)


def as_a_worker() -> Detector:
    """The detector on the CPU, as a worker has it there."""
    return load_detector(provider="cpu", min_face=MIN_FACE, cores=Cores(cores()), pooled=True)


def on_device(provider: Provider, images: Sequence[Image]) -> Callable[[], object]:
    """One round over ``images``, which lie where the provider works."""
    groups = in_groups(images)
    if provider == "cpu":
        on_cpu = as_a_worker()
        return lambda: [on_cpu.detect(group) for group in groups]
    detector = graphs(provider)
    there = [detector.device.put(group) for group in groups]
    return lambda: [detector.detect_in(detector.device.tables(frames)) for frames in there]


def from_jpeg(provider: Provider, jpegs: Sequence[bytes]) -> Callable[[], object]:
    """One round over ``jpegs``, each decoded to RGB."""
    detect = (as_a_worker() if provider == "cpu" else graphs(provider)).detect

    def once() -> None:
        with ThreadPoolExecutor(cores()) as pool:
            groups = in_groups([pool.submit(decoded, jpeg) for jpeg in jpegs])
            for group in groups:
                detect([future.result() for future in group])

    return once


def graphs(provider: Provider) -> GraphDetector:
    return load_graph_detector(
        pyramid=Pyramid(MIN_FACE, FACTOR), thresholds=THRESHOLDS, provider=provider
    )


def through_stream(provider: Provider, size: str, frames: int) -> float:
    """Frames a second with full detection on every frame, by ``mien bench``."""
    command = ["bench", "--json", "--size", size, "--frames", str(frames), "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-c", "from worker.app import main; main()", *command],
        env={**os.environ, "MIEN_PROVIDER": provider},
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(json.loads(done.stdout)["sizes"][0]["full"]["frames_per_s"]["median"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description="Measure detection on each provider."
    )
    named = [name for name in get_args(Provider) if name != "auto"]
    parser.add_argument("--providers", nargs="+", choices=named, default=["cpu"])
    parser.add_argument("--size", default="1280x720", help="of the sample clip")
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)

    clip = load_clip(None, size_of(options.size), options.frames)
    images = [decoded(jpeg) for jpeg in clip.jpegs]
    table = Table("provider", title=f"frames/s, {options.size}, min face 40, full detection")
    for column in ("on the device", "JPEG in memory", "through the stream"):
        table.add_column(column, justify="right")
    measures = {
        provider: (on_device(provider, images), from_jpeg(provider, clip.jpegs))
        for provider in options.providers
    }
    rates: dict[tuple[str, int], list[float]] = {
        (provider, i): [] for provider in options.providers for i in range(2)
    }
    for turn in range(options.rounds + 1):
        for provider, both in measures.items():
            for i, measure in enumerate(both):
                began = time.perf_counter()
                measure()
                if turn:  # the first round warms up
                    rates[provider, i].append(len(images) / (time.perf_counter() - began))
    measures.clear()
    for provider in options.providers:
        found = [statistics.median(rates[provider, i]) for i in range(2)]
        found.append(through_stream(provider, options.size, options.frames))
        table.add_row(provider, *(f"{rate:,.0f}" for rate in found))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
