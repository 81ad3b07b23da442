from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort
import pytest

from worker.binding import Rows
from worker.emotion import classifier as classifier_module
from worker.emotion.classifier import (
    FACES_A_CALL,
    SHIPPED,
    SHIPPED_INT8,
    Classifier,
    load_classifier,
)
from worker.errors import ModelError
from worker.inference import Network

onnx = pytest.importorskip("onnx", reason="the models of these tests are made with onnx")

LABELS = ["calm", "glad", "sour"]

METADATA = {
    "name": "toy",
    "version": "7",
    "labels": json.dumps(LABELS),
    "input_size": "8",
    "colour": "gray",
    "margin": "-0.05",
    "temperature": "1.5",
}

MakeModel = Callable[..., Path]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Write a model that looks at each crop's mean value only.

    Probability of label i is softmax(mean / 255 * i). ``skip_first`` makes it answer one row too
    few, which nothing in the file tells.
    """

    def make(
        metadata: dict[str, str] | None = None,
        *,
        crop: tuple[int, int, int] = (8, 8, 1),
        outputs: int = 3,
        input_type: int = onnx.TensorProto.UINT8,
        batch: str | int = "batch",
        skip_first: bool = False,
    ) -> Path:
        helper = onnx.helper
        nodes = [
            helper.make_node("Cast", ["faces"], ["float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=1),
            helper.make_node("Reshape", ["mean", "column"], ["flat"]),
            helper.make_node("Slice", ["flat", "first", "end"], ["rows"]),
            helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ]
        graph = helper.make_graph(
            nodes,
            "toy",
            [helper.make_tensor_value_info("faces", input_type, [batch, *crop])],
            [
                helper.make_tensor_value_info(
                    "probabilities", onnx.TensorProto.FLOAT, [batch, outputs]
                )
            ],
            [
                helper.make_tensor("axes", onnx.TensorProto.INT64, [3], [1, 2, 3]),
                helper.make_tensor("column", onnx.TensorProto.INT64, [2], [-1, 1]),
                helper.make_tensor("first", onnx.TensorProto.INT64, [1], [int(skip_first)]),
                helper.make_tensor("end", onnx.TensorProto.INT64, [1], [2**31]),
                helper.make_tensor(
                    "weights",
                    onnx.TensorProto.FLOAT,
                    [1, outputs],
                    [index / 255 for index in range(outputs)],
                ),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        helper.set_model_props(model, METADATA if metadata is None else metadata)
        path = tmp_path / "toy.onnx"
        onnx.save_model(model, path)
        return path

    return make


def toy_probabilities(means: np.ndarray) -> np.ndarray:
    logits = means[:, None] / 255 * np.arange(3)
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def flat_crops(values: np.ndarray) -> np.ndarray:
    return np.broadcast_to(values.astype(np.uint8)[:, None, None, None], (len(values), 8, 8, 1))


def test_reads_what_the_file_says(make_model: MakeModel) -> None:
    classifier = load_classifier(make_model(), "cpu")

    assert classifier.labels == tuple(LABELS)
    assert (classifier.size, classifier.colour) == (8, "gray")
    assert (classifier.margin, classifier.temperature) == (-0.05, 1.5)
    assert classifier.uncertain_below == 0
    assert (classifier.info.name, classifier.info.version) == ("toy", "7")
    assert len(classifier.info.digest) == 16


@pytest.mark.parametrize("n", [0, 1, FACES_A_CALL, FACES_A_CALL + 1, 200])
def test_one_row_a_face_in_order(make_model: MakeModel, n: int) -> None:
    values = np.arange(n) % 256

    answer = load_classifier(make_model(), "cpu").classify(flat_crops(values))

    assert answer.shape == (n, 3)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, toy_probabilities(values), atol=1e-6)


def test_an_abstention_threshold_is_optional(make_model: MakeModel) -> None:
    path = make_model(METADATA | {"uncertain_below": "0.4"})
    assert load_classifier(path, "cpu").uncertain_below == 0.4


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((2, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((2, 9, 8, 1), np.uint8),
        np.zeros((2, 8, 8, 1), np.float32),
    ],
)
def test_other_crops_are_refused(make_model: MakeModel, crops: np.ndarray) -> None:
    with pytest.raises(ValueError, match="crops must be uint8"):
        load_classifier(make_model(), "cpu").classify(crops)


def test_a_graph_that_answers_fewer_rows_is_caught(make_model: MakeModel) -> None:
    classifier = load_classifier(make_model(skip_first=True), "cpu")
    with pytest.raises(ModelError, match=r"answered \(4, 3\) for 5 faces"):
        classifier.classify(flat_crops(np.arange(5)))


class Session:
    """Answers in the place of a classifier's own session, and knows how many faces it was given."""

    def __init__(
        self, real: Classifier, answer: Callable[[np.ndarray], np.ndarray], provider: str = "CPU"
    ) -> None:
        self.answer, self.provider = answer, f"{provider}ExecutionProvider"
        self.get_inputs = real.network.session.get_inputs
        self.get_outputs = real.network.session.get_outputs
        self.shapes: list[int] = []
        network = Network(cast(ort.InferenceSession, self), {}, "0" * 16)
        self.classifier = replace(real, network=network)

    def get_providers(self) -> list[str]:
        return [self.provider]

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        (crops,) = inputs.values()
        self.shapes.append(len(crops))
        return [self.answer(crops)]


def test_an_answer_that_is_no_number_is_caught(make_model: MakeModel) -> None:
    classifier = load_classifier(make_model(), "cpu")

    broken = Session(classifier, lambda crops: np.full((len(crops), 3), np.nan, np.float32))
    with pytest.raises(ModelError, match="toy answers what are no probabilities"):
        broken.classifier.classify(flat_crops(np.arange(1)))


def test_a_gpu_meets_few_shapes(make_model: MakeModel) -> None:
    classifier = load_classifier(make_model(), "cpu")
    real = classifier.network.session
    gpu = Session(classifier, lambda crops: real.run(None, {"faces": crops})[0], "CUDA")
    for n in (1, 2, 3, 5, 8, 63, 65):
        answer = gpu.classifier.classify(flat_crops(np.arange(n)))
        np.testing.assert_allclose(answer, toy_probabilities(np.arange(n)), atol=1e-6)
    assert set(gpu.shapes) == {1, 2, 4, 8, 64}


class OnGpu:
    """A session that says it runs on a GPU, and knows how many faces it was asked for."""

    def __init__(self, real: ort.InferenceSession) -> None:
        self._real = real
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def run_with_iobinding(self, binding: ort.IOBinding) -> None:
        self._real.run_with_iobinding(binding)
        self.asked.append(binding.get_outputs()[0].shape()[0])


def test_a_gpu_meets_few_shapes_where_crops_are_there(make_model: MakeModel) -> None:
    real = load_classifier(make_model(), "cpu")
    session = OnGpu(real.network.session)
    network = Network(cast(ort.InferenceSession, session), {}, "0" * 16)
    gpu = replace(real, network=network)
    for n in (1, 3, 8, 63, 65):
        values = np.arange(n)
        rows = Rows.new("cpu", n, 8, 8, 1)
        rows.whole.update_inplace(flat_crops(np.tile(values, 2)))
        np.testing.assert_allclose(gpu.classify(rows), toy_probabilities(values), atol=1e-6)
    assert session.asked == [1, 4, 8, 64, 64, 1]


@pytest.mark.parametrize("key", sorted(METADATA))
def test_each_key_is_required(make_model: MakeModel, key: str) -> None:
    path = make_model({name: value for name, value in METADATA.items() if name != key})
    with pytest.raises(ModelError, match=rf"toy\.onnx lacks the metadata key '{key}'"):
        load_classifier(path, "cpu")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", "calm, glad, sour"),
        ("labels", "[]"),
        ("labels", '["calm", "calm", "sour"]'),
        ("labels", "[1, 2, 3]"),
        ("input_size", "8.0"),
        ("input_size", "0"),
        ("colour", "bgr"),
        ("margin", "wide"),
        ("margin", "nan"),
        ("margin", "-1"),
        ("temperature", "0"),
        ("uncertain_below", "1.5"),
    ],
)
def test_malformed_values_name_key_and_file(make_model: MakeModel, key: str, value: str) -> None:
    with pytest.raises(ModelError, match=rf"toy\.onnx has the metadata {key} = "):
        load_classifier(make_model(METADATA | {key: value}), "cpu")


def test_a_missing_or_corrupt_file_is_named(tmp_path: Path, make_model: MakeModel) -> None:
    with pytest.raises(ModelError, match=r"cannot read the model .*none\.onnx"):
        load_classifier(tmp_path / "none.onnx", "cpu")

    broken = make_model()
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"toy\.onnx is not a model"):
        load_classifier(broken, "cpu")


def test_the_graph_must_keep_the_metadatas_promises(make_model: MakeModel) -> None:
    with pytest.raises(ModelError, match=r"must take one uint8 \(batch, 8, 8, 1\)"):
        load_classifier(make_model(input_type=onnx.TensorProto.FLOAT), "cpu")
    with pytest.raises(ModelError, match=r"must take one uint8 \(batch, 8, 8, 1\)"):
        load_classifier(make_model(crop=(1, 8, 8)), "cpu")
    with pytest.raises(ModelError, match=r"must give one float \(batch, 2\)"):
        load_classifier(make_model(METADATA | {"labels": json.dumps(["a", "b"])}), "cpu")
    with pytest.raises(ModelError, match="fixed batch of 1"):
        load_classifier(make_model(batch=1), "cpu")


def test_colour_models_take_three_channels(make_model: MakeModel) -> None:
    classifier = load_classifier(make_model(METADATA | {"colour": "rgb"}, crop=(8, 8, 3)), "cpu")
    assert classifier.classify(np.zeros((2, 8, 8, 3), np.uint8)).shape == (2, 3)


CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
flags\t\t: fpu sse2 {}avx512f avx512_vnni_not ibpb
vmx flags\t: vnmi avx_vnni
bogomips\t: 5000.00
"""


@pytest.mark.parametrize(
    ("cpuinfo", "shipped"),
    [
        (CPUINFO.format("avx512_vnni "), SHIPPED_INT8),
        (CPUINFO.format("avx_vnni "), SHIPPED_INT8),
        (CPUINFO.format("amx_int8 "), SHIPPED_INT8),
        (CPUINFO.format(""), SHIPPED),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", SHIPPED),
        (None, SHIPPED),
    ],
)
def test_what_ships_for_this_processor(
    cpuinfo: str | None, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight bits with VNNI alone, and not on a GPU; None stands for a system without the file."""
    said = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        said.write_text(cpuinfo)
    monkeypatch.setattr(classifier_module, "_CPUINFO", said)
    precision = {SHIPPED: "fp32", SHIPPED_INT8: "int8"}[shipped]
    assert load_classifier(None, "cpu").network.metadata["precision"] == precision

    opened: list[Path] = []

    def no_gpu_here(path: Path, **options: object) -> None:
        opened.append(path)
        raise ModelError("not opened")

    monkeypatch.setattr(classifier_module, "open_network", no_gpu_here)
    monkeypatch.setattr(classifier_module, "resolve", lambda provider: "cuda")
    with pytest.raises(ModelError, match="not opened"):
        load_classifier(None, "auto")
    assert opened == [SHIPPED]


def test_a_file_that_is_named_is_the_one_that_is_taken(make_model: MakeModel) -> None:
    assert load_classifier(make_model(), "cpu").info.name == "toy"
    assert load_classifier(SHIPPED, "cpu").info.version == "2.1"
