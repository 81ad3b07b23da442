"""Smaller twins of an exported graph: half precision for GPUs, eight-bit integers for CPUs.

Both keep what the workers see: uint8 faces in, float32 probabilities out, any number of faces.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from training.evaluation import paired
from worker.errors import ModelError
from worker.records import Floats

AGREEMENT = {"fp16": 0.995, "int8": 0.99}
"""The least share of pictures on which a twin must have the same top label as fp32."""
SIGNIFICANCE = 0.05

CALIBRATION_FACES = 512
_BATCH = 64

# Relu is named so that it is folded into the convolution before it: otherwise the range of that
# convolution's output is spent on negative values that are thrown away, and half of the precision
# is lost. Gemm is not: the last layer is tiny, and its logits decide.
_QUANTIZED = ["Conv", "Relu", "MaxPool", "Add"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a twin's answers compare with fp32's, on the same pictures."""

    top1: float
    """The share of pictures with the same top label."""
    lost: int
    """Pictures that only fp32 got right."""
    won: int
    """Pictures that only the twin got right."""
    p: float
    """Of the exact two-sided McNemar test on those two numbers."""

    def check(self, precision: str) -> None:
        """Raise a ModelError where the twin strays from fp32 too far to take its place."""
        told = (
            f"the {precision} model agrees with fp32 on {100 * self.top1:.2f} % of PublicTest; "
            f"it loses {self.lost} pictures and wins {self.won} (p = {self.p:.2g})"
        )
        if self.top1 < AGREEMENT[precision]:
            raise ModelError(f"{told}: at least {100 * AGREEMENT[precision]:.1f} % are required")
        if self.lost > self.won and self.p < SIGNIFICANCE:
            raise ModelError(f"{told}: a significant loss")


def compare(
    reference: Floats, twin: Floats, known: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]
) -> Agreement:
    """Of two models' probabilities (N, L); ``labels`` (n,) are of the n pictures in ``known``."""
    before, after = reference.argmax(axis=1), twin.argmax(axis=1)
    right_before, right_after = before[known] == labels, after[known] == labels
    return Agreement(
        top1=float((before == after).mean()),
        lost=int((right_before & ~right_after).sum()),
        won=int((~right_before & right_after).sum()),
        p=paired(right_before, right_after),
    )


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and arithmetic in half precision; temperature and softmax stay in float32."""
    half = onnx.ModelProto.FromString(model.SerializeToString())
    graph = half.graph
    # The converter rounds whatever comes out of a step that it must leave alone, so it is not shown
    # the last two steps at all: it then ends with one cast to float32, and they come after that.
    division, softmax = graph.node[-2:]
    if (division.op_type, softmax.op_type) != ("Div", "Softmax"):
        raise AssertionError("the graph does not end with temperature and softmax")
    output = graph.output[0].name
    del graph.node[-2:]
    graph.output[0].name = division.input[0]
    converted: onnx.ModelProto = convert_float_to_float16(half, keep_io_types=True)
    converted.graph.output[0].name = output
    converted.graph.node.extend([division, softmax])
    converted.graph.ClearField("value_info")  # it calls what lies between those two half too
    return converted


def to_int8(model: onnx.ModelProto, faces: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """Convolutions, and what lies between them, in eight-bit integers (QDQ, static).

    Weights are signed and symmetric, with a scale a channel; activations are unsigned, which
    processors with VNNI multiply without saturating. (Signed ones took four times as long there.)
    Their ranges leave out the outermost hundred-thousandth of the values seen on ``faces``, uint8
    (N, S, S, 1), N >= 1.
    """
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        plain, prepared, quantized = (Path(folder) / name for name in ("plain", "fused", "int8"))
        onnx.save_model(model, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        fused = onnx.load(prepared)
        left_alone = _first_layer(fused.graph)
        onnx.save_model(fused, prepared)
        quantize_static(
            prepared,
            quantized,
            _Faces(model.graph.input[0].name, faces),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            nodes_to_exclude=left_alone,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            # By strides, or every layer's output for every face would be in memory at once.
            extra_options={"CalibPercentile": 99.999, "CalibStridedMinMax": 1},
        )
        result: onnx.ModelProto = onnx.load(quantized)
    # The optimizer names every domain that it knows, which older runtimes may not.
    used = {node.domain for node in result.graph.node}
    kept = [opset for opset in result.opset_import if opset.domain in used]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return result


def _first_layer(graph: onnx.GraphProto) -> list[str]:
    """The nodes to leave in float32: the first convolution, with its ReLU and its pooling, if any.

    Eight bits for its weights cost agreement (98.97 % with them, 99.30 % without, for the network
    that ships), and time: a convolution of one channel has too few products to fill a vector.

    Where pooling follows, it changes places with the ReLU, which alters no value. The runtime moves
    a quantization to before the pooling that it follows, where four times as many values wait, and
    then pools eight-bit integers channel by channel: 180 us a face, a third of the whole.
    """
    convolution = next(node for node in graph.node if node.op_type == "Conv")
    relu = _only_reader(graph, convolution)
    if relu is None or relu.op_type != "Relu":
        return [convolution.name]
    pool = _only_reader(graph, relu)
    if pool is None or pool.op_type != "MaxPool":
        return [convolution.name]
    # What the first of the two does is told by the second and the other way round: no edge changes.
    relu.op_type, pool.op_type = pool.op_type, relu.op_type
    relu.attribute.extend(pool.attribute)
    pool.ClearField("attribute")
    for value in graph.value_info:
        if value.name == relu.output[0]:
            graph.value_info.remove(value)  # it has another size now
            break
    return [convolution.name, relu.name, pool.name]


def _only_reader(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.NodeProto | None:
    readers = [other for other in graph.node if node.output[0] in other.input]
    return readers[0] if len(readers) == 1 else None


def calibration_faces(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """CALIBRATION_FACES of images (N, S, S), or all where there are fewer: (n, S, S, 1)."""
    chosen = np.random.default_rng(0).permutation(len(images))[:CALIBRATION_FACES]
    return images[chosen, :, :, None]


class _Faces(CalibrationDataReader):  # type: ignore[misc]
    """Batches of faces as the calibration asks for them; its length is their number."""

    def __init__(self, name: str, faces: npt.NDArray[np.uint8]) -> None:
        self._name = name
        # Whole batches only: the calibration cannot stack the outputs of others.
        size = min(_BATCH, len(faces))
        self._batches = [
            faces[start : start + size] for start in range(0, len(faces) - size + 1, size)
        ]
        self.set_range(0, len(self._batches))

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._left, None)
        return None if batch is None else {self._name: batch}
