"""Fewer and smaller pictures: by time, and by width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import cv2
import numpy as np

from worker.errors import SettingsError
from worker.records import Image, Picture


def check_fps(fps: float) -> None:
    """Refuse a sampling rate before the source is opened: SettingsError unless it is above 0."""
    if not (fps > 0 and math.isfinite(fps)):
        raise SettingsError(f"fps, the sampling rate, must be above 0, not {fps:g}")


def check_width(width: int) -> None:
    """Refuse a width before the source is opened: SettingsError if it is below 1."""
    if width < 1:
        raise SettingsError(f"the width must be at least 1 pixel, not {width}")


def sample(pictures: Iterable[Picture], fps: float) -> Iterator[Picture]:
    """Keep the first picture at or after each tick of 1/``fps`` seconds; repeat none.

    Ticks are counted from pts 0, so nothing drifts. Where pictures are sparser than ticks, all are
    kept. Containers round stamps to their time base (33 ms for 1/30 s): a picture is taken to be on
    a tick that it misses by half a unit, at most half a millisecond.

    Raises:
        SettingsError: ``fps`` is not above 0.
    """
    check_fps(fps)
    return _on_ticks(pictures, Fraction(fps).limit_denominator(100_000))


def _on_ticks(pictures: Iterable[Picture], fps: Fraction) -> Iterator[Picture]:
    last_tick = -1
    for picture in pictures:
        rounding = min(picture.time_base / 2, Fraction(1, 2000))
        tick = math.floor((picture.pts * picture.time_base + rounding) * fps)
        if tick > last_tick:
            last_tick = tick
            yield picture


def fit(image: Image, width: int) -> Image:
    """Scale ``image`` (height, width, 3) down to ``width`` pixels, its aspect kept; never up.

    Raises:
        SettingsError: ``width`` is below 1.
    """
    check_width(width)
    old_height, old_width = image.shape[:2]
    if width >= old_width:
        return image
    height = max(1, round(old_height * width / old_width))
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
