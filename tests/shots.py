"""Frames of a feed that can be analysed, and what an analyst makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from prometheus_client import CollectorRegistry

from worker.analysis import Analyst, Shot
from worker.config import WorkerSettings
from worker.detect.mtcnn import Detector
from worker.emotion.classifier import load_classifier
from worker.memory import Memory
from worker.metrics import Metrics
from worker.picture import FramePicture
from worker.records import Encoding, Frame, FrameEvent, Image

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def real_analyst(detector: Detector, min_face: int) -> Analyst:
    """With the shipped classifier, on the CPU."""
    settings = WorkerSettings(min_face=min_face)
    return Analyst(detector, load_classifier(None, "cpu"), settings, Metrics(CollectorRegistry()))


def shot(
    memory: Memory, i: int, image: Image | FramePicture, *, feed: str = "f", live: bool = False
) -> Shot:
    picture = image if isinstance(image, FramePicture) else FramePicture.of(image)
    frame = Frame(
        feed, "s", i, START + timedelta(seconds=i / 25), i, Fraction(1, 25),
        picture.width, picture.height, Encoding.RGB24, b"",
    )  # fmt: skip
    return Shot(frame, f"{i + 1}-0", picture, memory, live)


def both_steps(worker: Analyst, shots: Sequence[Shot]) -> list[tuple[FrameEvent, bytes]]:
    return worker.analyse(shots, worker.detect(shots))


def analysed(
    worker: Analyst, pictures: Sequence[Image | FramePicture], cuts: Sequence[int] = ()
) -> tuple[list[FrameEvent], list[bytes]]:
    """Events and states of one feed whose frames come in batches that end at ``cuts``; between two
    batches its memory goes through the server and to another worker."""
    memory, events, states = Memory(), [], []
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(pictures)}), len(pictures)]
    for start, stop in pairwise(edges):
        for event, state in both_steps(
            worker, [shot(memory, i, pictures[i]) for i in range(start, stop)]
        ):
            events.append(event)
            states.append(state)
        memory = Memory.restore(states[-1])
    return events, states
