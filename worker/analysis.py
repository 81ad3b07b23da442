"""What a batch of frames shows: find the faces, follow them, name their expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
import numpy.typing as npt

from worker.config import WorkerSettings
from worker.cores import Cores
from worker.detect.find import Finder, Look, View
from worker.detect.mtcnn import Detector, load_detector
from worker.detect.ongraph import GraphDetector
from worker.emotion.align import Form
from worker.emotion.classifier import Classifier, load_classifier
from worker.emotion.crops import Boxes, Cropper, Crops, HostCropper
from worker.emotion.ongraph import load_device_cropper
from worker.emotion.quality import JUDGED, quality
from worker.emotion.steady import Reading, read
from worker.errors import ModelError
from worker.memory import Memory, Readings
from worker.metrics import Metrics
from worker.picture import FramePicture, Scale, smallest
from worker.records import Detections, Face, Frame, FrameEvent, Image
from worker.sample.portrait import portrait_with_face
from worker.wire.codec import time_of_id

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Shot:
    """A frame that can be analysed."""

    frame: Frame
    frame_id: str
    """Its id in the feed's stream."""
    picture: FramePicture
    memory: Memory
    """Its feed's; the shots of one feed share one, and stand in the order of their ids."""
    live: bool = False
    """Whether its feed's policy is live: its detection may then be put off (``detect_every``)."""


def load_models(
    settings: WorkerSettings, cores: Cores | None = None
) -> tuple[Detector, Classifier]:
    """The models as a worker with ``settings`` uses them, on these cores (None: one).

    Raises:
        ModelError: a file is missing or is not what it should be.
        SettingsError: a setting makes no sense, or the provider cannot be had.
    """
    detector = load_detector(
        min_face=settings.min_face,
        thresholds=settings.face_thresholds,
        factor=settings.pyramid_factor,
        provider=settings.provider,
        engine_cache=settings.engine_cache,
        cores=cores,
        pooled=True,
    )
    # One thread: a few faces at a time are classified faster by one than by two.
    classifier = load_classifier(
        settings.model, provider=settings.provider, engine_cache=settings.engine_cache
    )
    return detector, classifier


class Analyst:
    """The models and the steps that use them; holds no state of a feed.

    A batch goes through two steps, ``detect`` and ``analyse``. A thread may begin the first with
    the next batch while another is at the second.
    """

    def __init__(
        self,
        detector: Detector,
        classifier: Classifier,
        settings: WorkerSettings,
        metrics: Metrics,
        *,
        cores: Cores | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            cores: who calls one of the steps should have one of them; None: as the settings say.
            alive: called now and then in a long analysis, as a sign of life.

        Raises:
            ModelError: the graph that cuts crops, where the detector works on a GPU, is missing or
                is not what it should be.
        """
        self._detector = detector
        self._classifier = classifier
        self._settings = settings
        self._metrics = metrics
        self.cores = cores or Cores(settings.threads)
        self._next = classifier
        metrics.model("classifier", classifier.info)
        self._cropper: Cropper = (
            load_device_cropper(detector.device)
            if isinstance(detector, GraphDetector)
            else HostCropper(self.cores)
        )
        self._finder = Finder(
            detector,
            settings.detect_every,
            min_face=settings.min_face,
            cores=self.cores,
            alive=alive,
        )

    def detect(self, shots: Sequence[Shot], *, busy: float = 0.0) -> list[Look]:
        """Detect faces in the shots that are due for it.

        The schedules have moved on then; whatever is raised, they have not. In a feed that is not
        live, what is due goes by its frames alone, however these were cut into batches.

        Args:
            shots: those of one feed stand in their order, here and from batch to batch.
            busy: the share of its time that the worker works, 0 to 1.

        Raises:
            EntryError: a picture cannot be decoded; so in the second step.
        """
        memories = _memories(shots)
        views = [
            View(
                id(shot.memory), shot.picture, shot.frame.captured_at.timestamp(),
                live=shot.live, phase=crc32(shot.frame.feed.encode()),
            )
            for shot in shots
        ]  # fmt: skip
        before = {feed: memory.schedule for feed, memory in memories.items()}
        with self._metrics.timed("detect"):
            looks = self._finder.detect(views, before, busy=busy)
        for look in looks:
            memories[look.view.feed].schedule = look.schedule
        return looks

    def analyse(
        self, shots: Sequence[Shot], looks: Sequence[Look]
    ) -> list[tuple[FrameEvent, bytes]]:
        """The event of each shot, and its feed's memory after it; memories have moved on then.

        Whatever is raised, they have not.

        Args:
            shots: in the order in which ``detect`` had them, but for such as are left out.
            looks: what it gave for each.
        """
        if not shots:
            return []
        timed = self._metrics.timed
        if self._classifier is not self._next:
            self._classifier = self._next
            self._metrics.model("classifier", self._classifier.info)
        memories = _memories(shots)
        with timed("follow"):
            looks = self._finder.follow(looks, {i: m.tracks for i, m in memories.items()})
        with timed("crop"):
            readings = {feed: self._readings(memory) for feed, memory in memories.items()}
            asked = _asked(looks, readings, self._settings.classify_every)
            chosen = [look.faces.pick(some) for look, some in zip(looks, asked, strict=True)]
            pictures = [shot.picture for shot in shots]
            crops = self._crops(pictures, chosen, [look.detected for look in looks])
            qualities = quality(crops.sharpness, Detections.joined(chosen), self._classifier.margin)
        with timed("classify"):
            answers = crops.classified(self._classifier.classify)
        self._metrics.batch_faces.observe(len(answers))
        with timed("track"):
            judged = zip(answers.tolist(), qualities.tolist(), strict=True)
            results = []
            for shot, look, some in zip(shots, looks, asked, strict=True):
                feed = look.view.feed
                faces, readings[feed] = self._read(look, some, readings[feed], judged)
                after = Memory(
                    look.schedule, look.tracks, readings[feed], self._classifier.info.digest
                )
                results.append((self._event(shot, faces), after))
        for shot, (_, after) in zip(shots, results, strict=True):
            shot.memory.follow(after)
        return [(event, after.state()) for event, after in results]

    def use(self, classifier: Classifier) -> None:
        """From the next batch on, classify with this one. May be called from any thread."""
        self._next = classifier

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
            crops = self._crops([FramePicture.of(picture)], [faces], [True])
            probabilities = crops.classified(self._classifier.classify)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"the models do not work here: {error!r}") from error
        if not len(probabilities):
            raise ModelError("the models do not work here: no face is found in a portrait")

    def _crops(
        self,
        pictures: Sequence[FramePicture],
        found: Sequence[Detections],
        detected: Sequence[bool],
    ) -> Crops:
        """The faces of all pictures as the classifier takes them.

        Args:
            detected: for each picture whether all of it was searched.
        """
        model = self._classifier
        form = Form(model.size, model.margin, model.colour)
        # Where half has the pixels, it changes an answer as little as a box moved by one.
        needed = max(each.size / (1 + each.margin) for each in (form, JUDGED))

        def view(i: int) -> tuple[Image, Boxes]:
            boxes = found[i].boxes
            # A crop of what is there costs no more than one of its half.
            there = self._cropper.has_searched and detected[i]
            scale: Scale = 1 if there else pictures[i].scale_for(smallest(boxes), needed)
            return pictures[i].at(scale), boxes / scale

        views = self.cores.map(view, [i for i, faces in enumerate(found) if len(faces)])
        return self._cropper.cut([image for image, _ in views], [some for _, some in views], form)

    def _readings(self, memory: Memory) -> Readings:
        """What is known of the expressions; another model's answers are not to be averaged."""
        if memory.classifier != self._classifier.info.digest:
            return {}
        many = len(self._classifier.labels)
        return {i: one for i, one in memory.readings.items() if len(one.raw) == many}

    def _read(
        self,
        look: Look,
        asked: Bools,
        before: Readings,
        judged: Iterator[tuple[list[float], float]],
    ) -> tuple[tuple[Face, ...], Readings]:
        """The faces of one look, and the feed's readings after it.

        ``judged``: for each face that the classifier was asked about, its answer and the quality.
        """
        after = {t.id: before[t.id] for t in look.tracks.known if t.id in before}
        faces = []
        for i, track in enumerate(look.ids.tolist()):
            if asked[i]:
                answer, fit = next(judged)
                after[track] = read(
                    after.get(track), answer, look.view.seconds,
                    quality=fit, smooth_s=self._settings.smooth_s,
                )  # fmt: skip
                faces.append(self._face(look, i, after[track], fit))
            else:
                after[track] = replace(after[track], skipped=after[track].skipped + 1)
                faces.append(self._face(look, i, after[track], None))
        return tuple(faces), after

    def _face(self, look: Look, i: int, reading: Reading, fit: float | None) -> Face:
        """``fit``: the face's quality; None if it was not classified in this look."""
        model, found = self._classifier, look.faces
        shares = reading.smoothed or reading.raw
        left, top, right, bottom = found.boxes[i].tolist()
        return Face(
            track_id=int(look.ids[i]),
            box=(left, top, right, bottom),
            score=float(found.scores[i]),
            landmarks=tuple((x, y) for x, y in found.landmarks[i].tolist()),
            raw=dict(zip(model.labels, reading.raw, strict=True)),
            label=model.labels[reading.label],
            uncertain=max(shares) < model.uncertain_below,
            source="detected" if look.fresh[i] else "tracked",
            classified=fit is not None,
            smoothed=dict(zip(model.labels, reading.smoothed, strict=False)),
            quality=fit,
        )

    def _event(self, shot: Shot, faces: tuple[Face, ...]) -> FrameEvent:
        frame, picture = shot.frame, shot.picture
        return FrameEvent(
            feed=frame.feed,
            frame_id=shot.frame_id,
            session=frame.session,
            sequence=frame.sequence,
            captured_at=frame.captured_at,
            ingested_at=time_of_id(shot.frame_id),
            pts_seconds=float(frame.pts * frame.time_base),
            width=picture.width,
            height=picture.height,
            faces=faces,
            detector=self._detector.info,
            classifier=self._classifier.info,
        )


def _memories(shots: Sequence[Shot]) -> dict[int, Memory]:
    """By the number that stands for the feed in its views."""
    return {id(shot.memory): shot.memory for shot in shots}


def _asked(looks: Sequence[Look], before: dict[int, Readings], every: int) -> list[Bools]:
    """Which faces of each look the classifier is asked about: each track on every so many frames.

    ``before``: the readings of each feed before its first look.
    """
    skipped = {(f, i): reading.skipped for f, some in before.items() for i, reading in some.items()}
    asked = []
    for look in looks:
        tracks = [(look.view.feed, track) for track in look.ids.tolist()]
        asked.append(np.array([skipped.get(t, every) + 1 >= every for t in tracks], bool))
        for track, now in zip(tracks, asked[-1].tolist(), strict=True):
            skipped[track] = 0 if now else skipped[track] + 1
    return asked
