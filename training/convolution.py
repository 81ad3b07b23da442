"""Convolutions of deep layers as matrix products, for training on processors with bfloat16.

The gradient of the weights of a 3 x 3 convolution over 2 x 2 to 6 x 6 pixels takes oneDNN four to
fourteen times as long as the same product of two matrices, that of a 1 x 1 convolution of stride 2
two to five times, and the deep layers of VGG16 and ResNet50 are such. On two cores with AMX an
epoch of VGG16 takes 0.62 of the time, one of ResNet50 0.45 (``python -m tests.training.speed``).
The numbers differ by rounding alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_LARGEST = 6
"""Pixels of a side, up to which nine copies of the picture cost less than they save."""
_FEWEST_CHANNELS = 64


def quicken(network: nn.Module) -> None:
    """Let the convolutions of ``network`` be matrix products where that is faster.

    Neither parameters nor their names change, and nothing at all where a GPU or fp32 is used.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_suitable(module):
            module.__class__ = _Quick


def _is_suitable(convolution: nn.Conv2d) -> bool:
    side, _ = convolution.kernel_size
    return (
        side in (1, 3)
        and convolution.kernel_size == (side, side)
        and convolution.padding == (side // 2, side // 2)
        and convolution.stride in ((1, 1), (2, 2))
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and convolution.in_channels >= _FEWEST_CHANNELS
    )


class _Quick(nn.Conv2d):
    def forward(self, pictures: Tensor) -> Tensor:
        low = (
            pictures.device.type == "cpu"
            and torch.is_autocast_enabled("cpu")
            and torch.get_autocast_dtype("cpu") == torch.bfloat16
        )
        point = self.kernel_size == (1, 1)
        if not low or not (point or max(pictures.shape[2:]) <= _LARGEST):
            return super().forward(pictures)
        with torch.autocast("cpu", enabled=False):
            # (N, H, W, C), which is how channels_last has it in memory.
            rows = pictures.to(torch.bfloat16).permute(0, 2, 3, 1)
            weight = self.weight.to(torch.bfloat16)
            step = self.stride[0]
            if point:
                # Rows with gaps become many small products where no gradient is wanted: 30 times
                # as slow.
                out = functional.linear(rows[:, ::step, ::step].contiguous(), weight[:, :, 0, 0])
            else:
                out = _Three.apply(rows.contiguous(), weight, step)
            if self.bias is not None:
                out = out + self.bias.to(torch.bfloat16)
            return out.permute(0, 3, 1, 2)


class _Three(torch.autograd.Function):
    """3 x 3 with a border of zeros: (N, H, W, C) and (O, C, 3, 3) -> (N, H, W, O).

    Of every ``step``-th row and column of pixels.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, step: int) -> Tensor:
        patches = _patches(rows, step)
        # Nine times the memory of the rows, which laid out anew would take longer.
        ctx.save_for_backward(patches if ctx.needs_input_grad[1] else None, weight)
        ctx.shape, ctx.step = rows.shape, step
        return patches @ weight.permute(2, 3, 1, 0).flatten(0, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        patches, weight = ctx.saved_tensors
        out, channels = weight.shape[:2]
        gradient = gradients[0].contiguous()
        of_rows = of_weight = None
        if ctx.needs_input_grad[0] and ctx.step == 1:
            # A pixel gave to each of its neighbours by the weight of the opposite place.
            of_rows = _patches(gradient, 1) @ weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
        elif ctx.needs_input_grad[0]:
            by_place = gradient @ weight.permute(0, 2, 3, 1).flatten(1)
            n, height, width, _ = ctx.shape
            wide = gradient.new_zeros(n, height + 2, width + 2, channels)
            for place, part in zip(_nine(wide, ctx.step), by_place.split(channels, 3), strict=True):
                place += part
            of_rows = wide[:, 1:-1, 1:-1]
        if ctx.needs_input_grad[1]:
            by_place = gradient.view(-1, out).t() @ patches.flatten(0, 2)
            of_weight = by_place.view(out, 3, 3, channels).permute(0, 3, 1, 2)
        return of_rows, of_weight, None


def _patches(rows: Tensor, step: int) -> Tensor:
    """(N, H, W, C) -> (N, H, W, 9 C): the nine around each ``step``-th pixel, row by row."""
    return torch.cat(_nine(functional.pad(rows, (0, 0, 1, 1, 1, 1)), step), 3)


def _nine(wide: Tensor, step: int) -> list[Tensor]:
    """Nine views (N, H, W, C) of pictures that have a border: each one place of 3 x 3."""
    height, width = wide.shape[1] - 2, wide.shape[2] - 2
    return [
        wide[:, y : y + height : step, x : x + width : step] for y in range(3) for x in range(3)
    ]
