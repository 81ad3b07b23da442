"""Augmentation of a whole batch at once, on the device that holds it.

Every random number comes from the generator that is passed in, so that a run can be repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far the random changes may go. The crop is the size of the pictures that come out."""

    crop: int = 44
    rotation: float = 12.0
    """Degrees, either way."""
    translation: float = 0.10
    """Part of the picture's side, either way, in both directions."""
    scale: tuple[float, float] = (0.85, 1.10)
    """The face's size against its size in the data."""
    brightness: float = 0.2
    """Added to all pixels, either way, where white is 1."""
    contrast: float = 0.25
    """Factor 1 - contrast to 1 + contrast, around the picture's mean."""
    erasing: float = 0.3
    """Part of the pictures in which a rectangle is replaced by one random grey."""
    mixup: float = 0.2
    """Parameter of the Beta distribution that mixes pictures in pairs; 0 does not mix."""


def augment(faces: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """uint8 (N, 1, S, S) in, float (N, 1, crop, crop) in 0..1 out, on the same device."""
    pictures = _warp(faces.float() / 255, settings, generator)
    pictures = _light(pictures, settings, generator)
    return _erase(pictures, settings, generator)


def mixup(
    faces: Tensor, targets: Tensor, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each picture, and its target row (N, labels), with another one of the batch."""
    if alpha == 0:
        return faces, targets
    # Beta(a, a) as a ratio of two Gamma(a, 1); torch's own samplers of both take no generator,
    # so Joehnk's method: repeat over a fixed number of candidates and take the first that fits.
    u, v = (_uniform((64,), 0.0, 1.0, faces, generator).pow(1 / alpha) for _ in range(2))
    total = u + v
    fits = (total <= 1) & (total > 0)
    first = int(fits.float().argmax())
    weight = (u[first] / total[first]) if bool(fits[first]) else torch.ones_like(total[first])
    partner = torch.randperm(len(faces), generator=generator, device=faces.device)
    return faces.lerp(faces[partner], 1 - weight), targets.lerp(targets[partner], 1 - weight)


def _uniform(
    shape: tuple[int, ...], low: float, high: float, like: Tensor, generator: torch.Generator
) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device) * (high - low) + low


def _warp(pictures: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Rotate, shift, scale, flip and crop in one resampling, so that pictures blur once."""
    n, side = len(pictures), pictures.shape[-1]
    limit = math.radians(settings.rotation)
    angle = _uniform((n,), -limit, limit, pictures, generator)
    zoom = _uniform((n,), *settings.scale, pictures, generator)
    shift = _uniform(
        (n, 2), -2 * settings.translation, 2 * settings.translation, pictures, generator
    )
    flip = torch.randint(0, 2, (n,), generator=generator, device=pictures.device) * 2 - 1

    # The matrix takes a place in the crop to a place in the picture, both in -1..1.
    reach = settings.crop / side / zoom
    cosine, sine = torch.cos(angle) * reach, torch.sin(angle) * reach
    matrix = torch.stack(
        [
            torch.stack([cosine * flip, -sine, shift[:, 0]], 1),
            torch.stack([sine * flip, cosine, shift[:, 1]], 1),
        ],
        1,
    )
    grid = torch.nn.functional.affine_grid(
        matrix, [n, 1, settings.crop, settings.crop], align_corners=False
    )
    return torch.nn.functional.grid_sample(
        pictures, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _light(pictures: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    shape = (len(pictures), 1, 1, 1)
    factor = _uniform(shape, 1 - settings.contrast, 1 + settings.contrast, pictures, generator)
    offset = _uniform(shape, -settings.brightness, settings.brightness, pictures, generator)
    mean = pictures.mean((2, 3), keepdim=True)
    return ((pictures - mean) * factor + mean + offset).clamp(0, 1)


def _erase(pictures: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Rectangles of 2 to 20 % of the area, width to height from 1:2 to 2:1."""
    n, side = len(pictures), pictures.shape[-1]
    area = _uniform((n,), 0.02, 0.20, pictures, generator)
    ratio = torch.exp(_uniform((n,), -math.log(2), math.log(2), pictures, generator))
    half = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1) / 2
    centre = _uniform((n, 2), 0.0, 1.0, pictures, generator)
    grey = _uniform((n, 1, 1, 1), 0.0, 1.0, pictures, generator)
    chosen = _uniform((n,), 0.0, 1.0, pictures, generator) < settings.erasing

    place = (torch.arange(side, device=pictures.device) + 0.5) / side
    inside_x = (place[None] - centre[:, :1]).abs() <= half[:, :1]
    inside_y = (place[None] - centre[:, 1:]).abs() <= half[:, 1:]
    erased = inside_y[:, :, None] & inside_x[:, None, :] & chosen[:, None, None]
    return torch.where(erased[:, None], grey, pictures)
