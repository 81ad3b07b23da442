"""Write the graphs that cut and judge crops on a GPU: crop.onnx and sharpness.onnx.

    python -m training.export_crop [--out worker/emotion]

Their references are ``worker.emotion.align.crop_faces`` and ``worker.emotion.quality.sharpness``.
The graph that cuts takes its pixels from the table of sums in which the detector has found the
faces, so that no picture goes to the device again, and a crop costs the same however large its face
is. Along one axis each pixel of a crop is the mean of its picture between two places, a and b:

- made smaller, pixel i of n takes what the i-th of n parts of the square covers (INTER_AREA);
- made larger, it is the mean of one pixel's length around its place (which is what INTER_LINEAR
  says), moved so that it stays inside the square.

The sum up to a place between pixels lies on the line between the sums there, so for whole numbers p
and q below a and b the sum from a to b is that from p to q, less the part of pixel p before a, and
with the part of pixel q before b. Beyond the picture p and q stay at its last pixel, and that part
is more than 1, or negative: the edge is repeated. Sums of whole pixels are whole numbers and exact.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
from onnx import TensorProto

from training.graph import Graph
from training.graph_parts import END, axes, to_float
from worker.emotion.align import BLANK
from worker.emotion.quality import FLAT, JUDGED

DEFAULT_OUT = Path(__file__).parent.parent / "worker" / "emotion"

_JUDGED = JUDGED.size


def crop(g: Graph) -> None:
    """``crops`` (k, side, side, channels) uint8, one for each square.

    ``table``: see training/export_graph.py; ``size`` (2,): height and width of its pictures.
    ``pictures`` (k,): which of them each square lies in. ``squares`` (k, 3): left, top, side in
    pixels; what has no side gives a crop of mid-grey. ``side``: of the crops, a scalar. ``mix``
    (3, channels): what red, green and blue count in each channel.
    """
    sums = g.input("table", TensorProto.INT32, "batch", "rows", "columns", 3)
    size = g.input("size", TensorProto.INT64, 2)
    pictures = g.input("pictures", TensorProto.INT64, "k")
    squares = g.input("squares", TensorProto.INT64, "k", 3)
    mix = g.input("mix", TensorProto.FLOAT, 3, "channels")
    count = g.input("side", TensorProto.INT64)

    extent = g.op("Gather", squares, np.array([2]), axis=1)
    there = g.op("Greater", extent, 0)
    extent = g.op("Max", extent, 1)
    (rows, weights_down), (columns, weights_across) = (
        _places(g, count, extent, g.op("Gather", squares, np.array([corner]), axis=1), limit)
        for corner, limit in (
            (1, g.op("Gather", size, 0)),
            (0, g.op("Gather", size, 1)),
        )
    )

    stride = g.op("Shape", sums, start=2, end=3)
    above = g.op("Mul", pictures, g.op("Shape", sums, start=1, end=2))
    line = g.op("Mul", g.op("Add", rows, g.op("Unsqueeze", above, axes(1, 2))), stride)
    cells = g.op("Add", g.op("Unsqueeze", line, axes(3, 4)), g.op("Unsqueeze", columns, axes(1, 2)))
    parts = g.op("Gather", g.op("Reshape", sums, np.array([-1, 3])), cells, axis=0)
    for axis in (1, 3):
        upper, lower = (
            g.op("Gather", parts, np.array(some), axis=axis) for some in ([2, 1, 3], [0, 0, 2])
        )
        parts = g.op("Sub", upper, lower)
    down = g.op("Unsqueeze", weights_down, axes(3, 4, 5))
    across = g.op("Unsqueeze", weights_across, axes(1, 2, 5))
    weighted = g.op("Mul", g.op("Mul", to_float(g, parts), down), across)
    colours = g.op("ReduceSum", weighted, axes(1, 3), keepdims=0)
    crops = g.op("Round", g.op("MatMul", colours, mix))
    crops = g.op("Where", g.op("Unsqueeze", there, axes(2, 3)), crops, float(BLANK))
    crops = g.op("Cast", g.op("Clip", crops, 0.0, 255.0), to=TensorProto.UINT8)
    g.output("crops", crops, TensorProto.UINT8, "k", "down", "across", "channels")


def _places(g: Graph, count: str, extent: str, corner: str, limit: str) -> tuple[str, str]:
    """Where along one axis sums are taken, (k, 4, count), and what counts how much, (k, 3, count).

    The first are p, p + 1, q, q + 1; what counts is all from p to q, pixel p, pixel q.

    Args:
        count: pixels of the crop, a scalar. extent, corner: (k, 1), of the squares.
        limit: pixels of the picture, a scalar.
    """
    i, pixels, covered = (
        to_float(g, value) for value in (g.op("Range", 0, count, 1), count, extent)
    )
    ratio = g.op("Div", covered, pixels)
    smaller = g.op("Greater", extent, count)
    part = g.op("Mul", i, ratio)
    around = g.op("Sub", g.op("Mul", g.op("Add", i, 0.5), ratio), 0.5)
    around = g.op("Min", g.op("Max", around, 0.0), g.op("Sub", covered, 1.0))
    length = g.op("Where", smaller, ratio, 1.0)
    # No farther out than just beyond the picture, where all is its edge: small numbers are exact.
    first = g.op("Sub", g.op("Neg", to_float(g, corner)), length)
    last = to_float(g, g.op("Sub", limit, corner))
    start = g.op("Where", smaller, part, around)
    start = g.op("Min", g.op("Max", start, first), last)

    def split(place: str) -> tuple[str, str]:
        """The pixel below a place in the square, inside the picture; and what lies beyond it."""
        floor = g.op("Floor", place)
        wanted = g.op("Add", g.op("Cast", floor, to=TensorProto.INT64), corner)
        inside = g.op("Max", g.op("Min", wanted, g.op("Sub", limit, 1)), 0)
        outside = to_float(g, g.op("Sub", wanted, inside))
        return inside, g.op("Add", g.op("Sub", place, floor), outside)

    (p, before), (q, upto) = split(start), split(g.op("Add", start, length))
    shares = (g.op("Expand", 1.0, g.op("Shape", before)), g.op("Neg", before), upto)
    return (
        _stacked(g, p, g.op("Add", p, 1), q, g.op("Add", q, 1)),
        _stacked(g, *(g.op("Div", share, length) for share in shares)),
    )


def _stacked(g: Graph, *parts: str) -> str:
    """(k, count) each -> (k, parts, count)."""
    return g.op("Concat", *(g.op("Unsqueeze", part, axes(1)) for part in parts), axis=1)


def sharpness(g: Graph) -> None:
    """``sharpness`` (k,) of ``crops`` (k, side, side, 1), as worker.emotion.quality.JUDGED says.

    It is a ratio of two means over the same pixels, so their sums serve as well.
    """
    crops = g.input("crops", TensorProto.UINT8, "k", _JUDGED, _JUDGED, 1)
    grey = to_float(g, crops)

    def moved(down: int, across: int) -> str:
        """All pixels but those of the edge, or their neighbours."""
        starts, ends = np.array([1 + down, 1 + across]), np.array([down - 1, across - 1])
        return g.op("Slice", grey, starts, np.where(ends < 0, ends, END), axes(1, 2))

    def squared(*parts: str) -> str:
        squares = [g.op("Mul", part, part) for part in parts]
        return g.op("ReduceSum", added(*squares), axes(1, 2, 3), keepdims=0)

    def added(*parts: str) -> str:
        return reduce(lambda one, other: g.op("Add", one, other), parts)

    inner = moved(0, 0)
    right, below, left, above = (
        g.op("Sub", moved(*to), inner) for to in ((0, 1), (1, 0), (0, -1), (-1, 0))
    )
    slope = squared(right, below)
    curvature = squared(added(right, below, left, above))
    flat = g.op("Less", slope, FLAT * (_JUDGED - 2) ** 2)
    found = g.op("Where", flat, 0.0, g.op("Div", curvature, g.op("Where", flat, 1.0, slope)))
    g.output("sharpness", found, TensorProto.FLOAT, "k")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.export_crop",
        description="Write the graphs that cut and judge the classifier's crops on a GPU.",
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the folder to write to")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for build in (crop, sharpness):
        graph = Graph()
        build(graph)
        path = options.out / f"{build.__name__}.onnx"
        path.write_bytes(graph.model(build.__name__).SerializeToString(deterministic=True))
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
