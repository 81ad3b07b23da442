"""Steady labels: averages in real time, hysteresis, and exact restoration."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.emotion.steady import Reading, read

HAPPY, SAD, TORN = [0.9, 0.1], [0.1, 0.9], [0.45, 0.55]


def run(
    answers: Iterable[list[float]],
    *,
    rate: float = 25.0,
    smooth_s: float = 0.5,
    quality: float = 1.0,
) -> list[Reading]:
    reading, found = None, []
    for i, answer in enumerate(answers):
        reading = read(reading, answer, i / rate, quality=quality, smooth_s=smooth_s)
        found.append(reading)
    return found


def test_the_first_answer_is_the_average() -> None:
    (reading,) = run([HAPPY])
    assert reading.raw == reading.smoothed == (0.9, 0.1)
    assert reading.label == 0


def test_without_smoothing_the_label_is_the_answers() -> None:
    found = run([HAPPY, SAD, HAPPY], smooth_s=0)
    assert [reading.label for reading in found] == [0, 1, 0]
    assert all(reading.smoothed == () for reading in found)
    assert [reading.raw for reading in found] == [(0.9, 0.1), (0.1, 0.9), (0.9, 0.1)]


def test_one_odd_answer_changes_no_label() -> None:
    found = run([HAPPY] * 20 + [SAD] + [HAPPY] * 20)
    assert {reading.label for reading in found} == {0}
    assert found[20].raw == (0.1, 0.9)


def test_labels_that_alternate_settle() -> None:
    found = run([[0.55, 0.45], [0.45, 0.55]] * 50)
    assert len({reading.label for reading in found[2:]}) == 1


def test_a_real_change_shows_within_a_time_constant() -> None:
    found = run([HAPPY] * 50 + [SAD] * 50)
    changed = next(i for i, reading in enumerate(found) if reading.label == 1)
    assert 0.1 < (changed - 50) / 25 < 0.5


def test_a_small_lead_that_lasts_changes_the_label_in_the_end() -> None:
    found = run([[0.55, 0.45]] * 25 + [[0.47, 0.53]] * 100)
    changed = next(i for i, reading in enumerate(found) if reading.label == 1)
    assert changed - 25 >= 25
    back = run([[0.55, 0.45]] * 25 + [[0.47, 0.53]] * 20 + [[0.55, 0.45]] * 20)
    assert {reading.label for reading in back} == {0}


def test_the_average_forgets_in_seconds() -> None:
    found = run([HAPPY] * 100 + [SAD] * 12 + [SAD] * 13, smooth_s=0.5)
    left = (found[111].smoothed[0] - 0.1) / 0.8
    assert left == pytest.approx(math.exp(-12 / 25 / 0.5), abs=0.01)


def steps(rate: int) -> list[list[float]]:
    """The same second and a half of expressions, seen at another rate."""
    return [
        HAPPY if i / rate < 0.6 else SAD if i / rate < 1.1 else TORN for i in range(rate * 3 // 2)
    ]


@pytest.mark.parametrize("rate", [10, 20, 50, 100])
def test_the_frame_rate_makes_no_difference(rate: int) -> None:
    for at in (0.5, 1.0, 1.4):
        slow = run(steps(rate), rate=rate)[round(at * rate)]
        fast = run(steps(2 * rate), rate=2 * rate)[round(at * 2 * rate) + 1]
        # What differs is half a frame: the same face is seen until a little later.
        assert slow.smoothed == pytest.approx(fast.smoothed, abs=0.1 / rate * 10 / 2)


def test_between_two_equal_answers_a_third_adds_nothing() -> None:
    first = read(None, HAPPY, 0.0, quality=1, smooth_s=0.5)
    coarse = read(first, SAD, 0.2, quality=0.7, smooth_s=0.5)
    fine = read(first, SAD, 0.1, quality=0.7, smooth_s=0.5)
    fine = read(fine, SAD, 0.2, quality=0.7, smooth_s=0.5)
    assert fine.smoothed == pytest.approx(coarse.smoothed, abs=1e-5)
    assert fine.weight == pytest.approx(coarse.weight, abs=1e-5)


def test_an_answer_about_a_bad_face_weighs_less() -> None:
    known = run([HAPPY] * 25)[-1]
    good = read(known, SAD, 1.0, quality=1.0, smooth_s=0.5).smoothed
    bad = read(known, SAD, 1.0, quality=0.2, smooth_s=0.5).smoothed
    assert 0.1 < (0.9 - bad[0]) / (0.9 - good[0]) < 0.3


def test_of_bad_faces_alone_the_average_is_made_all_the_same() -> None:
    found = run([HAPPY] * 10 + [SAD] * 60, quality=0.0)
    assert found[-1].label == 1
    assert found[-1].smoothed[1] > 0.85


def test_after_a_pause_one_look_does_not_decide_alone() -> None:
    known = run([HAPPY] * 50)[-1]
    after = read(known, SAD, 2.0 + 0.5, quality=1.0, smooth_s=0.5)
    assert after.smoothed[1] < 0.6


shares = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3).map(
    lambda some: [share / (sum(some) or 1) for share in some]
)
looks = st.tuples(shares, st.sampled_from([0.0, 0.001, 0.04, 0.3, 1.0]), st.floats(0, 1))


@given(st.lists(looks, min_size=1, max_size=20), st.sampled_from([0.0, 0.01, 0.5, 10.0]))
def test_averages_stay_between_the_answers_and_survive_a_change_of_worker(
    answers: list[tuple[list[float], float, float]], smooth_s: float
) -> None:
    reading, seconds = None, 100.0
    for answer, gap, quality in answers:
        seconds += gap
        restored = reading and Reading.unpacked(json.loads(json.dumps(reading.packed())))
        assert restored == reading
        reading = read(reading, answer, seconds, quality=quality, smooth_s=smooth_s)
        assert read(restored, answer, seconds, quality=quality, smooth_s=smooth_s) == reading
        for i, share in enumerate(reading.smoothed):
            said = [one[0][i] for one in answers]
            assert min(said) - 1e-4 <= share <= max(said) + 1e-4
        assert 0 <= reading.weight <= 1.01


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        [0.0, [0.5, 0.5], [0.5, 0.5], 1.0, 0, None],
        [0.0, [0.5, 0.5], [0.5], 1.0, 0, None, 0],
        [0.0, [0.5, 0.5], [0.5, 0.5], 1.0, 2, None, 0],
        [0.0, [0.5, float("nan")], [], 1.0, 0, None, 0],
        ["now", [0.5, 0.5], [], 1.0, 0, None, 0],
        [0.0, [0.5, 0.5], [], 1.0, 0, None, 0.5],
        [0.0, "ab", [], 1.0, 0, None, 0],
    ],
)
def test_what_was_never_packed_is_refused(content: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Reading.unpacked(content)
