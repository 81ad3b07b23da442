"""The tracker: who is who, from frame to frame and from worker to worker."""

import json

import numpy as np
import pytest

from worker.detect.track import Tracker
from worker.records import Detections


def faces(*places, side=60):
    """Detections of one side at centres ``places``."""
    boxes = np.array([[x - side / 2, y - side / 2, x + side / 2, y + side / 2] for x, y in places])
    n = len(places)
    return Detections(
        boxes.reshape(-1, 4).astype(np.float32),
        np.full(n, 0.99, np.float32),
        np.zeros((n, 5, 2), np.float32),
    )


def run(tracker, frames, *, rate=25.0, start=0.0):
    return [tracker.update(f, start + i / rate).tolist() for i, f in enumerate(frames)]


def test_ids_begin_at_one_and_stay_with_moving_faces():
    frames = [faces((100 + 4 * i, 100), (500, 300 - 3 * i)) for i in range(40)]
    assert run(Tracker(), frames) == [[1, 2]] * 40


def test_ids_do_not_depend_on_the_order_of_the_faces():
    rng = np.random.default_rng(0)
    tracker = Tracker()
    tracker.update(faces((100, 100), (300, 100), (500, 100)), 0)
    for i in range(1, 30):
        order = rng.permutation(3)
        places = [((100, 300, 500)[k] + 2 * i, 100) for k in order]
        assert tracker.update(faces(*places), i / 25).tolist() == (order + 1).tolist()


def test_ids_are_int64_and_none_for_no_faces():
    ids = Tracker().update(Detections.none(), 0)
    assert ids.dtype == np.int64
    assert ids.shape == (0,)


def test_a_trembling_face_keeps_its_id():
    rng = np.random.default_rng(1)
    frames = [faces(*(rng.normal((200, 200), 3, (1, 2)))) for _ in range(100)]
    assert run(Tracker(), frames) == [[1]] * 100


def test_a_small_fast_face_keeps_its_id():
    # It moves by more than half its side each frame, so its boxes hardly overlap.
    frames = [faces((50 + 14 * i, 80), side=20) for i in range(20)]
    assert run(Tracker(), frames, rate=10) == [[1]] * 20


def test_short_occlusion_keeps_the_id_and_a_long_one_does_not():
    tracker = Tracker(survive_s=1.0)
    assert tracker.update(faces((100, 100)), 0.0).tolist() == [1]
    assert tracker.update(Detections.none(), 0.5).tolist() == []
    assert tracker.update(faces((105, 100)), 0.9).tolist() == [1]
    assert tracker.update(Detections.none(), 1.5).tolist() == []
    assert tracker.update(faces((105, 100)), 2.0).tolist() == [2]


def test_a_moving_face_is_met_again_behind_what_hid_it():
    # 200 px/s for a second, hidden for 0.4 s: by then it is more than its side away.
    frames = [faces((100 + 8 * i, 100), side=50) for i in range(45)]
    frames[25:35] = [Detections.none()] * 10
    ids = run(Tracker(), frames)
    assert {i for frame in ids for i in frame} == {1}


def test_two_faces_that_cross_keep_their_ids():
    frames = []
    for i in range(61):
        a, b = (100 + 6 * i, 100), (460 - 6 * i, 110)
        # The nearer one hides the other while they overlap much.
        frames.append(faces(a) if abs(a[0] - b[0]) < 30 else faces(a, b))
    ids = run(Tracker(), frames)
    assert ids[0] == [1, 2]
    assert ids[-1] == [1, 2]
    assert {i for frame in ids for i in frame} == {1, 2}


def test_a_new_face_beside_a_known_one_is_new():
    tracker = Tracker()
    tracker.update(faces((100, 100)), 0)
    assert tracker.update(faces((170, 100), (101, 100)), 0.04).tolist() == [2, 1]


def test_a_face_of_quite_another_size_is_new():
    tracker = Tracker()
    tracker.update(faces((100, 100), side=30), 0)
    assert tracker.update(faces((100, 100), side=90), 0.04).tolist() == [2]


def test_ids_are_never_used_again():
    tracker, seen = Tracker(), set()
    for i in range(50):
        (new,) = tracker.update(faces((100, 100)), 5.0 * i).tolist()
        assert new not in seen
        seen.add(new)
        tracker = Tracker.restore(tracker.state())
    assert seen == set(range(1, 51))


def test_a_clock_that_went_back_begins_new_tracks():
    tracker = Tracker()
    tracker.update(faces((100, 100)), 100.0)
    assert tracker.update(faces((100, 100)), 0.0).tolist() == [2]
    assert tracker.update(faces((100, 100)), 0.0).tolist() == [2]


def walk(count, seed):
    """Faces that wander, come and go."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 600, (6, 2))
    for _ in range(count):
        places += rng.normal(0, 9, places.shape)
        yield faces(*places[rng.random(6) < 0.8])


def test_a_restored_tracker_goes_on_exactly_as_the_first_would_have():
    frames = list(walk(80, 3))
    first = Tracker()
    run(first, frames[:40])
    state = first.state()
    expected = run(first, frames[40:], start=1.6)
    assert run(Tracker.restore(state), frames[40:], start=1.6) == expected
    # And again: the failed batch is analysed once more, from the older state.
    second = Tracker.restore(state)
    assert run(second, frames[40:], start=1.6) == expected
    assert second.state() == first.state()


def test_no_id_occurs_twice_in_a_frame():
    for ids in run(Tracker(), walk(200, 4)):
        assert len(set(ids)) == len(ids)


def test_no_state_is_a_new_tracker():
    assert Tracker.restore(None).state() == Tracker().state()


def test_state_is_compact_json():
    tracker = Tracker()
    run(tracker, walk(50, 5))
    state = tracker.state()
    content = json.loads(state)
    assert content["next"] > max(track[0] for track in content["tracks"])
    assert len(state) < 100 * (1 + len(content["tracks"]))


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"{}",
        b'{"v":1,"next":2}',
        b'{"v":2,"next":1,"tracks":[]}',
        b'{"v":1,"next":0,"tracks":[]}',
        b'{"v":1,"next":"7","tracks":[]}',
        b'{"v":1,"next":true,"tracks":[]}',
        b'{"v":1,"next":2,"tracks":[[1,0,0,9,9,0,0]]}',
        b'{"v":1,"next":2,"tracks":[7]}',
        b'{"v":1,"next":2,"tracks":[[1,0,0,9,9,0,0,"now"]]}',
        b'{"v":1,"next":2,"tracks":[[1,0,0,9,9,0,0,NaN]]}',
        b'{"v":1,"next":2,"tracks":[[2,0,0,9,9,0,0,1]]}',
        b'{"v":1,"next":3,"tracks":[[1,0,0,9,9,0,0,1],[1,0,0,9,9,0,0,1]]}',
    ],
)
def test_a_corrupt_state_says_so(state):
    with pytest.raises(ValueError, match="tracker's saved state is corrupt"):
        Tracker.restore(state)
