"""Build ONNX graphs by hand: one call an operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

OPSET = 18
VERSION = "1.0.0"

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

    def op(self, operator: str, *inputs: Value, **attributes: Any) -> str:
        return self.ops(operator, 1, *inputs, **attributes)[0]

    def ops(self, operator: str, outputs: int, *inputs: Value, **attributes: Any) -> list[str]:
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

    def model(self, name: str, family: str = "") -> onnx.ModelProto:
        """The finished model, checked; in its metadata ``family`` stands before the name."""
        constants = [*self._networks, *self._constants.values()]
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10
        )
        helper.set_model_props(model, {"name": family + name, "version": VERSION})
        onnx.checker.check_model(model, full_check=True)
        return model

    def _constant(self, value: int | float | npt.NDArray[np.generic]) -> str:
        if not isinstance(value, np.ndarray):
            value = np.array(value, np.int64 if isinstance(value, int) else np.float32)
        key = value.dtype.str, value.shape, value.tobytes()
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(value, f"c{len(self._constants)}")
        return self._constants[key].name
