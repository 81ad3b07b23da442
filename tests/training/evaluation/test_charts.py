from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from training.evaluation.charts import (
    Axis,
    Line,
    axis_over,
    line_chart,
    percent_tick,
    reliability_chart,
)
from training.evaluation.figures import Bin


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.31, 0.68], [0.3, 0.4, 0.5, 0.6, 0.7]),
        ([0, 50], [0, 10, 20, 30, 40, 50]),
        ([0.7, 0.7], None),
        ([1.0, 2.1], [1.0, 1.5, 2.0, 2.5]),
    ],
)
def test_axes_reach_over_all_values_in_round_steps(values, ticks) -> None:
    axis = axis_over("y", values, "{:g}".format)
    assert axis.start <= min(values) + 1e-9
    assert axis.end >= max(values) - 1e-9
    assert axis.end > axis.start
    if ticks:
        assert axis.ticks == pytest.approx(ticks)


def test_ticks_stay_apart_however_close_the_values_are() -> None:
    axis = axis_over("accuracy", [0.681, 0.694], percent_tick)
    told = [axis.text(tick).replace("\N{NO-BREAK SPACE}", " ") for tick in axis.ticks]
    assert told == ["68 %", "68.5 %", "69 %", "69.5 %"]


def test_an_axis_may_fall() -> None:
    axis = Axis("side", 48, 16, [48, 16], str)
    assert [axis.place(value) for value in (48, 32, 16)] == [0, 0.5, 1]


def test_a_line_chart_is_drawn_to_scale_and_says_what_it_shows() -> None:
    axis = Axis("x & y", 0, 1, [0, 1], str)
    line = Line([(0, 0), (1, 1)], "s0", band=[(0, 0.1), (0.9, 1)], dots=True)
    root = ElementTree.fromstring(line_chart('a < b "c"', axis, axis, [line], mark=0.5))

    assert root.get("role") == "img"
    assert root.get("aria-label") == 'a < b "c"'
    first, last = root.findall("circle")
    # y grows upwards.
    assert float(first.get("cx")) < float(last.get("cx"))
    assert float(first.get("cy")) > float(last.get("cy"))
    mark = next(path for path in root.findall("path") if path.get("class") == "mark")
    middle = (float(first.get("cx")) + float(last.get("cx"))) / 2
    assert float(re.match(r"M([\d.]+)", mark.get("d"))[1]) == pytest.approx(middle, abs=0.1)


def test_reliability_shows_the_bins_that_have_pictures() -> None:
    bins = [Bin(0, 0.5, 0, None, None), Bin(0.5, 1, 4, 0.75, 0.75)]
    root = ElementTree.fromstring(reliability_chart("reliability", bins))
    (dot,) = root.findall("circle")
    diagonal = next(path for path in root.findall("path") if path.get("class") == "diagonal")
    (x0, y0), (x1, y1) = (map(float, pair.split()) for pair in diagonal.get("d")[1:].split("L"))
    share = (float(dot.get("cx")) - x0) / (x1 - x0)
    assert share == pytest.approx(0.75, abs=0.01)
    assert (float(dot.get("cy")) - y0) / (y1 - y0) == pytest.approx(share, abs=0.01)
