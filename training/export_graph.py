"""Write the detector's graphs for a GPU: the steps of worker/detect between and around the networks.

    python -m training.export_graph [--networks worker/detect] [--out worker/detect/ongraph]

worker/detect/mtcnn.py shrinks, sorts and suppresses with numpy between the networks; on a GPU each
such step would bring pictures or candidates back from the device. Here the same steps are ONNX
operators around the networks that ship, so that all of it stays on the device:

- table.onnx: pictures -> their summed-area tables, from which every later graph takes its pixels.
- scan.onnx: one level of the pyramid -> its candidates (P-Net), added to those of the levels before.
- refine.onnx: all candidates -> those that the R-Net lets pass.
- decide.onnx: candidates, or known faces -> faces (O-Net).

One graph for each step and not one for all: how many levels there are depends on the picture's size
and on settings, and how many candidates there are is known only after the scan. So no graph depends
on a size, none is made at run time, and only the number of candidates leaves the device on the way.

The operators are those for which onnxruntime has CUDA kernels. Its NonMaxSuppression knows neither
MTCNN's overlap by the smaller area nor a fixed number of results: ``_suppress`` is a few matrix
products instead. Its CumSum adds up every prefix from the start: ``_running_sums`` goes in two
steps, 32 pixels and then the sums of 32. Sums of pixels are whole numbers, so they agree with the
reference exactly, whatever precision the networks run in.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
VERSION = "1.0.0"
SHIPPED = Path(__file__).parent.parent / "worker" / "detect"
DEFAULT_OUT = SHIPPED / "ongraph"

CELL_CAP = 512
"""Cells of one level of one picture that can be candidates, the best ones."""

_ROUNDS = 16
"""Of suppression; see ``_suppress``."""

_RUN = 32
"""Pixels that are summed at once; see ``_running_sums``."""

_END = np.iinfo(np.int64).max

Value = str | int | float | npt.NDArray[np.generic]
"""The name of a tensor in a graph, or a constant: int64 or float32 where it is a plain number."""


class Graph:
    """An ONNX graph in the making: each call adds one operator and returns its output's name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._networks: list[onnx.TensorProto] = []

    def input(self, name: str, kind: int, *shape: str | int) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str, kind: int, *shape: str | int) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def op(self, operator: str, *inputs: Value, **attributes: int) -> str:
        return self.ops(operator, 1, *inputs, **attributes)[0]

    def ops(self, operator: str, outputs: int, *inputs: Value, **attributes: int) -> list[str]:
        """An operator with several outputs."""
        names = [f"{operator}_{len(self._nodes)}_{i}" for i in range(outputs)]
        given = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self._nodes.append(helper.make_node(operator, given, names, **attributes))
        return names

    def network(self, path: Path, images: str) -> list[str]:
        """All of another model, at work on ``images``; its outputs."""
        model, prefix = onnx.load(path), f"{path.stem}_"
        renamed = {"": "", model.graph.input[0].name: images}
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, prefix + name) for name in names]
            node.name = ""
        for weights in model.graph.initializer:
            weights.name = prefix + weights.name
        self._nodes += model.graph.node
        self._networks += model.graph.initializer
        return [prefix + output.name for output in model.graph.output]

    def model(self, name: str) -> onnx.ModelProto:
        """The finished model, checked."""
        constants = [*self._networks, *self._constants.values()]
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10
        )
        properties = {"name": f"mtcnn-{name}", "version": VERSION, "cell_cap": str(CELL_CAP)}
        helper.set_model_props(model, properties)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _constant(self, value: int | float | npt.NDArray[np.generic]) -> str:
        if not isinstance(value, np.ndarray):
            value = np.array(value, np.int64 if isinstance(value, int) else np.float32)
        key = value.dtype.str, value.shape, value.tobytes()
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(value, f"c{len(self._constants)}")
        return self._constants[key].name


def table(g: Graph) -> None:
    """``frames`` (batch, height, width, 3) uint8 -> ``table`` (batch, rows, columns, 3) int32.

    [y, x] is the sum over all pixels above y and left of x. There are more rows and columns than
    height + 1 and width + 1, up to whole runs; they hold the last sums again.
    """
    frames = g.input("frames", TensorProto.UINT8, "batch", "height", "width", 3)
    sums = g.op("Cast", frames, to=TensorProto.INT32)
    for axis in (1, 2):
        sums = _running_sums(g, sums, axis)
    g.output("table", sums, TensorProto.INT32, "batch", "rows", "columns", 3)


def scan(g: Graph, networks: Path) -> None:
    """One level: ``after`` is ``before`` with CELL_CAP candidates more, best first.

    ``top``, ``bottom`` (h,) and ``left``, ``right`` (w,): each output pixel's bin, ends exclusive.
    ``scale``, ``threshold``: scalars. A candidate is nine numbers: its score, 0 where there is none;
    its box; the P-Net's regression. ``counts`` (batch,): how many of ``after`` are there.
    """
    sums = g.input("table", TensorProto.INT32, "batch", "rows", "columns", 3)
    top, bottom = (g.input(n, TensorProto.INT64, "h") for n in ("top", "bottom"))
    left, right = (g.input(n, TensorProto.INT64, "w") for n in ("left", "right"))
    scale = g.input("scale", TensorProto.FLOAT)
    threshold = g.input("threshold", TensorProto.FLOAT)
    before = g.input("before", TensorProto.FLOAT, "batch", "n", 9)

    bands = g.op("Sub", *(g.op("Gather", sums, rows, axis=1) for rows in (bottom, top)))
    area = g.op("Sub", *(g.op("Gather", bands, columns, axis=2) for columns in (right, left)))
    heights = g.op("Unsqueeze", g.op("Sub", bottom, top), _axes(1))
    pixels = g.op("Unsqueeze", g.op("Mul", heights, g.op("Sub", right, left)), _axes(2))
    level = g.op("Transpose", _mean(g, area, pixels), perm=[0, 3, 1, 2])
    faces, regression = g.network(networks / "pnet.onnx", level)

    # There may be fewer cells than a level's share of candidates.
    scores = g.op("Reshape", faces, np.array([0, -1]))
    batch = g.op("Shape", faces, start=0, end=1)
    room = g.op("Concat", batch, np.array([CELL_CAP]), axis=0)
    padded = g.op("Concat", scores, g.op("Expand", np.float32([[-1]]), room), axis=1)
    best, cells = g.ops("TopK", 2, padded, np.array([CELL_CAP]), axis=1)
    found = g.op("GreaterOrEqual", best, threshold)
    cells = g.op("Where", found, cells, 0)

    columns = g.op("Shape", faces, start=2, end=3)
    row = g.op("Div", cells, columns)
    column = g.op("Sub", cells, g.op("Mul", row, columns))
    corner = g.op("Mul", _float(g, _stacked(g, column, row)), 2.0)
    edges = g.op("Concat", g.op("Add", corner, 1.0), g.op("Add", corner, 12.0), axis=2)
    boxes = g.op("Floor", g.op("Div", edges, scale))
    flat = g.op("Reshape", regression, np.array([0, 4, -1]))
    moves = _rows_at(g, g.op("Transpose", flat, perm=[0, 2, 1]), cells)

    stays = _suppress(g, boxes, best, found, 0.5)
    score = g.op("Unsqueeze", g.op("Where", stays, best, 0.0), _axes(2))
    after = g.op("Concat", before, g.op("Concat", score, boxes, moves, axis=2), axis=1)
    g.output("after", after, TensorProto.FLOAT, "batch", "m", 9)
    _output_counts(g, g.op("Gather", after, 0, axis=2))


def refine(g: Graph, networks: Path) -> None:
    """The ``slots`` best candidates of each picture, as many as pass left of them, best first.

    ``size`` (2,): height and width of the pictures. ``slots`` (1,): at most n. ``boxes`` (batch,
    slots, 4) are squares, ``scores`` (batch, slots) 0 where there is none, ``counts`` (batch,).
    """
    sums = g.input("table", TensorProto.INT32, "batch", "rows", "columns", 3)
    size = g.input("size", TensorProto.INT64, 2)
    candidates = g.input("candidates", TensorProto.FLOAT, "batch", "n", 9)
    slots = g.input("slots", TensorProto.INT64, 1)
    threshold = g.input("threshold", TensorProto.FLOAT)

    score, order = g.ops("TopK", 2, g.op("Gather", candidates, 0, axis=2), slots, axis=1)
    candidates = _rows_at(g, candidates, order)
    boxes, moves = (_columns(g, candidates, *part) for part in ((1, 5), (5, 9)))
    alive = _suppress(g, boxes, score, g.op("Greater", score, 0.0), 0.7)
    boxes = _square(g, _shift(g, boxes, moves, inclusive=False))

    crops, visible = _crops(g, sums, size, boxes, 24)
    faces, regression = (
        _by_picture(g, output, boxes) for output in g.network(networks / "rnet.onnx", crops)
    )
    alive = g.op("And", g.op("And", alive, visible), g.op("Greater", faces, threshold))
    alive = _suppress(g, boxes, faces, alive, 0.7)
    boxes = _square(g, _shift(g, boxes, regression, inclusive=True))
    best, order = g.ops("TopK", 2, g.op("Where", alive, faces, 0.0), slots, axis=1)
    g.output("boxes", _rows_at(g, boxes, order), TensorProto.FLOAT, "batch", "k", 4)
    g.output("scores", best, TensorProto.FLOAT, "batch", "k")
    _output_counts(g, best)


def decide(g: Graph, networks: Path) -> None:
    """The first ``slots`` boxes of each picture, as the faces that the O-Net sees there, best first.

    ``boxes`` (batch, n, 4), ``scores`` (batch, n): 0 where there is no box. ``slots`` (1,): at most
    n. ``faces`` (batch, slots, 16): score, 0 where there is none; box; five landmarks, x before y;
    the index of the box that the face came from. ``counts`` (batch,).
    """
    sums = g.input("table", TensorProto.INT32, "batch", "rows", "columns", 3)
    size = g.input("size", TensorProto.INT64, 2)
    boxes = g.input("boxes", TensorProto.FLOAT, "batch", "n", 4)
    scores = g.input("scores", TensorProto.FLOAT, "batch", "n")
    slots = g.input("slots", TensorProto.INT64, 1)
    threshold = g.input("threshold", TensorProto.FLOAT)

    boxes, scores = (
        g.op("Slice", value, np.array([0]), slots, _axes(1)) for value in (boxes, scores)
    )
    crops, visible = _crops(g, sums, size, boxes, 48)
    faces, regression, landmarks = (
        _by_picture(g, output, boxes) for output in g.network(networks / "onet.onnx", crops)
    )
    alive = g.op("And", g.op("Greater", scores, 0.0), visible)
    alive = g.op("And", alive, g.op("Greater", faces, threshold))
    extent = g.op("Unsqueeze", _sides(g, boxes, inclusive=True), _axes(2))
    corner = g.op("Unsqueeze", _columns(g, boxes, 0, 2), _axes(2))
    points = g.op("Sub", g.op("Add", g.op("Mul", extent, landmarks), corner), 1.0)
    boxes = _shift(g, boxes, regression, inclusive=True)
    alive = _suppress(g, boxes, faces, alive, 0.7, minimum=True)

    # Of equal scores, and the O-Net gives many an exact 1, the last comes first, as in the original.
    score = g.op("Where", alive, faces, 0.0)
    index = g.op("CumSum", g.op("Expand", np.float32([1]), g.op("Shape", score)), 1, exclusive=1)
    parts = [g.op("Unsqueeze", value, _axes(2)) for value in (score, index)]
    flat = g.op("Reshape", points, np.array([0, 0, 10]))
    found = g.op("Concat", parts[0], boxes, flat, parts[1], axis=2)
    found = g.op("Slice", found, np.array([-1]), np.array([-_END]), _axes(1), np.array([-1]))
    best, order = g.ops("TopK", 2, g.op("Gather", found, 0, axis=2), slots, axis=1)
    g.output("faces", _rows_at(g, found, order), TensorProto.FLOAT, "batch", "k", 16)
    _output_counts(g, best)


def _axes(*axes: int) -> npt.NDArray[np.int64]:
    return np.array(axes, np.int64)


def _float(g: Graph, value: str) -> str:
    return g.op("Cast", value, to=TensorProto.FLOAT)


def _columns(g: Graph, value: str, start: int, end: int) -> str:
    """Some of the last axis of (batch, k, ...)."""
    return g.op("Slice", value, np.array([start]), np.array([end]), _axes(2))


def _stacked(g: Graph, *parts: str) -> str:
    """(batch, k) each -> (batch, k, parts)."""
    return g.op("Concat", *(g.op("Unsqueeze", part, _axes(2)) for part in parts), axis=2)


def _rows_at(g: Graph, values: str, order: str) -> str:
    """``values`` (batch, n, c) at ``order`` (batch, k), as (batch, k, c)."""
    return g.op("GatherND", values, g.op("Unsqueeze", order, _axes(2)), batch_dims=1)


def _by_picture(g: Graph, values: str, boxes: str) -> str:
    """What a network said of each crop (batch * k, ...), as (batch, k, ...)."""
    leading = g.op("Shape", boxes, start=0, end=2)
    return g.op("Reshape", values, g.op("Concat", leading, g.op("Shape", values, start=1), axis=0))


def _output_counts(g: Graph, scores: str) -> None:
    counts = g.op("ReduceSum", _float(g, g.op("Greater", scores, 0.0)), _axes(1), keepdims=0)
    g.output("counts", g.op("Cast", counts, to=TensorProto.INT64), TensorProto.INT64, "batch")


def _running_sums(g: Graph, values: str, axis: int) -> str:
    """Sums (batch, rows, columns, 3) of all before each place of ``axis``, longer by it and more."""
    length = g.op("Shape", values, start=axis, end=axis + 1)
    whole = g.op("Mul", g.op("Add", g.op("Div", length, _RUN), 1), _RUN)
    lead, tail = (
        g.op("Concat", g.op("Shape", values, end=axis), part, g.op("Shape", values, start=axis + 1), axis=0)
        for part in (np.array([1]), g.op("Sub", g.op("Sub", whole, length), 1))
    )  # fmt: skip
    zero = np.int32([0])
    values = g.op(
        "Concat", g.op("Expand", zero, lead), values, g.op("Expand", zero, tail), axis=axis
    )
    full = g.op("Shape", values)
    runs = g.op(
        "Concat", g.op("Shape", values, end=axis), np.array([-1, _RUN]),
        g.op("Shape", values, start=axis + 1), axis=0,
    )  # fmt: skip
    inside = g.op("CumSum", g.op("Reshape", values, runs), axis + 1)
    totals = g.op("Slice", inside, np.array([-1]), np.array([_END]), _axes(axis + 1))
    return g.op(
        "Reshape", g.op("Add", inside, g.op("CumSum", totals, axis, exclusive=1)), full
    )


def _mean(g: Graph, sums: str, pixels: str) -> str:
    return g.op("Div", _float(g, sums), _float(g, pixels))


def _sides(g: Graph, boxes: str, *, inclusive: bool) -> str:
    """Widths and heights (batch, k, 2)."""
    sides = g.op("Sub", _columns(g, boxes, 2, 4), _columns(g, boxes, 0, 2))
    return g.op("Add", sides, 1.0) if inclusive else sides


def _shift(g: Graph, boxes: str, regression: str, *, inclusive: bool) -> str:
    """worker.detect.boxes.shift"""
    sides = _sides(g, boxes, inclusive=inclusive)
    return g.op("Add", boxes, g.op("Mul", regression, g.op("Concat", sides, sides, axis=2)))


def _square(g: Graph, boxes: str) -> str:
    """worker.detect.boxes.square"""
    sides = _sides(g, boxes, inclusive=False)
    side = g.op("ReduceMax", sides, _axes(2))
    middle = g.op("Add", _columns(g, boxes, 0, 2), g.op("Mul", sides, 0.5))
    corner = g.op("Sub", middle, g.op("Mul", side, 0.5))
    return g.op("Concat", corner, g.op("Add", corner, side), axis=2)


def _crops(g: Graph, sums: str, size: str, boxes: str, side: int) -> tuple[str, str]:
    """What each box covers, shrunk to (batch * k, 3, side, side); and whether it covers anything.

    worker.detect.boxes.windows and worker.detect.resample.AreaSampler.crops.
    """
    edges = g.op("Cast", boxes, to=TensorProto.INT64)  # towards zero
    first = g.op("Sub", g.op("Max", _columns(g, edges, 0, 2), 1), 1)
    limits = g.op("Gather", size, np.array([1, 0]))
    length = g.op("Sub", g.op("Min", _columns(g, edges, 2, 4), limits), first)
    shortest = g.op("ReduceMin", length, _axes(2), keepdims=0)
    visible = g.op("Greater", shortest, 0)
    seen = g.op("Unsqueeze", visible, _axes(2))
    first, length = g.op("Where", seen, first, 0), g.op("Where", seen, length, 1)

    pixel = np.arange(side)
    starts, spans = (g.op("Unsqueeze", value, _axes(3)) for value in (first, length))
    low = g.op("Add", starts, g.op("Div", g.op("Mul", spans, pixel), side))
    upto = g.op("Add", g.op("Mul", spans, pixel + 1), side - 1)
    high = g.op("Add", starts, g.op("Div", upto, side))

    batch, rows, columns = (g.op("Shape", sums, start=i, end=i + 1) for i in range(3))
    picture = g.op("Range", 0, g.op("Squeeze", batch), 1)
    offset = g.op("Reshape", g.op("Mul", picture, rows), np.array([-1, 1, 1, 1]))
    flat = g.op("Reshape", sums, np.array([-1, 3]))

    def part(value: str, axis: int) -> str:
        return g.op("Gather", value, axis, axis=2)

    # Rows of the flattened table as (batch, k, side, 1), columns as (batch, k, 1, side).
    above, below = (
        g.op("Mul", g.op("Add", g.op("Unsqueeze", part(value, 1), _axes(3)), offset), columns)
        for value in (low, high)
    )
    before, behind = (g.op("Unsqueeze", part(value, 0), _axes(2)) for value in (low, high))

    def at(row: str, column: str) -> str:
        return g.op("Gather", flat, g.op("Add", row, column), axis=0)

    lower = g.op("Sub", at(below, behind), at(below, before))
    upper = g.op("Sub", at(above, behind), at(above, before))
    widths, heights = (part(g.op("Sub", high, low), axis) for axis in (0, 1))
    pixels = g.op("Mul", g.op("Unsqueeze", heights, _axes(3)), g.op("Unsqueeze", widths, _axes(2)))
    crops = _mean(g, g.op("Sub", lower, upper), g.op("Unsqueeze", pixels, _axes(4)))
    crops = g.op("Reshape", crops, np.array([-1, side, side, 3]))
    return g.op("Transpose", crops, perm=[0, 3, 1, 2]), visible


def _suppress(
    g: Graph, boxes: str, scores: str, alive: str, threshold: float, *, minimum: bool = False
) -> str:
    """Non-maximum suppression, worker.detect.nms: which of (batch, k) stay alive.

    "I stay if none that stays beats me", for all at once, in rounds. After an even number of rounds
    none is missing of those that stay; each round settles one more link of a chain of boxes that
    beat each other. On the hardest of our pictures seven rounds settle all; there are sixteen.
    """
    extra = 1.0 if minimum else 0.0
    left, top, right, bottom = (
        g.op("Gather", boxes, np.array([i]), axis=2) for i in range(4)
    )

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

    score, present = (g.op("Unsqueeze", value, _axes(2)) for value in (scores, alive))
    index = g.op("CumSum", g.op("Expand", np.float32([1]), g.op("Shape", score)), 1)
    earlier = g.op("Greater" if minimum else "Less", index, across(index))
    better = g.op(
        "Or",
        g.op("Greater", score, across(score)),
        g.op("And", g.op("Equal", score, across(score)), earlier),
    )
    both = g.op("And", present, across(present))
    beats = _float(g, g.op("And", g.op("And", overlap, better), both))
    stays = across(_float(g, present))
    here = stays
    for _ in range(_ROUNDS):
        beaten = g.op("Greater", g.op("MatMul", stays, beats), 0.5)
        stays = g.op("Where", beaten, 0.0, here)
    return g.op("Squeeze", g.op("Greater", stays, 0.5), _axes(1))


def export(networks: Path, out: Path) -> list[Path]:
    """Write the four graphs around the networks of one folder into another; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, build in (("scan", scan), ("refine", refine), ("decide", decide), ("table", None)):
        graph = Graph()
        if build is None:
            table(graph)
        else:
            build(graph, networks)
        path = out / f"{name}.onnx"
        path.write_bytes(graph.model(name).SerializeToString(deterministic=True))
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
