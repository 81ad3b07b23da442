"""What graphs take and give without its leaving the device (ONNX Runtime's IO binding)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some rows of an array of bytes on a device: a view, no copy."""

    kind: Kind
    whole: ort.OrtValue
    """The array, uint8 (capacity, ...)."""
    first: int
    count: int

    @classmethod
    def new(cls, kind: Kind, count: int, *rest: int) -> Self:
        """All ``count`` rows of a new array (count, *rest), whose content is what lay there before.

        Behind them there is space: parts of them can be :meth:`padded`.

        Raises:
            Exception: of onnxruntime; where memory does not suffice, it says so in words only.
        """
        # At least one: not every provider takes an empty tensor.
        shape = [max(1, 2 * count), *rest]
        whole = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, kind, 0)
        return cls(kind, whole, 0, count)

    def __len__(self) -> int:
        return self.count

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.count, *self.whole.shape()[1:])

    @property
    def address(self) -> int:
        return int(self.whole.data_ptr()) + self.first * math.prod(self.shape[1:])

    def __getitem__(self, some: slice) -> Rows:
        start, stop, _ = some.indices(self.count)
        return Rows(self.kind, self.whole, self.first + start, max(0, stop - start))

    def padded(self) -> Rows:
        """These and those behind them, up to a power of two: a GPU is to meet few shapes.

        Raises:
            ValueError: the array ends before.
        """
        count = rounded(self.count)
        if self.first + count > self.whole.shape()[0]:
            raise ValueError(f"there are no {count} rows from {self.first} on")
        return Rows(self.kind, self.whole, self.first, count)


def rounded(count: int) -> int:
    """1 or more, up to a power of two."""
    return 1 << (count - 1).bit_length()


Inputs = Mapping[str, ort.OrtValue | Rows | npt.NDArray[np.generic]]


def run(
    graph: ort.InferenceSession,
    inputs: Inputs,
    kind: Kind,
    into: Mapping[str, Rows] | None = None,
) -> dict[str, ort.OrtValue]:
    """One graph. Its outputs are new arrays of this kind, but for those that ``into`` names.

    Args:
        graph: opened on any device.
        into: outputs that are written to rows that there are, whose shape they must have.

    Returns:
        The new ones.

    Raises:
        Exception: of onnxruntime; where memory does not suffice, it says so in words only.
    """
    binding = graph.io_binding()
    for name, value in inputs.items():
        if isinstance(value, ort.OrtValue):
            binding.bind_ortvalue_input(name, value)
        elif isinstance(value, Rows):
            binding.bind_input(name, value.kind, 0, value.dtype.type, value.shape, value.address)
        else:
            binding.bind_cpu_input(name, value)
    into = into or {}
    names = [output.name for output in graph.get_outputs()]
    for name in names:
        rows = into.get(name)
        if rows is None:
            binding.bind_output(name, kind)
        else:
            binding.bind_output(name, rows.kind, 0, rows.dtype.type, rows.shape, rows.address)
    graph.run_with_iobinding(binding)
    found = zip(names, binding.get_outputs(), strict=True)
    return {name: value for name, value in found if name not in into}
