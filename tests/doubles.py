"""Hand-written stand-ins for the models, and a worker that uses them: tests of delivery are not
about what a face is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from prometheus_client import CollectorRegistry

from worker.analysis import Analyst
from worker.config import WorkerSettings
from worker.detect.mtcnn import FaceDetector
from worker.emotion.classifier import Classifier
from worker.health import Health
from worker.metrics import Metrics
from worker.pipeline import Pipeline
from worker.records import Detections, Floats, Image, ModelInfo
from worker.wire.server import Server

LABELS = ("calm", "cross")


class OneFace:
    """Finds one face in the middle of every picture; ``look`` sees them first."""

    info = ModelInfo("one-face", "1", "0" * 16)

    def __init__(self, look: Callable[[Sequence[Image]], None] = lambda images: None) -> None:
        self.look = look

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        self.look(images)
        return [_middle(*image.shape[:2]) for image in images]

    def glance(self, images: Sequence[Image]) -> list[Detections]:
        return [Detections.none()] * len(images)

    def follow(self, images: Sequence[Image], boxes: Sequence[Floats]) -> list[Detections]:
        self.look(images)
        return [_middle(*image.shape[:2]) for image in images]


class Calm:
    """Reads every face as calm."""

    info = ModelInfo("calm", "1", "1" * 16)
    labels, size, colour, margin, uncertain_below = LABELS, 8, "gray", 0.0, 0.0

    def classify(self, crops: Image) -> Floats:
        return np.tile(np.array([0.75, 0.25], np.float32), (len(crops), 1))


def _middle(height: int, width: int) -> Detections:
    box = np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]], np.float32)
    return Detections(box, np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32))


class Running:
    """A worker in a thread of this process."""

    def __init__(self, url: str, detector: Any = None, **settings: Any) -> None:
        self.server = Server(url)
        self.registry = CollectorRegistry()
        self.health = Health()
        self.stop = threading.Event()
        given, metrics = WorkerSettings(redis=url, **settings), Metrics(self.registry)
        analyst = Analyst(
            cast(FaceDetector, detector or OneFace()),
            cast(Classifier, Calm()),
            given,
            metrics,
            alive=self.health.turn,
        )
        self.pipeline = Pipeline(self.server, analyst, given, metrics, self.health)
        self.thread = threading.Thread(target=self.pipeline.run, args=(self.stop,))

    def sample(self, name: str, **labels: str) -> float:
        """A metric's value now; 0 if it has none."""
        return self.registry.get_sample_value(name, labels) or 0.0


@contextmanager
def running_worker(url: str, detector: Any = None, **settings: Any) -> Iterator[Running]:
    """A worker with the stand-ins; it is stopped in order at the end."""
    running = Running(url, detector, **settings)
    running.thread.start()
    try:
        yield running
    finally:
        running.stop.set()
        running.thread.join(timeout=20)
        assert not running.thread.is_alive(), "the worker did not stop"
        running.server.close()
