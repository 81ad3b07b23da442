from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the training extra")

import onnx
import onnxruntime as ort

from training.data import FER2013, Dataset
from training.evaluation import cover, threshold
from training.quantize import (
    CALIBRATION_FACES,
    Agreement,
    calibration_faces,
    compare,
    to_fp16,
    to_int8,
)
from worker.emotion.classifier import SHIPPED, SHIPPED_INT8, Classifier, load_classifier
from worker.errors import ModelError


def opened(model: onnx.ModelProto, folder: Path) -> Classifier:
    """With the shipped model's metadata."""
    metadata = {pair.key: pair.value for pair in onnx.load(SHIPPED).metadata_props}
    onnx.helper.set_model_props(model, metadata)
    onnx.save_model(model, folder / "model.onnx")
    return load_classifier(folder / "model.onnx", "cpu")


def test_comparing_counts_by_hand() -> None:
    """Six pictures, the last without a label; the twin errs on the second and mends the third."""
    reference = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 0]]
    twin = np.eye(3, dtype=np.float32)[[0, 2, 1, 0, 1, 1]]
    known = np.array([True] * 5 + [False])
    found = compare(reference, twin, known, np.array([0, 1, 1, 2, 1]))
    assert found == Agreement(top1=0.5, lost=1, won=1, p=1.0)


@pytest.mark.parametrize(("precision", "enough"), [("fp16", 0.995), ("int8", 0.99)])
def test_too_little_agreement_is_refused_with_the_figures(precision: str, enough: float) -> None:
    Agreement(top1=enough, lost=4, won=2, p=0.6875).check(precision)
    below = Agreement(top1=math.nextafter(enough, 0), lost=4, won=2, p=0.6875)
    with pytest.raises(ModelError, match=r"loses 4 pictures and wins 2 \(p = 0\.69\): at least"):
        below.check(precision)


def test_a_significant_loss_is_refused_and_a_gain_is_not() -> None:
    Agreement(top1=0.999, lost=4, won=15, p=0.019).check("int8")
    with pytest.raises(ModelError, match=r"wins 4 \(p = 0\.019\): a significant loss"):
        Agreement(top1=0.999, lost=15, won=4, p=0.019).check("int8")


def test_calibration_faces_are_drawn_alike_each_time() -> None:
    images = np.arange(2 * CALIBRATION_FACES, dtype=np.uint16)[:, None, None] % 251
    images = np.broadcast_to(images, (len(images), 48, 48)).astype(np.uint8)
    drawn = calibration_faces(images)
    assert drawn.shape == (CALIBRATION_FACES, 48, 48, 1)
    assert drawn[:251].std() > 0
    np.testing.assert_array_equal(drawn, calibration_faces(images))
    assert len(calibration_faces(images[:3])) == 3


def test_half_precision_leaves_temperature_and_softmax_in_float32() -> None:
    whole = onnx.load(SHIPPED)
    before = whole.SerializeToString()
    half = to_fp16(whole)
    assert whole.SerializeToString() == before
    types = {one.name: one.data_type for one in half.graph.initializer}
    cast, division, softmax = half.graph.node[-3:]
    assert [node.op_type for node in (cast, division, softmax)] == ["Cast", "Div", "Softmax"]
    assert cast.attribute[0].i == onnx.TensorProto.FLOAT
    assert types[division.input[1]] == onnx.TensorProto.FLOAT
    weights = [node.input[1] for node in half.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(weights) == 8
    assert {types[name] for name in weights} == {onnx.TensorProto.FLOAT16}


def test_integers_reach_all_but_the_first_convolution_and_no_range_is_wasted(
    tiny: Dataset,
) -> None:
    whole = onnx.load(SHIPPED)
    before = whole.SerializeToString()
    model = to_int8(whole, calibration_faces(tiny.split("Training").images))
    assert whole.SerializeToString() == before
    values = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    made = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 7
    assert values[convolutions[0].input[1]].dtype == np.float32
    for node in convolutions[1:]:
        assert [made[name].op_type for name in node.input] == ["DequantizeLinear"] * 3
        weight, scale, _zero = made[node.input[1]].input
        assert values[weight].dtype == np.int8
        # A scale for each channel that comes out.
        assert values[scale].shape == values[weight].shape[:1]
    # Behind a ReLU nothing is negative: no zero lies elsewhere than at 0.
    zeros = [values[one.input[2]] for one in model.graph.node if one.op_type == "QuantizeLinear"]
    assert {zero.dtype for zero in zeros} == {np.dtype(np.uint8)}
    assert {int(zero) for zero in zeros} == {0}


def test_the_first_pooling_goes_before_its_relu_and_what_the_runtime_makes_of_it_is_integers(
    tiny: Dataset, tmp_path: Path
) -> None:
    """Or the runtime would pool eight-bit integers of the first layer, the slow way."""
    model = to_int8(onnx.load(SHIPPED), calibration_faces(tiny.split("Training").images))
    kinds = [node.op_type for node in model.graph.node]
    first = kinds.index("Conv")
    assert kinds[first : first + 4] == ["Conv", "MaxPool", "Relu", "QuantizeLinear"]

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert (kinds.count("Conv"), kinds.count("QLinearConv")) == (1, 6)
    assert kinds.index("MaxPool") < kinds.index("QuantizeLinear")


def test_a_network_without_pooling_behind_its_first_convolution_can_be_reduced() -> None:
    """Two convolutions, the first read twice: it alone is left as it is, and no step moves."""
    random = np.random.default_rng(0)
    helper = onnx.helper
    weights = [
        random.normal(size=shape).astype(np.float32) for shape in ((4, 1, 3, 3), (4, 4, 1, 1))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["faces"], ["rows"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["rows"], ["float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Conv", ["float", "one"], ["a"], "first"),
            helper.make_node("Relu", ["a"], ["b"], "relu"),
            helper.make_node("Conv", ["b", "two"], ["c"], "second"),
            helper.make_node("Add", ["b", "c"], ["d"], "sum"),
            helper.make_node("GlobalMaxPool", ["d"], ["e"]),
            helper.make_node("Flatten", ["e"], ["answer"]),
        ],
        "network",
        [helper.make_tensor_value_info("faces", onnx.TensorProto.UINT8, ["n", 8, 8, 1])],
        [helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, ["n", 4])],
        [onnx.numpy_helper.from_array(w, n) for w, n in zip(weights, ("one", "two"), strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    faces = random.integers(0, 256, (32, 8, 8, 1), np.uint8)
    small = to_int8(model, faces)
    values = {one.name for one in small.graph.initializer}
    assert "one" in values
    assert "two" not in values
    answers = [
        ort.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"faces": faces}
        )[0]
        for one in (model, small)
    ]
    assert np.abs(answers[0] - answers[1]).max() < 0.03 * np.abs(answers[0]).max()


def test_the_shipped_model_may_be_reduced(fer2013: Dataset, tmp_path: Path) -> None:
    """On the real faces, by the checks that an export must pass."""
    whole = onnx.load(SHIPPED)
    images, labels = fer2013.split("PublicTest").labelled(FER2013)
    known = np.ones(len(labels), bool)
    reference = load_classifier(SHIPPED, "cpu").classify(images[..., None])
    training = fer2013.split("Training").images
    twins = {"fp16": to_fp16(whole), "int8": to_int8(whole, calibration_faces(training))}
    for precision, model in twins.items():
        found = opened(model, tmp_path).classify(images[..., None])
        compare(reference, found, known, labels).check(precision)


def test_the_shipped_twins_keep_their_gates_and_abstain_where_they_are_weak(
    fer2013: Dataset,
) -> None:
    images, labels = fer2013.split("PublicTest").labelled(FER2013)
    models = [load_classifier(path, "cpu") for path in (SHIPPED, SHIPPED_INT8)]
    whole, small = answers = [model.classify(images[..., None]) for model in models]
    compare(whole, small, np.ones(len(labels), bool), labels).check("int8")
    for model, answer in zip(models, answers, strict=True):
        assert model.uncertain_below == pytest.approx(threshold(answer, 0.1), abs=0.002)
        told = cover(answer, labels, model.uncertain_below)
        assert told.accuracy is not None
        assert told.accuracy_declined is not None
        assert 0.9 <= told.answered < 0.91
        assert told.accuracy > 0.73
        assert told.accuracy_declined < 0.4


def test_ranges_of_black_pictures_are_refused(fer2013: Dataset, tmp_path: Path) -> None:
    images, labels = (part[:400] for part in fer2013.split("PublicTest").labelled(FER2013))
    black = np.zeros((64, 48, 48, 1), np.uint8)
    reference = load_classifier(SHIPPED, "cpu").classify(images[..., None])
    found = opened(to_int8(onnx.load(SHIPPED), black), tmp_path).classify(images[..., None])
    agreement = compare(reference, found, np.ones(400, bool), labels)
    with pytest.raises(ModelError, match="the int8 model agrees with fp32 on"):
        agreement.check("int8")
