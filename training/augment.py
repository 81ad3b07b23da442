"""Augmentation of a whole batch at once, on the device that holds it.

Every random number comes from the generator that is passed in, so that a run can be repeated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.recipe import Augmentation

_WIDEST_BLUR = 2


def augment(faces: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """uint8 (N, 1, S, S) in, float (N, 1, crop, crop) in 0..1 out, on the same device."""
    pictures = _warp(faces.float() / 255, settings, generator)
    pictures = _light(pictures, settings, generator)
    pictures = _blur(pictures, settings, generator)
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
    # Nothing here may ask the device for a number: a GPU would have to finish all it was given.
    first = fits.to(torch.uint8).argmax()
    weight = torch.where(fits.any(), u.take(first) / total.take(first), 1.0)
    partner = torch.randperm(len(faces), generator=generator, device=faces.device)
    return faces.lerp(faces[partner], 1 - weight), targets.lerp(targets[partner], 1 - weight)


def _uniform(
    shape: tuple[int, ...], low: float, high: float, like: Tensor, generator: torch.Generator
) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device) * (high - low) + low


def _warp(pictures: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Rotate, shear, shift, scale, flip, crop in one resampling, so that pictures blur once."""
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
    x_of_x, x_of_y, y_of_x, y_of_y = cosine * flip, -sine, sine * flip, cosine
    if settings.shear:
        limit = math.tan(math.radians(settings.shear))
        slide = _uniform((n,), -limit, limit, pictures, generator)
        x_of_y, y_of_y = x_of_y + slide * x_of_x, y_of_y + slide * y_of_x
    matrix = torch.stack(
        [
            torch.stack([x_of_x, x_of_y, shift[:, 0]], 1),
            torch.stack([y_of_x, y_of_y, shift[:, 1]], 1),
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


def _blur(pictures: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Each picture by a Gaussian of its own, the edge repeated."""
    if settings.blur == 0:
        return pictures
    n, radius = len(pictures), 3 * _WIDEST_BLUR
    chosen = _uniform((n,), 0.0, 1.0, pictures, generator) < settings.blur
    deviation = _uniform((n, 1), 0.0, _WIDEST_BLUR, pictures, generator).clamp(min=0.1)
    place = torch.arange(-radius, radius + 1, device=pictures.device)
    kernel = torch.exp(-(place**2) / (2 * deviation**2))
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, None, None]
    # One group for each picture: they become the channels of a single one.
    padded = torch.nn.functional.pad(pictures, [radius] * 4, mode="replicate").transpose(0, 1)
    rows = torch.nn.functional.conv2d(padded, kernel, groups=n)
    blurred = torch.nn.functional.conv2d(rows, kernel.transpose(2, 3), groups=n).transpose(0, 1)
    return torch.where(chosen[:, None, None, None], blurred, pictures)


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
