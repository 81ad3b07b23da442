"""Batches straight from the tensors that hold the whole data set, without loader processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


class Batches:
    """Batches of rows of two tensors of one length, on the device where the tensors are.

    With ``shuffle``, which gives a generator for each epoch, in random order and without the
    incomplete batch at the end; otherwise all of them in order. The order depends on that generator
    alone, so that a resumed run sees what an unbroken one sees.

    Of ``world`` processes, number ``rank`` gets every ``world``-th row of each batch: together they
    see what one would see alone.
    """

    def __init__(
        self,
        faces: Tensor,
        targets: Tensor,
        size: int,
        shuffle: Callable[[], torch.Generator] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._faces, self._targets = faces, targets
        self._size = min(size, len(targets))
        self._shuffle = shuffle
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        whole, rest = divmod(len(self._targets), self._size)
        return whole if self._shuffle or not rest else whole + 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self._targets)
        order = torch.randperm(n, generator=self._shuffle()) if self._shuffle else torch.arange(n)
        order = order.to(self._targets.device)
        for chosen in torch.split(order, self._size)[: len(self)]:
            mine = chosen[self._rank :: self._world]
            yield self._faces[mine], self._targets[mine]


def seeded(seed: int, epoch: int, device: torch.device | None = None) -> torch.Generator:
    """A generator for one epoch of one run."""
    return torch.Generator(device or "cpu").manual_seed(seed * 1_000_003 + epoch)
