"""Where the faces of a batch of frames are: detected in some, followed in those between.

The frames of one feed depend on each other, as each is looked at where its faces were before, so
the batch goes in waves: one frame of each feed at a time. Which frames are due for full detection
mostly does not depend on faces: these are detected together, before the first wave.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from worker.detect.mtcnn import FaceDetector, runs
from worker.detect.schedule import Due, Schedule, advance, thumbnail
from worker.detect.track import Tracks
from worker.records import Detections, Image

Ints = npt.NDArray[np.int64]

_YOUNG_S = 1.0
"""Age up to which a track is no sign that the scene is well known."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is remembered of one feed's pictures, after one of its frames."""

    schedule: Schedule = field(default_factory=Schedule)
    tracks: Tracks = field(default_factory=Tracks)


@dataclass(frozen=True, slots=True)
class View:
    """A frame to be looked at."""

    feed: int
    """Any number that tells feeds apart; the views of one feed stand in their order."""
    image: Image
    seconds: float
    """Its time on the feed's own clock."""
    live: bool
    """Whether the feed's detection may be put off while nothing moves or the worker is busy."""
    phase: int = 0
    """Where in its interval a live feed begins, modulo the interval."""


@dataclass(slots=True, eq=False)
class Look:
    """What has been found in one view."""

    view: View
    schedule: Schedule
    due: Due
    detected: bool = False
    """By the full detector; otherwise known faces were followed."""
    faces: Detections = field(default_factory=Detections.none)
    ids: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,): the faces' tracks."""
    tracks: Tracks = field(default_factory=Tracks)
    """After this view."""


class Finder:
    """Detects and follows faces; holds no state of a feed."""

    def __init__(
        self, detector: FaceDetector, every: int, alive: Callable[[], None] = lambda: None
    ) -> None:
        """``every``: full detection on every so many frames of a feed; 1: on each.

        ``alive`` is called now and then in a long search, as a sign of life.
        """
        self._detector = detector
        self._every = every
        self._alive = alive

    def detect(
        self, views: Sequence[View], before: Mapping[int, Sight], *, busy: float = 0.0
    ) -> list[Look]:
        """Begin the search: full detection in the views that are due for it.

        Args:
            before: what is remembered of each feed.
            busy: the share of its time that the worker works, 0 to 1.
        """
        schedules = {feed: sight.schedule for feed, sight in before.items()}
        looks = []
        for view in views:
            schedule, due = advance(
                schedules[view.feed], thumbnail(view.image), view.seconds,
                every=self._every, live=view.live, phase=view.phase, busy=busy,
            )  # fmt: skip
            schedules[view.feed] = schedule
            looks.append(Look(view, schedule, due))
        self._detect_in([look for look in looks if look.due.detection])
        return looks

    def follow(self, looks: list[Look], before: Mapping[int, Sight]) -> None:
        """End the search that ``detect`` began: follow the known faces in the other views.

        Where one that was seen in the frame before is not seen any more, full detection follows at
        once, and where none is known, midway between the frames that are due.
        """
        tracks = {feed: sight.tracks for feed, sight in before.items()}
        for wave in _waves(looks):
            unseen = self._follow_in([look for look in wave if not look.detected], tracks)
            self._detect_in(unseen)
            for look in wave:
                known = tracks[look.view.feed]
                if look.detected:
                    known = known.ended() if look.due.cut else known
                    look.tracks, look.ids = known.after(look.faces, look.view.seconds)
                tracks[look.view.feed] = look.tracks

    def _detect_in(self, looks: list[Look]) -> None:
        """Few large pictures at a time: each call is a sign of life."""
        images = [look.view.image for look in looks]
        found: list[Detections] = []
        for some in runs(images):
            found += self._detector.detect(images[some])
            self._alive()
        for look, faces in zip(looks, found, strict=True):
            look.detected, look.faces = True, faces

    def _follow_in(self, wave: list[Look], tracks: Mapping[int, Tracks]) -> list[Look]:
        """Follow the known faces, one view a feed; the views that need detection come back."""
        expected = [tracks[look.view.feed].expected(look.view.seconds) for look in wave]
        some = [i for i, boxes in enumerate(expected) if len(boxes)]
        found = [Detections.none()] * len(wave)
        if some:
            images = [wave[i].view.image for i in some]
            answers = self._detector.follow(images, [expected[i] for i in some])
            for i, (_, faces) in zip(some, answers, strict=True):
                found[i] = faces
            self._alive()
        unseen = []
        for look, faces in zip(wave, found, strict=True):
            known = tracks[look.view.feed]
            after, ids = known.after(faces, look.view.seconds, begin=False)
            missed = {track.id for track in known.visible}.difference(ids.tolist())
            if (missed and not look.due.patient) or (look.due.midway and not _settled(known, look)):
                unseen.append(look)
            else:
                look.tracks, look.ids, look.faces = after, ids[ids > 0], faces.pick(ids > 0)
        return unseen


def _settled(known: Tracks, look: Look) -> bool:
    """Whether there are faces, and a full interval can pass without another being looked for.

    A live feed's interval may be long: not where one has just come, or gone out of sight.
    """
    if not look.view.live:
        return bool(known.visible)
    young = any(look.view.seconds - track.born < _YOUNG_S for track in known.known)
    return bool(known.visible) and not young and len(known.visible) == len(known.known)


def _waves(looks: Sequence[Look]) -> Iterator[list[Look]]:
    """The first look of each feed, then the second of each that has one, and so on."""
    by_feed = defaultdict(list)
    for look in looks:
        by_feed[look.view.feed].append(look)
    for wave in zip_longest(*by_feed.values()):
        yield [look for look in wave if look is not None]
