"""A moving average of the weights, which is what is evaluated and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Exponential, with a decay that rises to its value: the random start is soon forgotten.

    Lightning's own would keep the average of a GPU's weights on the processor, where each step
    would have to wait for it; this one is on the device, and its counter is not.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=partial(_move, decay))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    @contextmanager
    def in_place(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """Meanwhile the module has the averaged weights."""
        self._swap_models(pl_module)
        try:
            yield
        finally:
            self._swap_models(pl_module)


@torch.no_grad()
def _move(decay: float, averaged: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
    """Move ``averaged`` (one type, one device) towards ``current``, in place."""
    if not averaged[0].dtype.is_floating_point:
        for old, new in zip(averaged, current, strict=True):
            old.copy_(new)
        return
    part = 1 - torch.clamp((1 + steps) / (10 + steps), max=decay)
    difference = torch._foreach_sub(current, averaged)
    torch._foreach_mul_(difference, part)
    torch._foreach_add_(averaged, difference)
