"""The graphs' parts do what worker/detect's steps do; the committed graphs are the exporter's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from skimage import data

from worker.detect.boxes import shift, square, windows
from worker.detect.nms import nms_by_group, nms_of_smaller
from worker.detect.ongraph import load_graph_detector
from worker.detect.propose import Pyramid
from worker.detect.resample import AreaSampler, TableMemory
from worker.emotion.ongraph import GRAPHS

onnx = pytest.importorskip("onnx", reason="the training extra is not installed")

from onnx import TensorProto  # noqa: E402

import training.export_crop as export_crop  # noqa: E402
import training.export_graph as export_graph  # noqa: E402
from training.graph import Graph  # noqa: E402
from training.graph_parts import cut_crops, running_sums, shifted, squared, suppress  # noqa: E402

SHIPPED = export_graph.SHIPPED


def run(model, inputs, outputs=None):
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(outputs, inputs)


def random_boxes(rng, count):
    """Boxes that overlap in long chains, with scores of which many are equal."""
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(15, 40, (count, 2))], axis=1)
    return boxes.astype(np.float32), (rng.integers(1, 8, count) / 8).astype(np.float32)


@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression_is_the_references(minimum, threshold):
    g = Graph()
    boxes = g.input("boxes", TensorProto.FLOAT, "batch", "k", 4)
    scores = g.input("scores", TensorProto.FLOAT, "batch", "k")
    alive = suppress(g, boxes, scores, g.op("Greater", scores, 0.0), threshold, minimum=minimum)
    g.output("alive", alive, TensorProto.BOOL, "batch", "k")
    model, rng = g.model("suppress"), np.random.default_rng(0)
    for count in (1, 2, 40, 300):
        pairs = [random_boxes(rng, count) for _ in range(3)]
        boxes, scores = (np.stack(part) for part in zip(*pairs, strict=True))
        scores[2] = 0  # nothing there
        (alive,) = run(model, {"boxes": boxes, "scores": scores})
        for i in range(2):
            if minimum:
                expected = nms_of_smaller(boxes[i], scores[i], threshold)
            else:
                one = np.zeros(count, np.int64)
                expected = nms_by_group(boxes[i], scores[i], one, threshold)
            assert np.flatnonzero(alive[i]).tolist() == sorted(expected.tolist())
        assert not alive[2].any()


@pytest.mark.parametrize("size", [(1, 1), (31, 32), (33, 64), (95, 130)])
def test_running_sums_are_the_table(size):
    g = Graph()
    sums = g.input("pixels", TensorProto.INT32, "batch", "rows", "columns", 3)
    for axis in (1, 2):
        sums = running_sums(g, sums, axis)
    g.output("table", sums, TensorProto.INT32, "batch", "a", "b", 3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.int32)
    (table,) = run(g.model("sums"), {"pixels": pixels})
    for one, picture in zip(table, pixels, strict=True):
        expected = cv2.integral(picture.astype(np.uint8))
        np.testing.assert_array_equal(one[: size[0] + 1, : size[1] + 1], expected)


def test_crops_are_the_references_to_the_last_bit():
    g = Graph()
    table = g.input("table", TensorProto.INT32, "batch", "rows", "columns", 3)
    size = g.input("size", TensorProto.INT64, 2)
    boxes = g.input("boxes", TensorProto.FLOAT, "batch", "k", 4)
    crops, visible = cut_crops(g, table, size, boxes, 24)
    g.output("crops", crops, TensorProto.FLOAT, "n", 3, 24, 24)
    g.output("visible", visible, TensorProto.BOOL, "batch", "k")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 150, 200, 3), dtype=np.uint8)
    corner = rng.uniform(-80, 220, (2, 50, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 150, (2, 50, 2))], 2)
    boxes = boxes.astype(np.float32)
    table = np.stack([cv2.integral(picture) for picture in pictures])
    inputs = {"table": table, "size": np.array([150, 200]), "boxes": boxes}
    crops, visible = run(g.model("crops"), inputs)

    sampler, owners = AreaSampler(list(pictures), TableMemory()), np.repeat([0, 1], 50)
    areas, seen = windows(boxes.reshape(-1, 4), np.full(100, 200), np.full(100, 150))
    assert 20 < seen.sum() < 100
    np.testing.assert_array_equal(visible.reshape(-1), seen)
    expected = sampler.crops(owners[seen], areas[seen], 24)
    np.testing.assert_array_equal(crops[seen], expected)


@pytest.mark.parametrize("inclusive", [False, True])
def test_boxes_move_and_become_squares_as_in_the_reference(inclusive):
    g = Graph()
    boxes = g.input("boxes", TensorProto.FLOAT, "batch", "k", 4)
    moves = g.input("moves", TensorProto.FLOAT, "batch", "k", 4)
    moved = squared(g, shifted(g, boxes, moves, inclusive=inclusive))
    g.output("moved", moved, TensorProto.FLOAT, "batch", "k", 4)
    rng = np.random.default_rng(0)
    boxes, _ = random_boxes(rng, 50)
    moves = rng.uniform(-0.2, 0.2, (50, 4)).astype(np.float32)
    (moved,) = run(g.model("boxes"), {"boxes": boxes[None], "moves": moves[None]})
    expected = square(shift(boxes, moves, inclusive=inclusive))
    np.testing.assert_allclose(moved[0], expected, atol=1e-5)


def test_of_more_candidates_than_places_the_best_stay(tmp_path, monkeypatch):
    picture = np.tile(cv2.resize(data.astronaut(), (150, 150)), (3, 4, 1))
    scale = 12 / 40
    shape = [int(length * scale + 1) for length in picture.shape[:2]]
    sampler = AreaSampler([picture], TableMemory())
    sampler.prepare(0)
    faces, _ = run((SHIPPED / "pnet.onnx").read_bytes(), {"images": sampler.level([0], *shape)})
    monkeypatch.setattr(export_graph, "SLOTS", (4, 8))
    export_graph.export(SHIPPED, tmp_path)
    table = cv2.integral(picture)[None]
    given = {
        "table": table, "size": np.array(picture.shape[:2]), "shape": np.array(shape),
        "scale": np.array(scale, np.float32), "threshold": np.array(0.6, np.float32),
        "before": np.zeros((1, 0, 9), np.float32),
    }  # fmt: skip
    (after,) = run((tmp_path / "scan.onnx").read_bytes(), given)
    best = np.sort(faces.ravel())[::-1]
    assert best[8] >= 0.6  # there are more
    assert after.shape == (1, 8, 9)
    kept = after[0, after[0, :, 0] > 0, 0]
    assert kept[0] == best[0]
    assert set(kept.tolist()) <= set(best[:8].tolist())

    # And the whole detector goes on with those.
    def detector(folder):
        return load_graph_detector(
            pyramid=Pyramid(40, 0.709), thresholds=(0.6, 0.7, 0.7), provider="cpu", folder=folder
        )

    (all_faces,), (some) = (
        detector(folder).detect([picture]) for folder in (export_graph.DEFAULT_OUT, tmp_path)
    )
    assert 1 <= len(some[0]) < len(all_faces)


def test_exporter_makes_the_committed_graphs(tmp_path):
    paths = export_graph.export(SHIPPED, tmp_path)
    assert [path.name for path in paths] == [
        "table.onnx", "scan.onnx", "refine.onnx", "decide.onnx",
    ]  # fmt: skip
    for path in paths:
        ours, committed = onnx.load(path), onnx.load(export_graph.DEFAULT_OUT / path.name)
        assert ours.graph == committed.graph
        assert {p.key: p.value for p in committed.metadata_props} == {
            "name": f"mtcnn-{path.stem}",
            "version": "1.0.0",
        }


def test_exporter_makes_the_committed_graphs_of_crops(tmp_path, capsys):
    export_crop.main(["--out", str(tmp_path / "new")])
    said = capsys.readouterr().out
    for name in ("crop", "sharpness"):
        path = tmp_path / "new" / f"{name}.onnx"
        assert str(path) in said
        assert path.read_bytes() == (GRAPHS / f"{name}.onnx").read_bytes()


def test_every_operator_has_a_cuda_kernel():
    # One that has none would bring its input back from the device. After onnxruntime's list
    # (docs/OperatorKernels.md), which says so for the types, too, that these graphs give them.
    with_kernel = (
        "Add And Cast Clip Concat Conv CumSum Div Equal Exp Expand Floor Gather GatherND Gemm "
        "Greater GreaterOrEqual Identity Less MatMul Max MaxPool Min Mul Neg Or PRelu Range "
        "Reciprocal ReduceMax ReduceMin ReduceSum Relu Reshape Round Shape Slice Softmax Squeeze "
        "Sub TopK Transpose Unsqueeze Where"
    )
    for path in [
        *export_graph.DEFAULT_OUT.glob("*.onnx"),
        *(GRAPHS / f"{name}.onnx" for name in ("crop", "sharpness")),
    ]:
        assert {node.op_type for node in onnx.load(path).graph.node} <= {*with_kernel.split()}


def test_the_command_writes_where_it_is_told(tmp_path, capsys):
    export_graph.main(["--out", str(tmp_path / "new")])
    written = {path.name for path in Path(tmp_path / "new").iterdir()}
    assert written == {"table.onnx", "scan.onnx", "refine.onnx", "decide.onnx"}
    assert "decide.onnx" in capsys.readouterr().out
