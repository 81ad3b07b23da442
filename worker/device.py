"""The device on which graphs run, and the pictures there.

A picture is there as its summed-area table, from which every graph takes its pixels: the detector's
to find and follow faces and, some steps later, the one that cuts the crops for the classifier.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.binding import Inputs, Kind, Rows, rounded, run
from worker.errors import ModelError
from worker.inference import Network
from worker.records import Image

T = TypeVar("T")

_AT_ONCE = 16
"""Pictures that go through the graphs together; a power of two."""

_HELD_BYTES = 2**30
"""The most memory for pictures held for later steps: 92 pictures of 1280x720. Half of it, for good,
each time that it is found to be too much."""

_NO_MEMORY = ("failed to allocate memory", "out of memory", "smaller than requested bytes")
"""What onnxruntime's errors say where the device's memory is full; they have no type for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Pictures of one size, on the device."""

    sums: ort.OrtValue
    """(batch, rows, columns, 3) int32, see training/export_graph.py; the last ones may be empty."""
    size: npt.NDArray[np.int64]
    """(2,): height and width of each."""

    @property
    def inputs(self) -> dict[str, ort.OrtValue | npt.NDArray[np.generic]]:
        """As the graphs name them."""
        return {"table": self.sums, "size": self.size}

    @property
    def batch(self) -> int:
        return int(self.sums.shape()[0])

    @property
    def nbytes(self) -> int:
        return int(4 * math.prod(self.sums.shape()))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture is on the device."""

    tables: Tables
    row: int


class Device:
    """Runs graphs, and holds pictures for later steps; several threads may call at once.

    Whenever others are held those go that are gone from the host, and the oldest where there are
    too many.
    """

    def __init__(self, table: Network) -> None:
        """``table``: the graph table.onnx, opened where all graphs are to run."""
        self._table = table
        self.kind: Kind = "cpu" if table.on_cpu else "cuda"
        self._at_once = _AT_ONCE
        self._most_held = _HELD_BYTES
        self._lock = threading.Lock()
        self._held: dict[int, tuple[weakref.ref[Image], Place]] = {}
        """By the picture's ``id``, oldest first; replaced, never changed."""

    def run(
        self,
        graph: ort.InferenceSession,
        inputs: Inputs,
        into: Mapping[str, Rows] | None = None,
    ) -> dict[str, ort.OrtValue]:
        """One graph; see :func:`worker.binding.run`, and :func:`short_of_memory`."""
        return run(graph, inputs, self.kind, into)

    def new_crops(self, count: int, *shape: int) -> Rows:
        """See ``Rows.new``. Held pictures make room for them.

        Raises:
            ModelError: the device's memory does not hold them.
        """
        while True:
            try:
                return Rows.new(self.kind, count, *shape)
            except Exception as error:  # onnxruntime raises a dozen unrelated types here
                if not short_of_memory(error):
                    raise
                if not self.forget():
                    raise ModelError(
                        f"the device's memory does not hold the crops of {count} faces"
                    ) from None

    def put(self, images: Sequence[Image]) -> ort.OrtValue:
        """Pictures of one size on the device, (batch, height, width, 3) uint8.

        Empty ones fill up the batch to a power of two, so that the runtime meets few shapes.

        Raises:
            Exception: of onnxruntime; see :func:`short_of_memory`. So do those that follow.
        """
        batch = np.zeros((rounded(len(images)), *images[0].shape), np.uint8)
        for place, image in zip(batch, images, strict=False):
            place[...] = image
        return ort.OrtValue.ortvalue_from_numpy(batch, self.kind, 0)

    def tables(self, frames: ort.OrtValue) -> Tables:
        """Those of pictures that :meth:`put` has put there."""
        sums = self.run(self._table.session, {"frames": frames})["table"]
        return Tables(sums, np.array(frames.shape()[1:3], np.int64))

    def hold(self, images: Sequence[Image]) -> Tables:
        """Put pictures of one size there; where there is room hold them for :meth:`locate`."""
        tables = self.tables(self.put(images))
        with self._lock:
            held = {key: one for key, one in self._held.items() if one[0]() is not None}
            for row, image in enumerate(images):
                held.pop(id(image), None)
                held[id(image)] = weakref.ref(image), Place(tables, row)
            while _bytes(place.tables for _, place in held.values()) > self._most_held:
                del held[next(iter(held))]
            self._held = held
        return tables

    def locate(self, images: Sequence[Image]) -> list[Place]:
        """Where pictures of one size are; those that are not held are put there."""
        held = [self._held.get(id(image)) for image in images]
        places = {i: one[1] for i, one in enumerate(held) if one and one[0]() is not None}
        missing = [i for i in range(len(images)) if i not in places]
        if missing:
            tables = self.hold([images[i] for i in missing])
            places.update((i, Place(tables, row)) for row, i in enumerate(missing))
        return [places[i] for i in range(len(images))]

    def forget(self) -> bool:
        """Hold no picture that is held now, and half as much from now on; whether there was one."""
        with self._lock:
            had, self._held = bool(self._held), {}
            if had:
                self._most_held //= 2
        return had

    def in_batches(
        self,
        images: Sequence[Image],
        chosen: Iterable[int],
        act: Callable[[Sequence[int]], Sequence[T]],
    ) -> dict[int, T]:
        """What ``act`` says of the ``chosen`` pictures, given to it in batches of one size.

        Where memory does not suffice, held pictures are forgotten, then batches halved, for good.

        Raises:
            ModelError: the device's memory does not hold one picture.
        """
        by_size = defaultdict(list)
        for i in chosen:
            by_size[images[i].shape].append(i)
        results: dict[int, T] = {}
        for (height, width, _), waiting in by_size.items():
            again = False
            while waiting:
                some = waiting[: self._at_once]
                try:
                    found = act(some)
                except Exception as error:  # onnxruntime raises a dozen unrelated types here
                    if not short_of_memory(error):
                        raise
                    # Of use where it was the tables' graph: each graph has memory of its own.
                    if self.forget() and not again:
                        again = True
                        continue
                    if len(some) == 1:
                        raise ModelError(
                            f"the device's memory does not hold one picture of {width}x{height}"
                        ) from None
                    self._at_once = min(self._at_once, rounded(len(some)) // 2)
                    continue
                again = False
                results.update(zip(some, found, strict=True))
                waiting = waiting[len(some) :]
        return results


def short_of_memory(error: Exception) -> bool:
    """Whether an error of onnxruntime says that the device's memory is full."""
    return any(words in str(error).lower() for words in _NO_MEMORY)


def _bytes(tables: Iterable[Tables]) -> int:
    """Of all of them, each counted once."""
    return sum(each.nbytes for each in set(tables))
