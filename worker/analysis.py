"""What a batch of frames shows: find the faces, follow them, name their expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worker.config import WorkerSettings
from worker.detect.mtcnn import FaceDetector, runs
from worker.detect.track import Tracker
from worker.emotion.align import crop_faces
from worker.emotion.classifier import Classifier
from worker.errors import ModelError
from worker.metrics import Metrics
from worker.records import Detections, Face, Floats, Frame, FrameEvent, Image
from worker.sample.portrait import portrait_with_face
from worker.wire.codec import time_of_id


class Memory:
    """What is remembered of one feed from frame to frame; saved on the server with each frame."""

    def __init__(self) -> None:
        self.tracker = Tracker()

    def state(self) -> bytes:
        return self.tracker.state()

    @classmethod
    def restore(cls, state: bytes | None) -> Memory:
        """The memory that gave ``state``; a new one for None.

        Raises:
            ValueError: it is no such state.
        """
        memory = cls()
        memory.tracker = Tracker.restore(state)
        return memory


@dataclass(frozen=True, slots=True)
class Shot:
    """A frame that can be analysed."""

    frame: Frame
    frame_id: str
    """Its id in the feed's stream."""
    image: Image
    memory: Memory
    """Its feed's; the shots of one feed share one, and stand in the order of their ids."""


class Analyst:
    """The models and the steps that use them; holds no state of a feed. For one thread alone."""

    def __init__(
        self,
        detector: FaceDetector,
        classifier: Classifier,
        settings: WorkerSettings,
        metrics: Metrics,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """``alive`` is called now and then in a long analysis, as a sign of life."""
        self._detector = detector
        self._classifier = classifier
        self._settings = settings
        self._metrics = metrics
        self._alive = alive

    def analyse(self, shots: Sequence[Shot]) -> list[tuple[FrameEvent, bytes]]:
        """The event of each shot, and its feed's memory after it; memories have moved on then.

        Whatever is raised, the memories may have moved on for some of the shots: restore them.
        """
        timed = self._metrics.timed
        with timed("detect"):
            found = self._detect([shot.image for shot in shots])
        with timed("crop"):
            crops = [
                self._crop(shot.image, faces) for shot, faces in zip(shots, found, strict=True)
            ]
        with timed("classify"):
            probabilities = self._classify(crops)
        self._metrics.batch_faces.observe(len(probabilities))
        with timed("track"):
            results, first = [], 0
            for shot, faces in zip(shots, found, strict=True):
                last = first + len(faces)
                event = self._event(shot, faces, probabilities[first:last])
                results.append((event, shot.memory.state()))
                first = last
        return results

    def try_models(self, shape: tuple[int, ...] = ()) -> None:
        """Run the models on a portrait in a picture of at least ``shape`` (height, width).

        A frame is to blame for a failure only if its like can be analysed.

        Raises:
            ModelError: it cannot.
        """
        portrait = portrait_with_face(2 * self._settings.min_face)
        height, width = np.maximum(portrait.shape[:2], shape or (0, 0))
        picture = np.zeros((height, width, 3), np.uint8)
        picture[: portrait.shape[0], : portrait.shape[1]] = portrait
        try:
            (faces,) = self._detector.detect([picture])
            probabilities = self._classify([self._crop(picture, faces)])
        except Exception as error:
            raise ModelError(f"the models do not work here: {error!r}") from error
        if not len(probabilities):
            raise ModelError("the models do not work here: no face is found in a portrait")

    def _detect(self, images: list[Image]) -> list[Detections]:
        """The faces of each picture. Few large pictures at a time: each call is a sign of life."""
        found: list[Detections] = []
        for some in runs(images):
            found += self._detector.detect(images[some])
            self._alive()
        return found

    def _crop(self, image: Image, faces: Detections) -> Image:
        """(N, size, size, channels): the faces of one picture as the classifier takes them."""
        model = self._classifier
        return crop_faces(
            image, faces.boxes, size=model.size, margin=model.margin, colour=model.colour
        )

    def _classify(self, crops: list[Image]) -> Floats:
        """(N, labels) for all faces of the batch, in their order."""
        if not crops:
            return np.zeros((0, len(self._classifier.labels)), np.float32)
        return self._classifier.classify(np.concatenate(crops))

    def _event(self, shot: Shot, found: Detections, probabilities: Floats) -> FrameEvent:
        frame, image = shot.frame, shot.image
        ids = shot.memory.tracker.update(found, frame.captured_at.timestamp())
        labels = self._classifier.labels
        faces = tuple(
            Face(
                track_id=int(ids[i]),
                box=tuple(found.boxes[i].tolist()),
                score=float(found.scores[i]),
                landmarks=tuple((x, y) for x, y in found.landmarks[i].tolist()),
                raw=dict(zip(labels, probabilities[i].tolist(), strict=True)),
                label=labels[int(probabilities[i].argmax())],
                uncertain=bool(probabilities[i].max() < self._classifier.uncertain_below),
            )
            for i in range(len(found))
        )
        return FrameEvent(
            feed=frame.feed,
            frame_id=shot.frame_id,
            session=frame.session,
            sequence=frame.sequence,
            captured_at=frame.captured_at,
            ingested_at=time_of_id(shot.frame_id),
            pts_seconds=float(frame.pts * frame.time_base),
            width=image.shape[1],
            height=image.shape[0],
            faces=faces,
            detector=self._detector.info,
            classifier=self._classifier.info,
        )
