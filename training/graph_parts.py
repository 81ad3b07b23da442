"""Parts of the detector's graphs: sums of pixels, boxes, crops, suppression, in ONNX operators.

Boxes are (batch, k, 4) float32, scores (batch, k); see worker/detect/boxes.py, nms.py, resample.py,
whose arithmetic this is, in the same order of operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from training.graph import Graph, Value

_ROUNDS = 16
"""Of suppression; see ``suppress``."""

_RUN = 32
"""Pixels that are summed at once; see ``running_sums``."""

END = np.iinfo(np.int64).max


def axes(*axes: int) -> npt.NDArray[np.int64]:
    return np.array(axes, np.int64)


def to_float(g: Graph, value: str) -> str:
    return g.op("Cast", value, to=TensorProto.FLOAT)


def slice_last(g: Graph, value: str, start: int, end: int) -> str:
    """Some of the last axis of (batch, k, ...)."""
    return g.op("Slice", value, np.array([start]), np.array([end]), axes(2))


def stacked(g: Graph, *parts: str) -> str:
    """(batch, k) each -> (batch, k, parts)."""
    return g.op("Concat", *(g.op("Unsqueeze", part, axes(2)) for part in parts), axis=2)


def rows_at(g: Graph, values: str, order: str) -> str:
    """``values`` (batch, n, c) at ``order`` (batch, k), as (batch, k, c)."""
    return g.op("GatherND", values, g.op("Unsqueeze", order, axes(2)), batch_dims=1)


def by_picture(g: Graph, values: str, boxes: str) -> str:
    """What a network said of each crop (batch * k, ...), as (batch, k, ...)."""
    leading = g.op("Shape", boxes, start=0, end=2)
    return g.op("Reshape", values, g.op("Concat", leading, g.op("Shape", values, start=1), axis=0))


def slots_for(g: Graph, there: str, choices: Sequence[int]) -> str:
    """(1,): the first of ``choices`` that holds all that ``there`` (batch, n) says, or the last."""
    counts = g.op("ReduceSum", to_float(g, there), axes(1))
    most = g.op("Reshape", g.op("ReduceMax", counts), np.array([1]))
    sizes = np.array(choices, np.float32)
    fitting = g.op("Where", g.op("GreaterOrEqual", sizes, most), sizes, float(choices[-1]))
    return g.op("Cast", g.op("ReduceMin", fitting, axes(0)), to=TensorProto.INT64)


def best_of(g: Graph, scores: str, choices: Sequence[int]) -> tuple[str, str]:
    """The best ``scores`` (batch, n) and where they are, (batch, k) each, k not above n."""
    wanted = slots_for(g, g.op("Greater", scores, 0.0), choices)
    slots = g.op("Min", wanted, g.op("Shape", scores, start=1, end=2))
    best, order = g.ops("TopK", 2, scores, slots, axis=1)
    return best, order


def running_sums(g: Graph, values: str, axis: int) -> str:
    """Sums of all before each place of ``axis``, longer then by one and up to whole runs."""
    length = g.op("Shape", values, start=axis, end=axis + 1)
    whole = g.op("Mul", g.op("Add", g.op("Div", length, _RUN), 1), _RUN)
    lead, tail = (
        with_axis(g, values, axis, part)
        for part in (np.array([1]), g.op("Sub", g.op("Sub", whole, length), 1))
    )
    zero = np.array([0], np.int32)
    values = g.op(
        "Concat", g.op("Expand", zero, lead), values, g.op("Expand", zero, tail), axis=axis
    )
    full = g.op("Shape", values)
    runs = with_axis(g, values, axis, np.array([-1, _RUN]))
    inside = g.op("CumSum", g.op("Reshape", values, runs), axis + 1)
    totals = g.op("Slice", inside, np.array([-1]), np.array([END]), axes(axis + 1))
    return g.op("Reshape", g.op("Add", inside, g.op("CumSum", totals, axis, exclusive=1)), full)


def with_axis(g: Graph, values: str, axis: int, lengths: Value) -> str:
    """The shape of ``values`` with other ``lengths`` (1 or more,) in place of one axis."""
    before, behind = g.op("Shape", values, end=axis), g.op("Shape", values, start=axis + 1)
    return g.op("Concat", before, lengths, behind, axis=0)


def bins_of(g: Graph, start: Value, span: Value, i: Value, count: Value) -> tuple[str, str]:
    """First and one-past-last pixel of pixel ``i`` of ``count``: worker.detect.resample._bins."""
    first = g.op("Div", g.op("Mul", span, i), count)
    upto = g.op("Sub", g.op("Add", g.op("Mul", span, g.op("Add", i, 1)), count), 1)
    return g.op("Add", start, first), g.op("Add", start, g.op("Div", upto, count))


def mean_of(g: Graph, sums: str, pixels: str) -> str:
    return g.op("Div", to_float(g, sums), to_float(g, pixels))


def side_lengths(g: Graph, boxes: str, *, inclusive: bool) -> str:
    """Widths and heights (batch, k, 2)."""
    sides = g.op("Sub", slice_last(g, boxes, 2, 4), slice_last(g, boxes, 0, 2))
    return g.op("Add", sides, 1.0) if inclusive else sides


def shifted(g: Graph, boxes: str, regression: str, *, inclusive: bool) -> str:
    """worker.detect.boxes.shift"""
    sides = side_lengths(g, boxes, inclusive=inclusive)
    return g.op("Add", boxes, g.op("Mul", regression, g.op("Concat", sides, sides, axis=2)))


def squared(g: Graph, boxes: str) -> str:
    """worker.detect.boxes.square"""
    sides = side_lengths(g, boxes, inclusive=False)
    side = g.op("ReduceMax", sides, axes(2))
    middle = g.op("Add", slice_last(g, boxes, 0, 2), g.op("Mul", sides, 0.5))
    corner = g.op("Sub", middle, g.op("Mul", side, 0.5))
    return g.op("Concat", corner, g.op("Add", corner, side), axis=2)


def cut_crops(g: Graph, sums: str, size: str, boxes: str, side: int) -> tuple[str, str]:
    """What each box covers, shrunk to (batch * k, 3, side, side); and whether it covers anything.

    worker.detect.boxes.windows and worker.detect.resample.AreaSampler.crops.
    """
    edges = g.op("Cast", boxes, to=TensorProto.INT64)  # towards zero
    first = g.op("Sub", g.op("Max", slice_last(g, edges, 0, 2), 1), 1)
    limits = g.op("Gather", size, np.array([1, 0]))
    length = g.op("Sub", g.op("Min", slice_last(g, edges, 2, 4), limits), first)
    shortest = g.op("ReduceMin", length, axes(2), keepdims=0)
    visible = g.op("Greater", shortest, 0)
    seen = g.op("Unsqueeze", visible, axes(2))
    first, length = g.op("Where", seen, first, 0), g.op("Where", seen, length, 1)

    starts, spans = (g.op("Unsqueeze", value, axes(3)) for value in (first, length))
    low, high = bins_of(g, starts, spans, np.arange(side), side)

    batch, rows, columns = (g.op("Shape", sums, start=i, end=i + 1) for i in range(3))
    picture = g.op("Range", 0, g.op("Squeeze", batch), 1)
    offset = g.op("Reshape", g.op("Mul", picture, rows), np.array([-1, 1, 1, 1]))
    flat = g.op("Reshape", sums, np.array([-1, 3]))

    def part(value: str, axis: int) -> str:
        return g.op("Gather", value, axis, axis=2)

    # Rows of the flattened table as (batch, k, side, 1), columns as (batch, k, 1, side).
    above, below = (
        g.op("Mul", g.op("Add", g.op("Unsqueeze", part(value, 1), axes(3)), offset), columns)
        for value in (low, high)
    )
    before, behind = (g.op("Unsqueeze", part(value, 0), axes(2)) for value in (low, high))

    def at(row: str, column: str) -> str:
        return g.op("Gather", flat, g.op("Add", row, column), axis=0)

    lower = g.op("Sub", at(below, behind), at(below, before))
    upper = g.op("Sub", at(above, behind), at(above, before))
    widths, heights = (part(g.op("Sub", high, low), axis) for axis in (0, 1))
    pixels = g.op("Mul", g.op("Unsqueeze", heights, axes(3)), g.op("Unsqueeze", widths, axes(2)))
    crops = mean_of(g, g.op("Sub", lower, upper), g.op("Unsqueeze", pixels, axes(4)))
    crops = g.op("Reshape", crops, np.array([-1, side, side, 3]))
    return g.op("Transpose", crops, perm=[0, 3, 1, 2]), visible


def suppress(
    g: Graph, boxes: str, scores: str, alive: str, threshold: float, *, minimum: bool = False
) -> str:
    """Non-maximum suppression, worker.detect.nms: which of (batch, k) stay alive.

    "I stay if none that stays beats me", for all at once, in rounds. After an even number of rounds
    none is missing of those that stay; each round settles one more link of a chain of boxes that
    beat each other. On the hardest of our pictures nine rounds settle all; there are sixteen.
    """
    extra = 1.0 if minimum else 0.0
    left, top, right, bottom = (g.op("Gather", boxes, np.array([i]), axis=2) for i in range(4))

    def across(value: str) -> str:
        return g.op("Transpose", value, perm=[0, 2, 1])

    def shared(low: str, high: str) -> str:
        inner = g.op("Sub", g.op("Min", high, across(high)), g.op("Max", low, across(low)))
        return g.op("Max", g.op("Add", inner, extra), 0.0)

    def side(low: str, high: str) -> str:
        return g.op("Add", g.op("Sub", high, low), extra)

    common = g.op("Mul", shared(left, right), shared(top, bottom))
    area = g.op("Mul", side(left, right), side(top, bottom))
    if minimum:
        whole = g.op("Min", area, across(area))
    else:
        whole = g.op("Sub", g.op("Add", area, across(area)), common)
    overlap = g.op("Greater", g.op("Div", common, whole), threshold)

    score, present = (g.op("Unsqueeze", value, axes(2)) for value in (scores, alive))
    index = g.op("CumSum", g.op("Expand", np.array([1], np.float32), g.op("Shape", score)), 1)
    earlier = g.op("Greater" if minimum else "Less", index, across(index))
    better = g.op(
        "Or",
        g.op("Greater", score, across(score)),
        g.op("And", g.op("Equal", score, across(score)), earlier),
    )
    both = g.op("And", present, across(present))
    beats = to_float(g, g.op("And", g.op("And", overlap, better), both))
    stays = across(to_float(g, present))
    here = stays
    for _ in range(_ROUNDS):
        beaten = g.op("Greater", g.op("MatMul", stays, beats), 0.5)
        stays = g.op("Where", beaten, 0.0, here)
    return g.op("Squeeze", g.op("Greater", stays, 0.5), axes(1))
