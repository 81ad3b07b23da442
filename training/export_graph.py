"""Write the detector's graphs for a GPU: worker/detect's steps around and between the networks.

    python -m training.export_graph [--networks worker/detect] [--out worker/detect/graphs]

worker/detect/mtcnn.py shrinks, sorts and suppresses with numpy between the networks; on a GPU each
such step would bring pictures or candidates back from the device. Here the same steps are ONNX
operators around the networks that ship, so that all of it stays on the device:

- table.onnx: pictures -> their summed-area tables, from which every later graph takes its pixels.
- scan.onnx: one level of the pyramid -> its candidates (P-Net), behind those of earlier levels.
- refine.onnx: all candidates -> those that the R-Net lets pass.
- decide.onnx: candidates, or known faces -> faces (O-Net).

One graph for each step and not one for all: how many levels there are depends on the picture's size
and on settings, and how many candidates there are is known only after the scan. So no graph depends
on a size, none is made at run time, and before the faces no more leaves the device than how many
places the next operators need.

The operators are those that onnxruntime has CUDA kernels for. NonMaxSuppression is none of them,
and knows no overlap by the smaller area: ``suppress`` is a few matrix products instead. CumSum adds
up each prefix from the start: ``running_sums`` takes two steps, runs of 32 pixels and then whole
runs. Sums of pixels are whole numbers, so they are the reference's exactly, in whatever precision
the networks run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto

from training.graph import Graph
from training.graph_parts import (
    END,
    axes,
    best_of,
    bins_of,
    by_picture,
    cut_crops,
    mean_of,
    rows_at,
    running_sums,
    shifted,
    side_lengths,
    slice_last,
    slots_for,
    squared,
    stacked,
    suppress,
    to_float,
)

SHIPPED = Path(__file__).parent.parent / "worker" / "detect"
DEFAULT_OUT = SHIPPED / "graphs"

SLOTS = tuple(2**i for i in range(2, 11))
"""A step has so many places for the candidates of each picture: the fewest that hold those of the
picture in the batch that has most. Few shapes let the runtime keep what it has planned for each.
Of more than the most, the best stay."""

FACE_SLOTS = SLOTS[:-2]
"""The same for the last step, where each place costs most and few are needed."""


def table(g: Graph, _: Path) -> None:
    """``frames`` (batch, height, width, 3) uint8 -> ``table`` (batch, rows, columns, 3) int32.

    [y, x] is the sum over all pixels above y and left of x. There are more rows and columns than
    height + 1 and width + 1, up to whole runs; they hold the last sums again.
    """
    frames = g.input("frames", TensorProto.UINT8, "batch", "height", "width", 3)
    sums = g.op("Cast", frames, to=TensorProto.INT32)
    for axis in (1, 2):
        sums = running_sums(g, sums, axis)
    g.output("table", sums, TensorProto.INT32, "batch", "rows", "columns", 3)


def scan(g: Graph, networks: Path) -> None:
    """One level: ``after`` (batch, m, 9) is ``before`` (batch, n, 9) and the level's candidates.

    ``size`` (2,): height and width of the pictures, ``shape`` (2,): those of the level. ``scale``:
    how much that is shrunk. ``threshold``: scalar. A candidate is nine numbers: its score, 0 where
    there is none; its box; the P-Net's regression.
    """
    sums = g.input("table", TensorProto.INT32, "batch", "rows", "columns", 3)
    size, shape = (g.input(name, TensorProto.INT64, 2) for name in ("size", "shape"))
    scale = g.input("scale", TensorProto.FLOAT)
    threshold = g.input("threshold", TensorProto.FLOAT)
    before = g.input("before", TensorProto.FLOAT, "batch", "n", 9)

    (top, bottom), (left, right) = (
        bins_of(g, 0, part, g.op("Range", 0, count, 1), count)
        for part, count in ((g.op("Gather", size, i), g.op("Gather", shape, i)) for i in (0, 1))
    )
    bands = g.op("Sub", *(g.op("Gather", sums, rows, axis=1) for rows in (bottom, top)))
    area = g.op("Sub", *(g.op("Gather", bands, columns, axis=2) for columns in (right, left)))
    heights = g.op("Unsqueeze", g.op("Sub", bottom, top), axes(1))
    pixels = g.op("Unsqueeze", g.op("Mul", heights, g.op("Sub", right, left)), axes(2))
    level = g.op("Transpose", mean_of(g, area, pixels), perm=[0, 3, 1, 2])
    faces, regression = g.network(networks / "pnet.onnx", level)

    scores = g.op("Reshape", faces, np.array([0, -1]))
    slots = slots_for(g, g.op("GreaterOrEqual", scores, threshold), SLOTS)
    # A small level has fewer cells than places.
    room = g.op("Concat", g.op("Shape", faces, start=0, end=1), slots, axis=0)
    padded = g.op("Concat", scores, g.op("Expand", np.array([[-1]], np.float32), room), axis=1)
    best, cells = g.ops("TopK", 2, padded, slots, axis=1)
    found = g.op("GreaterOrEqual", best, threshold)
    cells = g.op("Where", found, cells, 0)

    columns = g.op("Shape", faces, start=2, end=3)
    row = g.op("Div", cells, columns)
    column = g.op("Sub", cells, g.op("Mul", row, columns))
    corner = g.op("Mul", to_float(g, stacked(g, column, row)), 2.0)
    edges = g.op("Concat", g.op("Add", corner, 1.0), g.op("Add", corner, 12.0), axis=2)
    boxes = g.op("Floor", g.op("Div", edges, scale))
    flat = g.op("Reshape", regression, np.array([0, 4, -1]))
    moves = rows_at(g, g.op("Transpose", flat, perm=[0, 2, 1]), cells)

    stays = suppress(g, boxes, best, found, 0.5)
    score = g.op("Unsqueeze", g.op("Where", stays, best, 0.0), axes(2))
    after = g.op("Concat", before, g.op("Concat", score, boxes, moves, axis=2), axis=1)
    g.output("after", after, TensorProto.FLOAT, "batch", "m", 9)


def refine(g: Graph, networks: Path) -> None:
    """``candidates`` (batch, n, 9) that the R-Net lets pass, best first.

    ``size`` (2,): height and width of the pictures. ``boxes`` (batch, k, 4) are squares, ``scores``
    (batch, k) is 0 where there is none.
    """
    sums = g.input("table", TensorProto.INT32, "batch", "rows", "columns", 3)
    size = g.input("size", TensorProto.INT64, 2)
    candidates = g.input("candidates", TensorProto.FLOAT, "batch", "n", 9)
    threshold = g.input("threshold", TensorProto.FLOAT)

    score = g.op("Gather", candidates, 0, axis=2)
    score, order = best_of(g, score, SLOTS)
    candidates = rows_at(g, candidates, order)
    boxes, moves = (slice_last(g, candidates, *part) for part in ((1, 5), (5, 9)))
    alive = suppress(g, boxes, score, g.op("Greater", score, 0.0), 0.7)
    boxes = squared(g, shifted(g, boxes, moves, inclusive=False))

    crops, visible = cut_crops(g, sums, size, boxes, 24)
    faces, regression = (
        by_picture(g, output, boxes) for output in g.network(networks / "rnet.onnx", crops)
    )
    alive = g.op("And", g.op("And", alive, visible), g.op("Greater", faces, threshold))
    alive = suppress(g, boxes, faces, alive, 0.7)
    boxes = squared(g, shifted(g, boxes, regression, inclusive=True))
    best, order = best_of(g, g.op("Where", alive, faces, 0.0), FACE_SLOTS)
    g.output("boxes", rows_at(g, boxes, order), TensorProto.FLOAT, "batch", "k", 4)
    g.output("scores", best, TensorProto.FLOAT, "batch", "k")


def decide(g: Graph, networks: Path) -> None:
    """``boxes`` (batch, n, 4) as the faces that the O-Net sees there, best first.

    ``scores`` (batch, n): 0 where there is no box. ``faces`` (batch, n, 15): score, 0 where there
    is none; box; five landmarks, x before y.
    """
    sums = g.input("table", TensorProto.INT32, "batch", "rows", "columns", 3)
    size = g.input("size", TensorProto.INT64, 2)
    boxes = g.input("boxes", TensorProto.FLOAT, "batch", "n", 4)
    scores = g.input("scores", TensorProto.FLOAT, "batch", "n")
    threshold = g.input("threshold", TensorProto.FLOAT)

    crops, visible = cut_crops(g, sums, size, boxes, 48)
    faces, regression, landmarks = (
        by_picture(g, output, boxes) for output in g.network(networks / "onet.onnx", crops)
    )
    alive = g.op("And", g.op("Greater", scores, 0.0), visible)
    alive = g.op("And", alive, g.op("Greater", faces, threshold))
    extent = g.op("Unsqueeze", side_lengths(g, boxes, inclusive=True), axes(2))
    corner = g.op("Unsqueeze", slice_last(g, boxes, 0, 2), axes(2))
    points = g.op("Sub", g.op("Add", g.op("Mul", extent, landmarks), corner), 1.0)
    boxes = shifted(g, boxes, regression, inclusive=True)
    alive = suppress(g, boxes, faces, alive, 0.7, minimum=True)

    # Of equal scores (the O-Net gives many an exact 1) the last comes first, as in the original.
    score = g.op("Unsqueeze", g.op("Where", alive, faces, 0.0), axes(2))
    flat = g.op("Reshape", points, np.array([0, 0, 10]))
    found = g.op("Concat", score, boxes, flat, axis=2)
    found = g.op("Slice", found, np.array([-1]), np.array([-END]), axes(1), np.array([-1]))
    places = g.op("Shape", boxes, start=1, end=2)
    _, order = g.ops("TopK", 2, g.op("Gather", found, 0, axis=2), places, axis=1)
    g.output("faces", rows_at(g, found, order), TensorProto.FLOAT, "batch", "n", 15)


def export(networks: Path, out: Path) -> list[Path]:
    """Write the four graphs around the networks of one folder into another; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for build in (table, scan, refine, decide):
        name, graph = build.__name__, Graph()
        build(graph, networks)
        path = out / f"{name}.onnx"
        path.write_bytes(graph.model(name, "mtcnn-").SerializeToString(deterministic=True))
        paths.append(path)
    return paths


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.export_graph",
        description="Write the detector's graphs for a GPU around the networks that ship.",
    )
    parser.add_argument("--networks", type=Path, default=SHIPPED, help="folder of the networks")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder for the graphs")
    options = parser.parse_args(arguments)
    for path in export(options.networks, options.out):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
