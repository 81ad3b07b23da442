"""A picture at two sizes, and which of them serves which faces."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pictures import reducible
from worker.picture import FramePicture, smallest
from worker.records import Image


@pytest.fixture
def image() -> Image:
    return np.random.default_rng(0).integers(0, 256, (301, 401, 3), np.uint8)


def test_half_of_a_picture_that_is_there(image: Image) -> None:
    picture = FramePicture.of(image)
    assert (picture.height, picture.width, picture.pixels) == (301, 401, 301 * 401)
    assert picture.there is picture.whole is picture.at(1) is image
    assert picture.half.shape == (151, 201, 3)
    assert picture.half is picture.at(2) is picture.there
    assert abs(float(picture.half.mean()) - float(image.mean())) < 1


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (1, 900), (2, 3)])
def test_half_of_a_tiny_picture(size: tuple[int, int]) -> None:
    half = FramePicture.of(np.zeros((*size, 3), np.uint8)).half
    assert half.shape == (-(-size[0] // 2), -(-size[1] // 2), 3)


def test_each_size_is_made_once_and_when_it_is_asked_for(image: Image) -> None:
    picture, made = reducible(image)
    assert not made
    assert picture.there is picture.half is picture.at(2)
    assert made == [2]
    assert picture.at(1) is picture.whole is image
    assert picture.there is picture.half
    assert made == [2, 1]


def test_half_serves_faces_with_twice_the_pixels(image: Image) -> None:
    picture, _ = reducible(image)
    assert [picture.scale_for(side) for side in (95.0, 96.0, np.inf, np.nan)] == [1, 2, 2, 1]
    assert picture.scale_for(100, needed=60) == 1
    assert FramePicture.of(image).scale_for(200) == 1, "the whole is there anyway"


def test_of_a_face_the_longer_side_counts() -> None:
    boxes = np.array([[10, 10, 70, 110], [0, 0, 200, 200]], np.float32)
    assert smallest(boxes) == 100
    assert smallest(boxes[:0]) == np.inf


@pytest.mark.parametrize("size", [(720, 1280), (90, 140), (8, 500), (2, 2)])
def test_samples_are_the_same_of_the_whole_and_of_half(size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    half, _ = reducible(image)
    assert half.there.shape[:2] == (size[0] // 2, size[1] // 2)
    some, others = (p.samples(48, 64).astype(int) for p in (FramePicture.of(image), half))
    assert some.shape == others.shape
    assert some.shape[0] >= min(48, size[0] // 2)
    assert some.shape[1] >= min(64, size[1] // 2)
    assert np.abs(some - others).max() <= 1


@pytest.mark.parametrize("size", [(721, 1283), (7, 500), (1, 1), (1, 40), (3, 3)])
def test_samples_of_odd_sides(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 9, np.uint8)
    for picture in (FramePicture.of(image), reducible(image)[0]):
        samples = picture.samples(48, 64)
        assert samples.size
        assert (samples == 9).all()


def test_samples_are_green_and_of_all_the_picture() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, 320:, 1] = 200
    samples = FramePicture.of(image).samples(48, 64)
    assert samples.shape == (48, 64)
    assert (samples[:, :32] == 0).all()
    assert (samples[:, 32:] == 200).all()
