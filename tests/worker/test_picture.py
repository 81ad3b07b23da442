"""A picture at two sizes, and which of them serves which faces."""

from __future__ import annotations

import numpy as np
import pytest

from worker.picture import FramePicture
from worker.records import Image


def box(side: float, height: float | None = None) -> list[float]:
    return [10, 10, 10 + side, 10 + (height or side)]


def boxes(*some: list[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(some, np.float32).reshape(-1, 4)


@pytest.fixture
def image() -> Image:
    return np.random.default_rng(0).integers(0, 256, (301, 401, 3), np.uint8)


def test_half_of_a_picture_that_is_there(image: Image) -> None:
    picture = FramePicture.of(image)
    assert (picture.height, picture.width, picture.pixels) == (301, 401, 301 * 401)
    assert picture.half.shape == (151, 201, 3)
    assert picture.half is picture.half
    assert abs(float(picture.half.mean()) - float(image.mean())) < 1
    assert picture.first is picture.whole is picture.at(1) is image


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (1, 900), (2, 3)])
def test_half_of_a_tiny_picture(size: tuple[int, int]) -> None:
    half = FramePicture.of(np.zeros((*size, 3), np.uint8)).half
    assert half.shape == (-(-size[0] // 2), -(-size[1] // 2), 3)


def test_the_whole_is_made_once_and_when_it_is_asked_for(image: Image) -> None:
    made = []

    def decode() -> Image:
        made.append(1)
        return image

    half = FramePicture.of(image).half
    picture = FramePicture(301, 401, half=half, decode=decode)
    assert picture.first is picture.half is picture.at(2) is half
    assert not made
    assert picture.at(1) is picture.whole is image
    assert made == [1]


def test_half_serves_where_all_faces_have_twice_the_pixels(image: Image) -> None:
    picture = FramePicture(301, 401, half=FramePicture.of(image).half, decode=image.copy)
    assert picture.scale_for(boxes(box(96), box(200))) == 2
    assert picture.scale_for(boxes(box(95), box(200))) == 1
    assert picture.scale_for(boxes(box(60, 97))) == 2, "of a face the longer side counts"
    assert picture.scale_for(boxes(box(100)), side=60) == 1
    assert picture.scale_for(boxes()) == 2
    assert picture.scale_for(boxes(box(np.nan))) == 1
    assert FramePicture.of(image).scale_for(boxes(box(200))) == 1, "the whole is there anyway"
