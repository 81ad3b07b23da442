"""Where the faces of a batch of frames are: detected in some, followed in those between.

The frames of one feed depend on each other, as each is looked at where its faces were before, so
the batch goes in waves: one frame of each feed at a time. Which frames are due for full detection,
or for a glance at large faces, mostly does not depend on faces: these are looked at together,
before the first wave.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from worker.cores import Cores
from worker.detect.boxes import doubled, halved
from worker.detect.mtcnn import Detector, runs
from worker.detect.near import detect_near, windows_worth
from worker.detect.nms import covered
from worker.detect.schedule import Due, Schedule, advance, thumbnail
from worker.detect.track import Tracks
from worker.picture import FramePicture
from worker.records import Detections

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_ON_FACE = 0.5
"""Overlap, in parts of the smaller box, from which two looks have found one face."""


@dataclass(frozen=True, slots=True)
class View:
    """A frame to be looked at."""

    feed: int
    """Any number that tells feeds apart; the views of one feed stand in their order."""
    picture: FramePicture
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
    glanced: Detections | None = None
    """The large faces that a glance saw, where it was due."""
    faces: Detections = field(default_factory=Detections.none)
    fresh: Bools = field(default_factory=lambda: np.zeros(0, bool))
    """(N,): whether each was found without knowing of it."""
    ids: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,): the faces' tracks."""
    tracks: Tracks = field(default_factory=Tracks)
    """After this view."""

    def add(self, faces: Detections, *, fresh: bool) -> None:
        """Faces that another search found: those that are not among the faces already.

        Args:
            fresh: whether it knew of none of them.
        """
        one, other = (np.zeros(len(some), np.int64) for some in (faces, self.faces))
        new = faces.pick(~covered(faces.boxes, one, self.faces.boxes, other, _ON_FACE))
        both = Detections.joined([self.faces, new])
        order = np.argsort(-both.scores, kind="stable")
        self.faces = both.pick(order)
        self.fresh = np.concatenate([self.fresh, np.full(len(new), fresh)])[order]


class Finder:
    """Detects and follows faces; holds no state of a feed."""

    def __init__(
        self,
        detector: Detector,
        every: int,
        *,
        min_face: float,
        cores: Cores | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Args:
        every: full detection on every so many frames of a feed; 1: on each.
        min_face: side of the smallest face that the detector finds, in pixels.
        cores: on which pictures are decoded side by side; None for one.
        alive: called now and then in a long search, as a sign of life.
        """
        self._detector = detector
        self._every = every
        self._min_face = min_face
        self._cores = cores or Cores()
        self._alive = alive

    def detect(
        self, views: Sequence[View], before: Mapping[int, Schedule], *, busy: float = 0.0
    ) -> list[Look]:
        """Begin the search: full detection, or a glance, in the views that are due for it.

        Args:
            before: each feed's schedule before its first view.
            busy: the share of its time that the worker works, 0 to 1.
        """
        schedules = dict(before)
        looks = []
        for view in views:
            schedule, due = advance(
                schedules[view.feed], thumbnail(view.picture), view.seconds,
                every=self._every, live=view.live, phase=view.phase, busy=busy,
            )  # fmt: skip
            schedules[view.feed] = schedule
            looks.append(Look(view, schedule, due))
        self._detect_in([look for look in looks if look.due.detection])
        glancing = [look for look in looks if look.due.glance]
        for look, faces in zip(glancing, self._glance_at(glancing), strict=True):
            look.glanced = faces
        return looks

    def follow(self, looks: Sequence[Look], before: Mapping[int, Tracks]) -> list[Look]:
        """End the search that ``detect`` began: follow the known faces in the other views.

        One that is lost sight of is searched for around where it should be, at once and, more and
        more rarely, while its track waits; one seen only once, on two frames. Where many are lost,
        the whole picture is searched.

        Args:
            looks: what ``detect`` gave; they stay as they are.
            before: each feed's tracks before its first view.
        """
        looks = [replace(look) for look in looks]
        tracks = dict(before)
        for wave in _waves(looks):
            self._follow_in([look for look in wave if not look.detected], tracks)
            for look in wave:
                known = tracks[look.view.feed]
                look.tracks, look.ids = _continued(known.ended() if look.due.cut else known, look)
            self._search_in([look for look in wave if not look.due.patient], tracks)
            for look in wave:
                seen = look.ids > 0
                look.faces, look.fresh = look.faces.pick(seen), look.fresh[seen]
                look.ids = look.ids[seen]
                tracks[look.view.feed] = look.tracks
        return looks

    def _detect_in(self, looks: list[Look]) -> None:
        """Few large pictures at a time: each call is a sign of life."""
        pictures = [look.view.picture for look in looks]
        found: list[Detections] = []
        for some in runs([picture.pixels for picture in pictures]):
            whole = self._cores.map(lambda picture: picture.whole, pictures[some])
            found += self._detector.detect(whole)
            self._alive()
        for look, faces in zip(looks, found, strict=True):
            look.detected, look.faces, look.fresh = True, faces, np.ones(len(faces), bool)

    def _glance_at(self, looks: list[Look]) -> list[Detections]:
        """At pictures of half the size: faces of twice the smallest size are seen, no others."""
        images = [look.view.picture.half for look in looks]
        found: list[Detections] = []
        for some in runs([image.shape[0] * image.shape[1] for image in images]):
            found += map(doubled, self._detector.glance(images[some]))
            self._alive()
        return found

    def _follow_in(self, wave: list[Look], tracks: Mapping[int, Tracks]) -> None:
        """Follow the known faces, one view a feed, and add those of a glance."""
        some = []
        for look in wave:
            known, seconds = tracks[look.view.feed], look.view.seconds
            if len(boxes := known.expected(seconds)):
                # Those lost, too, are looked for at that scale, and around their places at theirs.
                scale = look.view.picture.scale_for(known.smallest)
                some.append((look, boxes if scale == 1 else halved(boxes), scale))
        if some:
            images = [look.view.picture.at(scale) for look, _, scale in some]
            answers = self._detector.follow(images, [boxes for _, boxes, _ in some])
            for (look, _, scale), faces in zip(some, answers, strict=True):
                look.faces = faces if scale == 1 else doubled(faces)
                look.fresh = np.zeros(len(faces), bool)
            self._alive()
        for look in wave:
            if look.glanced is not None:
                look.add(look.glanced, fresh=True)

    def _search_in(self, wave: list[Look], tracks: Mapping[int, Tracks]) -> None:
        """Look around where known faces should be, and were not seen; everywhere for many."""
        missing = [
            (look, tracks[look.view.feed].missing(look.ids, look.view.seconds))
            for look in wave
            if not look.detected
        ]
        few = [
            (k, boxes)
            for k, boxes in missing
            if 0 < len(boxes) <= windows_worth(k.view.picture.pixels)
        ]
        many = [
            look for look, boxes in missing if len(boxes) > windows_worth(look.view.picture.pixels)
        ]
        self._detect_in(many)
        if few:
            searched = [look for look, boxes in few for _ in boxes]
            pictures = [look.view.picture for look in searched]
            lost = np.concatenate([boxes for _, boxes in few])
            found = detect_near(self._detector, pictures, lost, self._min_face)
            self._alive()
            for look, faces in zip(searched, found, strict=True):
                look.add(faces, fresh=False)
        for look in (*many, *(look for look, _ in few)):
            look.tracks, look.ids = _continued(tracks[look.view.feed], look)


def _continued(known: Tracks, look: Look) -> tuple[Tracks, Ints]:
    return known.after(look.faces, look.view.seconds, begin=look.fresh)


def _waves(looks: Sequence[Look]) -> Iterator[list[Look]]:
    """The first look of each feed, then the second of each that has one, and so on."""
    by_feed = defaultdict(list)
    for look in looks:
        by_feed[look.view.feed].append(look)
    for wave in zip_longest(*by_feed.values()):
        yield [look for look in wave if look is not None]
