"""Times made from stamps that are missing, early, or begin anew."""

from __future__ import annotations

from fractions import Fraction

import pytest

from worker.capture.timeline import Timeline


def place(stamps: list[int | None], duration: int | None = None) -> list[int]:
    timeline = Timeline(Fraction(1, 1000), Fraction(25))
    return [timeline.place(stamp, duration) for stamp in stamps]


@pytest.mark.parametrize(
    ("stamps", "pts"),
    [
        ([700, 740, 780], [0, 40, 80]),
        ([-80, -40, 0], [0, 40, 80]),
        ([None, None, None], [0, 40, 80]),
        ([500, None, 580], [0, 40, 80]),
        ([0, 40, 40, 120], [0, 40, 41, 120]),
        ([0, 80, 40, 120], [0, 80, 81, 120]),
        ([0, 40, 5000, 5040], [0, 40, 5000, 5040]),
        ([90_000, 90_040, 10, 50], [0, 40, 80, 120]),
    ],
)
def test_pts(stamps, pts) -> None:
    assert place(stamps) == pts


def test_a_missing_stamp_follows_the_duration_where_one_is_known() -> None:
    assert place([0, None, None], duration=20) == [0, 20, 40]
