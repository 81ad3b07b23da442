"""Who is asked for what: detection where it is due, following between, detection for the lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest

import worker.detect.find as find
from tests.pictures import reducible
from worker.detect.boxes import halved
from worker.detect.find import Finder, Look, View
from worker.detect.mtcnn import FaceDetector
from worker.detect.schedule import Schedule
from worker.detect.track import Tracks
from worker.picture import FramePicture, Scale
from worker.records import Detections, Floats, Image

Boxes = Sequence[tuple[float, float, float, float]]

LARGE = 80
"""Side of the faces that a glance sees, at half the size; ``A`` and ``B`` are smaller."""

C = (60.0, 0.0, 145.0, 85.0)
A, B = (20.0, 20.0, 60.0, 60.0), (100.0, 20.0, 140.0, 60.0)


def faces(boxes: Boxes) -> Detections:
    n = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(n, np.float32),
        np.zeros((n, 5, 2), np.float32),
    )


def _in_half(boxes: Boxes) -> Boxes:
    return [tuple(box) for box in halved(np.array(boxes, np.float32).reshape(-1, 4)).tolist()]


def picture(scene: int = 1, scale: int = 60) -> Image:
    """By default so large that two windows cost less than all of it."""
    patches = np.random.default_rng(scene).integers(0, 256, (9, 16, 3), np.uint8)
    return np.ascontiguousarray(patches.repeat(scale, 0).repeat(scale, 1))


class Scripted:
    """A detector that knows what pictures show; ``hidden`` faces cannot be followed."""

    def __init__(self) -> None:
        self.shows: dict[int, Boxes] = {}
        self.hidden: dict[int, Boxes] = {}
        self.detected: list[int] = []
        self.followed: list[int] = []
        self.glanced: list[int] = []
        self.searched: list[int] = []
        self.calls = 0

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        self.calls += bool(images)
        self.detected += map(id, images)
        return [faces([*self.shows.get(id(i), ()), *self.hidden.get(id(i), ())]) for i in images]

    def glance(self, images: Sequence[Image]) -> list[Detections]:
        self.glanced += map(id, images)
        found = [[*self.shows.get(id(i), ()), *self.hidden.get(id(i), ())] for i in images]
        return [faces([box for box in some if box[2] - box[0] >= LARGE / 2]) for some in found]

    def follow(self, images: Sequence[Image], boxes: Sequence[Floats]) -> list[Detections]:
        self.followed += map(id, images)
        found = []
        for image, expected in zip(images, boxes, strict=True):
            near = [
                box
                for box in self.shows.get(id(image), ())
                if any(np.abs(np.array(box) - one).max() < 20 for one in expected)
            ]
            found.append(faces(near))
        return found

    def near(self, pictures: Sequence[FramePicture], boxes: Floats) -> list[Detections]:
        """As ``detect_near``, which looks at windows: those would have to be told apart."""
        images = [picture.whole for picture in pictures]
        self.searched += map(id, images)
        return [
            faces([one for one in self.shows[id(i)] if np.abs(np.array(one) - box).max() < 40])
            for i, box in zip(images, boxes, strict=True)
        ]


@pytest.fixture(autouse=True)
def _scripted_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        find, "detect_near", lambda detector, pictures, boxes, _: detector.near(pictures, boxes)
    )


class Stage:
    """Feeds whose frames come at 25 a second, and a finder that is told of them."""

    def __init__(self, every: int = 4, *, min_face: float = 40, large_jpegs: bool = False) -> None:
        self.detector = Scripted()
        self.finder = Finder(cast(FaceDetector, self.detector), every, min_face=min_face)
        self.schedules: dict[int, Schedule] = {}
        self.tracks: dict[int, Tracks] = {}
        self.frames: dict[int, int] = {}
        self.large_jpegs = large_jpegs
        self.made: list[list[Scale]] = []
        """At which scales each picture of large JPEGs was made."""
        self.pictures: list[Image] = []
        """Kept, so that each has an id of its own."""

    def view(
        self,
        feed: int,
        shows: Boxes = (),
        *,
        scene: int = 1,
        hidden: Boxes = (),
        live: bool = False,
        scale: int = 60,
    ) -> View:
        image = picture(scene, scale)
        seen = FramePicture.of(image)
        if self.large_jpegs:
            seen, made = reducible(image)
            seen.at(2)
            self.made.append(made)
        self.pictures += [image, seen.half]
        for script, boxes in ((self.detector.shows, shows), (self.detector.hidden, hidden)):
            script[id(image)], script[id(seen.half)] = boxes, _in_half(boxes)
        self.frames[feed] = self.frames.get(feed, 0) + 1
        return View(feed, seen, self.frames[feed] / 25, live)

    def find(self, *views: View, busy: float = 0.0) -> list[Look]:
        feeds = {view.feed for view in views}
        schedules = {feed: self.schedules.get(feed, Schedule()) for feed in feeds}
        tracks = {feed: self.tracks.get(feed, Tracks()) for feed in feeds}
        looks = self.finder.follow(self.finder.detect(views, schedules, busy=busy), tracks)
        for look in looks:
            self.schedules[look.view.feed] = look.schedule
            self.tracks[look.view.feed] = look.tracks
        return looks


def test_between_detections_known_faces_are_followed() -> None:
    stage = Stage(every=4)
    looks = stage.find(*(stage.view(1, [A, B]) for _ in range(9)))
    assert [look.detected for look in looks] == [i % 4 == 0 for i in range(9)]
    assert [look.ids.tolist() for look in looks] == [[1, 2]] * 9
    assert len(stage.detector.detected) == 3
    assert len(stage.detector.followed) == 6


def test_frames_that_are_due_are_detected_together_over_feeds_and_time() -> None:
    stage = Stage(every=2)
    stage.find(*(stage.view(feed, [A]) for feed in (1, 2, 3) for _ in range(4)))
    assert len(stage.detector.detected) == 6
    assert stage.detector.calls == 1


def test_a_face_that_is_lost_is_found_near_on_the_same_frame() -> None:
    stage = Stage(every=10)
    jumped = (50.0, 30.0, 90.0, 70.0)
    looks = stage.find(
        stage.view(1, [A, B]), stage.view(1, [A, B]), stage.view(1, [jumped, B, (40, 100, 80, 140)])
    )
    assert [look.detected for look in looks] == [True, False, False]
    assert stage.detector.searched == [id(looks[2].view.picture.whole)]
    # The known one is not told twice, and who is new there waits for the next full detection.
    by_id = dict(zip(looks[2].ids.tolist(), looks[2].faces.boxes.tolist(), strict=True))
    assert by_id == {1: list(jumped), 2: list(B)}
    assert not looks[2].fresh.any()


def test_several_that_are_lost_are_searched_for_at_once_in_all_feeds() -> None:
    stage = Stage(every=10)
    moved: list[tuple[float, float, float, float]] = [(50, 30, 90, 70), (130, 20, 170, 60)]
    stage.find(*(stage.view(feed, [A, B]) for feed in (1, 2)))
    looks = stage.find(*(stage.view(feed, moved) for feed in (1, 2)))
    assert [sorted(look.ids.tolist()) for look in looks] == [[1, 2]] * 2
    images = [id(look.view.picture.whole) for look in looks]
    assert stage.detector.searched == [images[0]] * 2 + [images[1]] * 2


def test_where_windows_would_cost_more_the_whole_picture_is_searched() -> None:
    stage = Stage(every=10)
    moved: list[tuple[float, float, float, float]] = [(50, 30, 90, 70), (130, 20, 170, 60)]
    looks = stage.find(stage.view(1, [A, B], scale=10), stage.view(1, moved, scale=10))
    assert [look.detected for look in looks] == [True, True]
    assert sorted(looks[1].ids.tolist()) == [1, 2]
    assert stage.detector.searched == []


def test_a_face_that_stays_lost_is_searched_for_more_and_more_rarely() -> None:
    stage = Stage(every=20)
    shown: list[Boxes] = [[A, B]] * 2 + [[A]] * 9
    looks = stage.find(*(stage.view(1, boxes) for boxes in shown))
    assert [look.detected for look in looks] == [True] + [False] * 10
    assert [look.ids.tolist() for look in looks[2:]] == [[1]] * 9
    assert stage.detector.searched == [id(looks[i].view.picture.whole) for i in (2, 3, 5, 9)]


def test_where_searches_begin_does_not_depend_on_batches() -> None:
    shown: list[Boxes] = [[A, B], [A], [A], [(50, 30, 90, 70)], [], [A], [A, B], [B]]
    together, one_by_one = Stage(every=20), Stage(every=20)
    looks = together.find(*(together.view(1, boxes) for boxes in shown))
    others = [one_by_one.find(one_by_one.view(1, boxes))[0] for boxes in shown]
    assert [look.ids.tolist() for look in looks] == [look.ids.tolist() for look in others]
    assert looks[-1].tracks == others[-1].tracks
    assert len(together.detector.searched) == len(one_by_one.detector.searched) > 0


def test_a_short_occlusion_keeps_the_id_without_detection() -> None:
    stage = Stage(every=20)
    shown: list[Boxes] = [[A, B], [A, B], [A], [A], [A, B]]
    looks = stage.find(*(stage.view(1, boxes) for boxes in shown))
    assert looks[4].ids.tolist() == [1, 2]
    assert not looks[4].detected


def test_a_large_face_that_is_new_is_found_by_a_glance() -> None:
    stage = Stage(every=12)
    shown: list[Boxes] = [[A]] * 3 + [[A, C]] * 6
    looks = stage.find(*(stage.view(1, boxes) for boxes in shown))
    assert [look.detected for look in looks] == [True] + [False] * 8
    assert [look.ids.tolist() for look in looks] == [[1]] * 4 + [[1, 2]] * 5
    # What was known is followed there as everywhere; what continues a track is not found anew.
    assert looks[4].fresh.tolist() == [False, True]
    assert not any(look.fresh.any() for look in looks[5:])
    assert stage.detector.glanced == [id(looks[i].view.picture.half) for i in (4, 8)]


def test_a_small_face_that_is_new_waits_for_full_detection() -> None:
    stage = Stage(every=12)
    looks = stage.find(stage.view(1, [A]), *(stage.view(1, [A, B]) for _ in range(12)))
    assert [look.ids.tolist() for look in looks] == [[1]] * 12 + [[1, 2]]


def test_a_busy_worker_does_not_search_at_once_for_the_lost_of_live_feeds() -> None:
    for live, expected in ((True, []), (False, [2, 3, 5])):
        stage = Stage(every=10)
        views = [stage.view(1, [A, B], live=live) for _ in range(2)]
        views += [stage.view(1, [A], live=live) for _ in range(6)]
        looks = stage.find(*views, busy=0.8)
        assert stage.detector.searched == [id(looks[i].view.picture.whole) for i in expected]


def test_a_scene_cut_brings_detection_and_new_ids() -> None:
    stage = Stage(every=10)
    looks = stage.find(
        stage.view(1, [A]),
        stage.view(1, [A]),
        stage.view(1, [A], scene=2),
        stage.view(1, [A], scene=2),
    )
    assert [look.detected for look in looks] == [True, False, True, False]
    assert [look.ids.tolist() for look in looks] == [[1], [1], [2], [2]]


def test_every_frame_is_detected_and_none_followed_when_asked_for() -> None:
    stage = Stage(every=1)
    looks = stage.find(*(stage.view(1, [A], hidden=[B], live=live) for live in (False, True) * 3))
    assert all(look.detected for look in looks)
    assert stage.detector.followed == []
    assert [look.ids.tolist() for look in looks] == [[1, 2]] * 6


def test_what_only_the_detector_sees_is_there_on_its_frames_and_keeps_its_id() -> None:
    stage = Stage(every=3)
    looks = stage.find(*(stage.view(1, [A], hidden=[B]) for _ in range(7)))
    seen = [look.ids.tolist() for look in looks]
    assert seen[0] == seen[3] == seen[6] == [1, 2]


def test_a_search_leaves_what_it_was_given_as_it_was() -> None:
    stage = Stage()
    schedules, tracks = {1: Schedule()}, {1: Tracks()}
    views = [stage.view(1, [A]) for _ in range(6)]
    for _ in range(2):
        looks = stage.finder.detect(views, schedules)
        assert schedules == {1: Schedule()}
        for _ in range(2):
            followed = stage.finder.follow(looks, tracks)
            assert followed[-1].tracks.next_id == 2
            assert followed[-1].ids.tolist() == [1]
        assert tracks == {1: Tracks()}
        assert [look.tracks for look in looks] == [Tracks()] * 6


def test_the_search_shows_signs_of_life() -> None:
    stage, signs = Stage(), []
    detector = cast(FaceDetector, stage.detector)
    stage.finder = Finder(detector, 4, min_face=40, alive=lambda: signs.append(1))
    stage.find(*(stage.view(1, [A]) for _ in range(4)))
    assert len(signs) == 4


LARGE_FACE = (20.0, 20.0, 120.0, 120.0)
WALKED = (35.0, 20.0, 135.0, 120.0)


def whole(stage: Stage) -> list[int]:
    """Which of the pictures were made whole."""
    return [i for i, made in enumerate(stage.made) if 1 in made]


def test_large_faces_are_followed_at_half_the_size() -> None:
    stage = Stage(12, large_jpegs=True)
    shown: list[Boxes] = [[LARGE_FACE], [WALKED], [LARGE_FACE], [WALKED]]
    looks = stage.find(*(stage.view(1, boxes) for boxes in shown))
    assert [look.faces.boxes.tolist() for look in looks] == [[list(box)] for (box,) in shown]
    assert [look.ids.tolist() for look in looks] == [[1]] * 4
    assert whole(stage) == [0], "only where all faces are searched for"


def test_a_small_face_makes_the_picture_whole_as_long_as_it_is_seen() -> None:
    stage = Stage(12, large_jpegs=True)
    small = (200.0, 20.0, 240.0, 60.0)
    shown: list[Boxes] = [[small, LARGE_FACE]] * 3 + [[LARGE_FACE]] * 4
    looks = stage.find(*(stage.view(1, boxes) for boxes in shown))
    assert [len(look.ids) for look in looks] == [2, 2, 2, 1, 1, 1, 1]
    # It is lost on the fourth, and searched for there, on the next and on the seventh.
    assert whole(stage) == [0, 1, 2, 3, 4, 6]


def test_a_glance_is_at_half_the_size() -> None:
    stage = Stage(12, large_jpegs=True)
    looks = stage.find(*(stage.view(1, [LARGE_FACE] if i > 1 else []) for i in range(7)))
    assert [look.ids.tolist() for look in looks] == [[]] * 4 + [[1]] * 3
    assert looks[4].faces.boxes.tolist() == [list(LARGE_FACE)]
    assert whole(stage) == [0]
