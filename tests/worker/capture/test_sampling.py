"""Sampling by time, scaling down, and JPEG."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image as Pil

from tests.worker.capture.conftest import draw
from worker.capture.encode import encode_jpeg
from worker.capture.sampling import fit, sample
from worker.errors import SettingsError
from worker.records import Picture

DOT = np.zeros((1, 1, 3), np.uint8)


def kept(pts: list[int], time_base: Fraction, fps: float) -> list[int]:
    return [p.pts for p in sample((Picture(DOT, i, time_base) for i in pts), fps)]


def test_every_fifth_of_25_a_second() -> None:
    assert kept(list(range(100)), Fraction(1, 25), 5) == list(range(0, 100, 5))


def test_a_rate_that_does_not_divide_takes_the_first_at_or_after_each_tick() -> None:
    got = kept(list(range(1000)), Fraction(1, 25), 10)
    assert got == [-(-25 * k // 10) for k in range(400)]


def test_nothing_drifts_in_an_hour() -> None:
    base = Fraction(1001, 30000)
    got = kept(list(range(108_000)), base, 24)
    seconds = 107_999 * base
    assert len(got) == int(seconds * 24) + 1
    for k in (1, 1000, len(got) - 1):
        assert 0 <= got[k] * base - Fraction(k, 24) < base


def test_more_than_there_are_keeps_all_and_repeats_none() -> None:
    assert kept([0, 1, 2, 30, 31], Fraction(1, 25), 100) == [0, 1, 2, 30, 31]


def test_stamps_rounded_to_milliseconds_count_as_on_their_ticks() -> None:
    pts = [round(1000 * i / 30) for i in range(300)]
    assert kept(pts, Fraction(1, 1000), 30) == pts
    assert kept(pts, Fraction(1, 1000), 15) == pts[::2]


def test_variable_rate_skips_empty_ticks() -> None:
    assert kept([0, 10, 450, 460, 990, 1000], Fraction(1, 1000), 2) == [0, 990, 1000]


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_bad_rates_are_refused_at_once(fps) -> None:
    with pytest.raises(SettingsError, match="sampling rate"):
        sample([], fps)


def test_fit_scales_down_only_and_keeps_the_aspect() -> None:
    image = draw(0, 1280, 720)
    assert fit(image, 640).shape == (360, 640, 3)
    assert fit(image, 333).shape == (187, 333, 3)
    assert fit(image, 1).shape == (1, 1, 3)
    assert fit(image, 1280) is image
    assert fit(image, 4000) is image
    assert fit(image, 640).flags.c_contiguous
    with pytest.raises(SettingsError, match="width"):
        fit(image, 0)


def test_jpeg_keeps_colours_and_obeys_the_quality() -> None:
    image = draw(0, 64, 48)
    good, bad = encode_jpeg(image, 95), encode_jpeg(image, 20)
    assert len(bad) < len(good)
    back = np.asarray(Pil.open(io.BytesIO(good)).convert("RGB")).astype(int)
    assert np.abs(back[4, 4] - image[4, 4]).max() < 8
    for quality in (0, 101, -3):
        with pytest.raises(SettingsError, match="quality"):
            encode_jpeg(image, quality)
    with pytest.raises(SettingsError, match="does not fit"):
        encode_jpeg(np.zeros((1, 70_000, 3), np.uint8))
