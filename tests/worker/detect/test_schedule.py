"""When full detection is due: counted, timed, and at once after a cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.detect.schedule import Due, Schedule, advance, thumbnail
from worker.picture import FramePicture
from worker.records import Image

RATE = 25.0


def thumbnail_of(image: Image) -> bytes:
    return thumbnail(FramePicture.of(image))


def scene(seed: int, height: int = 180, width: int = 320) -> Image:
    """Patches of random colours."""
    patches = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), np.uint8)
    return np.ascontiguousarray(patches.repeat(height // 9, 0).repeat(width // 16, 1))


def run(pictures: list[Image], *, every: int = 5, rate: float = RATE, **how: float) -> list[Due]:
    schedule, told = Schedule(), []
    for i, picture in enumerate(pictures):
        schedule, due = advance(schedule, thumbnail_of(picture), i / rate, every=every, **how)  # type: ignore[arg-type]
        told.append(due)
    return told


def detected(told: list[Due]) -> list[int]:
    return [i for i, due in enumerate(told) if due.detection]


def test_the_first_frame_is_due_and_then_every_so_many() -> None:
    assert detected(run([scene(1)] * 21)) == [0, 5, 10, 15, 20]


def test_live_feeds_that_begin_together_are_not_due_together() -> None:
    moving = [np.roll(scene(1), 2 * i, axis=1) for i in range(40)]
    due = [set(detected(run(moving, live=True, phase=phase))[1:]) for phase in range(5)]
    assert sum(len(some) for some in due) == len(set().union(*due))
    lossless = [detected(run(moving, phase=phase)) for phase in range(5)]
    assert lossless == [lossless[0]] * 5


def test_every_frame_is_due_when_asked_for() -> None:
    assert detected(run([scene(1)] * 4, every=1)) == [0, 1, 2, 3]
    assert detected(run([scene(1)] * 4, every=1, live=True, busy=1.0)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("rate", "interval"), [(0.5, 1), (1, 1), (1.5, 2), (2, 2), (3, 4), (5, 7), (6, 8), (30, 8)]
)
def test_the_interval_of_a_slow_feed_never_takes_more_than_one_and_a_half_seconds(
    rate: float, interval: int
) -> None:
    due = detected(run([scene(1)] * 25, every=8, rate=rate))
    assert due == list(range(0, 25, interval))


def test_a_clock_that_went_back_is_due() -> None:
    schedule, _ = advance(Schedule(), thumbnail_of(scene(1)), 100.0, every=5)
    _, due = advance(schedule, thumbnail_of(scene(1)), 50.0, every=5)
    assert due.detection


def test_a_glance_is_due_between_two_full_detections_that_are_far_apart() -> None:
    told = run([scene(1)] * 21, every=10)
    assert detected(told) == [0, 10, 20]
    assert [i for i, due in enumerate(told) if due.glance] == [4, 8, 14, 18]
    assert not any(due.glance for due in run([scene(1)] * 9, every=4))


def test_where_a_live_feed_is_put_off_so_are_its_glances() -> None:
    told = run([scene(1)] * 41, every=10, live=True, rate=100)
    assert detected(told) == [0, 20, 40]
    assert [i for i, due in enumerate(told) if due.glance] == [8, 16, 28, 36]


def test_a_cut_is_due_at_once_and_starts_the_count_anew() -> None:
    told = run([scene(1)] * 8 + [scene(2)] * 8)
    assert [i for i, due in enumerate(told) if due.cut] == [8]
    assert detected(told) == [0, 5, 8, 13]


@pytest.mark.parametrize(
    "changed",
    [
        lambda picture: (picture * 0.6).astype(np.uint8),
        lambda picture: np.minimum(picture.astype(int) + 60, 255).astype(np.uint8),
        lambda picture: np.roll(picture, 8, axis=1),
    ],
    ids=["darker", "brighter", "panned"],
)
def test_other_light_or_a_pan_is_no_cut(changed) -> None:  # type: ignore[no-untyped-def]
    told = run([scene(1), np.ascontiguousarray(changed(scene(1)))])
    assert not told[1].cut


def test_a_picture_that_goes_dark_is_a_cut_and_dark_ones_are_of_one_scene() -> None:
    dark = np.zeros_like(scene(1))
    assert [due.cut for due in run([scene(1), dark, dark, scene(1)])] == [False, True, False, True]


def test_a_live_feed_is_put_off_while_nothing_moves_or_the_worker_is_busy() -> None:
    # The interval has a most in seconds, too: these feeds have enough frames in it.
    still, moving = [scene(1)] * 60, [np.roll(scene(1), 2 * i, axis=1) for i in range(60)]
    idle = detected(run(still, live=True, rate=100))
    assert idle[1] == 10
    assert detected(run(still, live=True, busy=1.0, rate=100))[1] == 20
    assert detected(run(moving, live=True, rate=100))[-5:] == [35, 40, 45, 50, 55]
    assert detected(run(still, live=False, busy=1.0, rate=100))[1] == 5


def test_what_begins_to_move_brings_a_live_feed_back_to_its_interval() -> None:
    rng = np.random.default_rng(0)
    pictures = [scene(1)] * 8
    for _ in range(8):
        picture = scene(1).copy()
        picture[40:140, 60:260] = rng.integers(0, 256, 3)
        pictures.append(picture)
    assert detected(run(pictures, live=True, rate=100))[1] in (8, 9)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (48, 64), (720, 1280), (11, 15)])
def test_a_thumbnail_has_one_size(shape: tuple[int, int]) -> None:
    assert len(thumbnail_of(np.full((*shape, 3), 77, np.uint8))) == 192


def test_a_thumbnail_shows_what_is_where() -> None:
    picture = np.zeros((360, 640, 3), np.uint8)
    picture[:, 320:] = 200
    small = np.frombuffer(thumbnail_of(picture), np.uint8).reshape(12, 16)
    assert (small[:, :7] == 0).all()
    assert (small[:, 9:] == 200).all()


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from([0.04, 0.0, 0.7, 2.0, -5.0])), max_size=25
    ),
    st.integers(1, 7),
    st.booleans(),
)
def test_a_restored_schedule_goes_on_the_same(
    frames: list[tuple[int, float]], every: int, live: bool
) -> None:
    pictures = {seed: thumbnail_of(scene(seed)) for seed in (1, 2, 3)}
    schedule, seconds, since = Schedule(), 5.0, 0
    for seed, gap in frames:
        seconds += gap
        restored = Schedule.unpacked(json.loads(json.dumps(schedule.packed())))
        assert restored == schedule
        schedule, due = advance(schedule, pictures[seed], seconds, every=every, live=live)
        assert advance(restored, pictures[seed], seconds, every=every, live=live)[1] == due
        since = 0 if due.detection else since + 1
        assert since < 4 * every


@pytest.mark.parametrize(
    "content",
    [None, 3, [], ["", 0, 0.0], ["zz", 0, 0.0, 0.0], ["00", 0, 0.0, 0.0], ["", "1", 0.0, 0.0],
     ["", -1, 0.0, 0.0], ["", 0, float("nan"), 0.0], ["", 0, 0.0, float("inf")]],
)  # fmt: skip
def test_what_was_never_packed_is_refused(content: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Schedule.unpacked(content)
