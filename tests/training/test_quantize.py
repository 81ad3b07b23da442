from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the training extra")

import onnx

from training.data import FER2013, Dataset
from training.quantize import (
    CALIBRATION_FACES,
    Agreement,
    calibration_faces,
    compare,
    to_fp16,
    to_int8,
)
from worker.emotion.classifier import SHIPPED, Classifier, load_classifier
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


def test_integers_reach_all_convolutions_and_no_negative_range_is_wasted(tiny: Dataset) -> None:
    whole = onnx.load(SHIPPED)
    before = whole.SerializeToString()
    model = to_int8(whole, calibration_faces(tiny.split("Training").images))
    assert whole.SerializeToString() == before
    values = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    made = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 7
    for node in convolutions:
        assert [made[name].op_type for name in node.input] == ["DequantizeLinear"] * 3
        weight, scale, _zero = made[node.input[1]].input
        assert values[weight].dtype == np.int8
        # A scale for each channel that comes out.
        assert values[scale].shape == values[weight].shape[:1]
    # Behind a ReLU nothing is negative: only the picture itself has its zero elsewhere than at 0.
    zeros = [values[one.input[2]] for one in model.graph.node if one.op_type == "QuantizeLinear"]
    assert {zero.dtype for zero in zeros} == {np.dtype(np.uint8)}
    assert sorted(int(zero) > 0 for zero in zeros)[-2:] == [False, True]


def test_the_shipped_model_may_be_reduced(fer2013: Dataset, tmp_path: Path) -> None:
    """On the real faces, by the checks that an export must pass."""
    whole = onnx.load(SHIPPED)
    images, labels = fer2013.split("PublicTest").labelled(FER2013)
    known = np.ones(len(labels), bool)
    reference = load_classifier(None, "cpu").classify(images[..., None])
    training = fer2013.split("Training").images
    twins = {"fp16": to_fp16(whole), "int8": to_int8(whole, calibration_faces(training))}
    for precision, model in twins.items():
        found = opened(model, tmp_path).classify(images[..., None])
        compare(reference, found, known, labels).check(precision)


def test_ranges_of_black_pictures_are_refused(fer2013: Dataset, tmp_path: Path) -> None:
    images, labels = (part[:400] for part in fer2013.split("PublicTest").labelled(FER2013))
    black = np.zeros((64, 48, 48, 1), np.uint8)
    reference = load_classifier(None, "cpu").classify(images[..., None])
    found = opened(to_int8(onnx.load(SHIPPED), black), tmp_path).classify(images[..., None])
    agreement = compare(reference, found, np.ones(400, bool), labels)
    assert agreement.top1 < 0.9
    with pytest.raises(ModelError, match="the int8 model agrees with fp32 on"):
        agreement.check("int8")
