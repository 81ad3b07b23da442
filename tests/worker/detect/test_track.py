"""Tracks: who is who, from frame to frame and from worker to worker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.detect.track import Tracks
from worker.records import Detections

Place = tuple[float, float]


def faces(*places: Place, side: float = 60) -> Detections:
    """Detections of one side at centres ``places``."""
    boxes = np.array([[x - side / 2, y - side / 2, x + side / 2, y + side / 2] for x, y in places])
    n = len(places)
    return Detections(
        boxes.reshape(-1, 4).astype(np.float32),
        np.full(n, 0.99, np.float32),
        np.zeros((n, 5, 2), np.float32),
    )


class Feed:
    """The tracks of one feed, moved on frame by frame."""

    def __init__(self, tracks: Tracks | None = None) -> None:
        self.tracks = tracks or Tracks()

    def see(self, found: Detections, seconds: float, *, begin: bool = True) -> list[int]:
        self.tracks, ids = self.tracks.after(found, seconds, begin=begin)
        return [int(i) for i in ids]

    def run(
        self, frames: Iterable[Detections], *, rate: float = 25.0, start: float = 0.0
    ) -> list[list[int]]:
        return [self.see(found, start + i / rate) for i, found in enumerate(frames)]

    def restored(self) -> Feed:
        return Feed(Tracks.unpacked(json.loads(json.dumps(self.tracks.packed()))))


def test_ids_begin_at_one_and_stay_with_moving_faces() -> None:
    frames = [faces((100 + 4 * i, 100), (500, 300 - 3 * i)) for i in range(40)]
    assert Feed().run(frames) == [[1, 2]] * 40


def test_ids_do_not_depend_on_the_order_of_the_faces() -> None:
    rng = np.random.default_rng(0)
    feed = Feed()
    feed.see(faces((100, 100), (300, 100), (500, 100)), 0)
    for i in range(1, 30):
        order = rng.permutation(3)
        places = [((100, 300, 500)[k] + 2 * i, 100) for k in order]
        assert feed.see(faces(*places), i / 25) == (order + 1).tolist()


def test_ids_are_int64_and_none_for_no_faces() -> None:
    _, ids = Tracks().after(Detections.none(), 0)
    assert ids.dtype == np.int64
    assert ids.shape == (0,)


def test_a_trembling_face_keeps_its_id() -> None:
    rng = np.random.default_rng(1)
    frames = [faces(*(rng.normal((200, 200), 3, (1, 2)))) for _ in range(100)]
    assert Feed().run(frames) == [[1]] * 100


def test_each_of_a_crowd_keeps_its_id() -> None:
    rng = np.random.default_rng(2)
    places = np.array([(70 * column, 70 * row) for row in range(6) for column in range(8)], float)
    ids = Feed().run(faces(*(places + rng.normal(0, 6, places.shape))) for _ in range(30))
    assert ids == [list(range(1, 49))] * 30


def test_a_narrow_face_that_slips_sideways_keeps_its_id() -> None:
    # Less than its side away, though more than its width.
    feed = Feed()
    for i, left in enumerate((100.0, 130.0)):
        box = np.array([[left, 100, left + 20, 220]], np.float32)
        found = Detections(box, np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32))
        assert feed.see(found, i / 25) == [1]


def test_a_small_fast_face_keeps_its_id() -> None:
    # It moves by more than half its side each frame, so its boxes hardly overlap.
    frames = [faces((50 + 14 * i, 80), side=20) for i in range(20)]
    assert Feed().run(frames, rate=10) == [[1]] * 20


def test_short_occlusion_keeps_the_id_and_a_long_one_does_not() -> None:
    feed = Feed()
    assert feed.see(faces((100, 100)), 0.0) == [1]
    assert feed.see(Detections.none(), 0.5) == []
    assert feed.see(faces((105, 100)), 0.9) == [1]
    assert feed.see(Detections.none(), 1.5) == []
    assert feed.see(faces((105, 100)), 2.0) == [2]


def test_a_moving_face_is_met_again_behind_what_hid_it() -> None:
    # 200 px/s for a second, hidden for 0.4 s: by then it is more than its side away.
    frames = [faces((100 + 8 * i, 100), side=50) for i in range(45)]
    frames[25:35] = [Detections.none()] * 10
    ids = Feed().run(frames)
    assert {i for frame in ids for i in frame} == {1}


def test_two_faces_that_cross_keep_their_ids() -> None:
    frames = []
    for i in range(61):
        a, b = (100 + 6 * i, 100), (460 - 6 * i, 110)
        # The nearer one hides the other while they overlap much.
        frames.append(faces(a) if abs(a[0] - b[0]) < 30 else faces(a, b))
    ids = Feed().run(frames)
    assert ids[0] == [1, 2]
    assert ids[-1] == [1, 2]
    assert {i for frame in ids for i in frame} == {1, 2}


def test_a_new_face_beside_a_known_one_is_new() -> None:
    feed = Feed()
    feed.see(faces((100, 100)), 0)
    assert feed.see(faces((170, 100), (101, 100)), 0.04) == [2, 1]


def test_a_face_of_quite_another_size_is_new() -> None:
    feed = Feed()
    feed.see(faces((100, 100), side=30), 0)
    assert feed.see(faces((100, 100), side=90), 0.04) == [2]


def test_a_followed_face_that_continues_no_track_is_nobodys() -> None:
    feed = Feed()
    feed.see(faces((100, 100)), 0)
    assert feed.see(faces((101, 100), (400, 300)), 0.04, begin=False) == [1, 0]
    assert feed.see(faces((400, 300)), 0.08) == [2]


def test_a_face_is_expected_where_its_movement_leads() -> None:
    feed = Feed()
    feed.run([faces((100 + 8 * i, 100)) for i in range(25)])
    (box,) = feed.tracks.expected(25 / 25)
    assert box.tolist() == pytest.approx([100 + 200 - 30, 70, 100 + 200 + 30, 130], abs=2)


def test_a_hidden_face_is_expected_for_as_long_as_its_track_lasts() -> None:
    feed = Feed()
    feed.see(faces((100, 100)), 0.0)
    feed.see(Detections.none(), 0.5)
    assert all(track.hidden for track in feed.tracks.known)
    assert len(feed.tracks.expected(0.9)) == 1
    assert len(feed.tracks.expected(1.1)) == 0


def test_a_face_that_is_lost_is_worth_a_search_at_once_and_then_more_and_more_rarely() -> None:
    feed = Feed()
    for i in (-1, 0):
        feed.see(faces((100, 100), (300, 100)), i / 25)
    searched = []
    for i in range(1, 20):
        before = feed.tracks
        ids = feed.see(faces((300, 100)), i / 25)
        searched.append(len(before.missing(np.array(ids), i / 25)))
    assert [i for i, count in enumerate(searched, 1) if count] == [1, 2, 4, 8, 16]
    assert max(searched) == 1


def test_a_face_hidden_by_one_that_is_seen_is_not_looked_for_there() -> None:
    feed = Feed()
    feed.see(faces((280, 100), (300, 100)), 0.0)
    assert feed.see(faces((299, 100)), 0.04) == [2]
    assert len(feed.tracks.known) == 2
    assert len(feed.tracks.expected(0.08)) == 1


def test_after_a_cut_nobody_continues_and_no_id_comes_back() -> None:
    feed = Feed()
    feed.see(faces((100, 100)), 0)
    feed.tracks = feed.tracks.ended()
    assert len(feed.tracks.expected(0.04)) == 0
    assert feed.see(faces((100, 100)), 0.04) == [2]


def test_ids_are_never_used_again() -> None:
    feed, seen = Feed(), set()
    for i in range(50):
        (new,) = feed.see(faces((100, 100)), 5.0 * i)
        assert new not in seen
        seen.add(new)
        feed = feed.restored()
    assert seen == set(range(1, 51))


def test_a_clock_that_went_back_begins_new_tracks() -> None:
    feed = Feed()
    feed.see(faces((100, 100)), 100.0)
    assert feed.see(faces((100, 100)), 0.0) == [2]
    assert feed.see(faces((100, 100)), 0.0) == [2]


def test_where_the_clock_stands_still_tracks_end_all_the_same() -> None:
    feed = Feed()
    for i in range(400):
        feed.see(faces((200 * i, 100)), 5.0)
    assert len(feed.tracks.known) == 301
    assert feed.see(faces((200 * 399, 100)), 5.0) == [400]


def walk(count: int, seed: int) -> Iterator[Detections]:
    """Faces that wander, come and go."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 600, (6, 2))
    for _ in range(count):
        places += rng.normal(0, 9, places.shape)
        yield faces(*places[rng.random(6) < 0.8])


def test_restored_tracks_go_on_exactly_as_the_first_would_have() -> None:
    frames = list(walk(80, 3))
    first = Feed()
    first.run(frames[:40])
    second = first.restored()
    assert second.tracks == first.tracks
    assert second.run(frames[40:], start=1.6) == first.run(frames[40:], start=1.6)
    assert second.tracks == first.tracks


coordinates = st.floats(-50, 700, width=32)
sides = st.floats(0, 200, width=32)


@st.composite
def anything(draw: st.DrawFn) -> Detections:
    """Boxes anywhere, of any size, on top of each other, or none."""
    rows = draw(st.lists(st.tuples(coordinates, coordinates, sides, sides), max_size=5))
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float32).reshape(-1, 4)
    n = len(boxes)
    return Detections(boxes, np.ones(n, np.float32), np.zeros((n, 5, 2), np.float32))


steps = st.tuples(anything(), st.sampled_from([0.0, 0.04, 0.5, 1.5, -3.0]), st.booleans())


@given(st.lists(steps, max_size=12))
def test_whatever_comes_ids_are_one_face_each_and_survive_a_change_of_worker(
    frames: list[tuple[Detections, float, bool]],
) -> None:
    feed, seconds, newest = Feed(), 10.0, 0
    for found, gap, begin in frames:
        seconds += gap
        other = feed.restored()
        ids = feed.see(found, seconds, begin=begin)
        assert other.see(found, seconds, begin=begin) == ids
        assert other.tracks == feed.tracks
        given_out = [i for i in ids if i]
        assert len(set(given_out)) == len(given_out)
        assert not begin or 0 not in ids
        new = [i for i in given_out if i > newest]
        assert begin or not new
        assert new == list(range(newest + 1, newest + 1 + len(new)))
        newest += len(new)
        assert {track.id for track in feed.tracks.known if not track.hidden} == set(given_out)
        assert np.isfinite(feed.tracks.expected(seconds + 0.04)).all()


def test_no_id_occurs_twice_in_a_frame() -> None:
    for ids in Feed().run(walk(200, 4)):
        assert len(set(ids)) == len(ids)


def test_packed_tracks_are_compact() -> None:
    feed = Feed()
    feed.run(walk(50, 5))
    packed = feed.tracks.packed()
    assert len(json.dumps(packed)) < 110 * (1 + len(feed.tracks.known))


@pytest.mark.parametrize(
    "content",
    [
        None,
        3,
        [],
        {},
        [0],
        ["7"],
        [True],
        [2, 7],
        [2, [1, 0, 0, 9, 9, 0, 0, 0]],
        [2, [1, 0, 0, 9, 9, 0, 0, 0, "now"]],
        [2, [1, 0, 0, 9, 9, 0, 0, 0, float("nan")]],
        [2, [1, 0, 0, 9, 9, 0, 0, 0, 0, 0.5]],
        [2, [2, 0, 0, 9, 9, 0, 0, 0, 0]],
        [3, [1, 0, 0, 9, 9, 0, 0, 0, 0], [1, 0, 0, 9, 9, 0, 0, 0, 0]],
    ],
)
def test_what_was_never_packed_is_refused(content: object) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)):
        Tracks.unpacked(content)


def test_what_an_earlier_worker_saved_goes_on_with_its_ids() -> None:
    """It saved whether a face was hidden, not for how many frames."""
    feed = Feed()
    feed.see(faces((100, 100), (300, 100)), 0.0)
    feed.see(faces((100, 100)), 0.04)
    next_id, *known = feed.tracks.packed()
    earlier = Tracks.unpacked([next_id, *([*track[:-1], bool(track[-1])] for track in known)])
    assert Feed(earlier).see(faces((100, 100), (300, 100), (500, 100)), 0.08) == [1, 2, 3]


def test_who_was_seen_once_is_not_looked_for_for_long_and_keeps_the_id() -> None:
    once, twice = Feed(), Feed()
    once.see(faces((100, 100)), 0.04)
    twice.see(faces((100, 100)), 0.0)
    twice.see(faces((100, 100)), 0.04)
    looked = []
    for i in range(2, 7):
        looked.append([len(feed.tracks.expected(i / 25)) for feed in (once, twice)])
        for feed in (once, twice):
            feed.see(faces(), i / 25)
    assert looked == [[1, 1], [1, 1], [0, 1], [0, 1], [0, 1]]
    assert not len(once.tracks.missing(np.zeros(0, np.int64), 7 / 25))
    assert once.see(faces((100, 100)), 8 / 25) == [1]
    assert len(once.tracks.expected(9 / 25)) == 1


def test_the_smallest_face_is_one_that_was_seen() -> None:
    feed = Feed()
    assert feed.tracks.smallest == np.inf
    both = Detections.joined([faces((100, 100), side=40), faces((300, 100), side=80)])
    feed.see(both, 0.0)
    assert feed.tracks.smallest == 40
    feed.see(faces((300, 100), side=80), 0.04)
    assert feed.tracks.smallest == 80


@pytest.mark.parametrize(("gap", "ids"), [(0.9, [1, 1, 1]), (2.9, [1, 1, 1]), (3.1, [1, 2, 3])])
def test_ids_stay_in_a_feed_with_few_frames(gap: float, ids: list[int]) -> None:
    feed = Feed()
    assert [feed.see(faces((100 + 5 * i, 100)), gap * i) for i in range(3)] == [[i] for i in ids]


def test_a_face_that_was_missed_there_is_not_waited_for_as_long() -> None:
    feed = Feed()
    feed.see(faces((100, 100)), 0.0)
    feed.see(faces(), 1.1)
    assert feed.see(faces((100, 100)), 2.2) == [2]
