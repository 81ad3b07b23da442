"""The model files beside the code: small, cheap, and what they say they are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from worker.capture.sources import open_source
from worker.demo import sample_clip
from worker.detect.mtcnn import load_detector
from worker.emotion.align import crop_faces
from worker.emotion.classifier import SHIPPED, SHIPPED_INT8, load_classifier


@pytest.mark.parametrize(
    ("path", "size", "version"), [(SHIPPED, 4_000_000, "2.1"), (SHIPPED_INT8, 1e6, "2.1-int8")]
)
def test_it_is_small_and_opens(path: Path, size: float, version: str) -> None:
    assert path.stat().st_size < size

    classifier = load_classifier(path, "cpu")

    expected = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert classifier.labels == expected
    assert (classifier.size, classifier.colour) == (48, "gray")
    assert (classifier.info.name, classifier.info.version) == ("mien-cnn", version)
    assert -0.2 < classifier.margin < 0.2
    assert 0.3 < classifier.uncertain_below < 0.5


def test_parameters_and_multiply_adds() -> None:
    onnx = pytest.importorskip("onnx", reason="reads the graph with onnx")
    model = onnx.load(SHIPPED)

    parameters = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    assert parameters <= 2_000_000
    assert parameters >= 100_000  # the weights are in the file, not beside it

    assert 1e6 < multiply_adds(onnx, model) <= 60e6


def multiply_adds(onnx: object, model: object) -> int:
    """Of convolutions and matrix products, for one face."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    batch.dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    graph = inferred.graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    total = 0
    for node in graph.node:
        assert node.op_type not in ("ConvTranspose", "LSTM", "GRU", "Einsum", "Attention")
        if node.op_type == "Conv":
            # Each output value takes one multiply-add for each weight of its filter.
            total += math.prod(shapes[node.output[0]]) * math.prod(weights[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            total += math.prod(weights[node.input[1]])
    return total


def test_from_a_picture_to_probabilities() -> None:
    """The whole way of a worker: boxes of every kind in, one row of probabilities each."""
    classifier = load_classifier(None, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    boxes = np.array(
        [[10, 10, 60, 60], [np.nan] * 4, [140, 100, 200, 180], [500, 500, 600, 600]], np.float32
    )

    crops = crop_faces(
        image,
        boxes,
        size=classifier.size,
        margin=classifier.margin,
        colour=classifier.colour,
    )
    probabilities = classifier.classify(crops)

    assert probabilities.shape == (4, 7)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_eight_bits_say_what_float32_says_of_the_sample_clip() -> None:
    """Faces as a worker finds them."""
    if load_classifier(None, "cpu").info.version != "2.1-int8":
        pytest.skip("this processor lacks VNNI, and workers on it do not run the eight-bit model")
    whole, small = load_classifier(SHIPPED, "cpu"), load_classifier(SHIPPED_INT8, "cpu")
    detector = load_detector()
    crops = []
    with open_source(str(sample_clip())) as source:
        for index, picture in enumerate(source.pictures()):
            if index % 10 == 0:
                (found,) = detector.detect([picture.image])
                cut = {"size": whole.size, "margin": whole.margin, "colour": whole.colour}
                crops.append(crop_faces(picture.image, found.boxes, **cut))
    faces = np.concatenate(crops)
    assert len(faces) > 30
    before, after = whole.classify(faces), small.classify(faces)
    assert not np.array_equal(before, after)
    same = before.argmax(axis=1) == after.argmax(axis=1)
    assert same.mean() >= 0.97
    # Where they part, both hesitate between the two labels.
    assert np.abs(np.diff(np.sort(before[~same], axis=1)[:, -2:])).max(initial=0) < 0.1
    assert np.abs(before - after).mean() < 0.01
