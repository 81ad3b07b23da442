"""Batches straight from the tensors that hold the whole data set, without loader processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


class Batches:
    """Batches of (faces uint8 (B, 1, 48, 48), labels (B,)).

    With ``shuffle``, which gives a generator for each epoch, in random order and without the
    incomplete batch at the end; otherwise all of them in order. The order depends on that generator
    alone, so that a resumed run sees what an unbroken one sees.
    """

    def __init__(
        self,
        faces: Tensor,
        labels: Tensor,
        size: int,
        shuffle: Callable[[], torch.Generator] | None = None,
    ) -> None:
        self._faces, self._labels = faces, labels
        self._size = min(size, len(labels))
        self._shuffle = shuffle

    def __len__(self) -> int:
        whole, rest = divmod(len(self._labels), self._size)
        return whole if self._shuffle or not rest else whole + 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self._labels)
        order = torch.randperm(n, generator=self._shuffle()) if self._shuffle else torch.arange(n)
        for chosen in torch.split(order, self._size)[: len(self)]:
            yield self._faces[chosen], self._labels[chosen]


def seeded(seed: int, epoch: int, device: torch.device | None = None) -> torch.Generator:
    """A generator for one epoch of one run."""
    return torch.Generator(device or "cpu").manual_seed(seed * 1_000_003 + epoch)
