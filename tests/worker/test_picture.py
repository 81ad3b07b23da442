"""A picture at two sizes, and which of them serves which faces."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

import cv2
import numpy as np
import pytest
from skimage import data

from tests.pictures import reducible
from worker.consume.images import open_picture
from worker.detect.schedule import thumbnail
from worker.picture import FramePicture, Scale, smallest
from worker.records import Encoding, Frame, Image

SCALES: tuple[Scale, ...] = (1, 2)


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


@pytest.mark.parametrize("size", [(720, 1280), (767, 1365), (863, 1151), (1366, 769)])
def test_samples_of_a_jpeg_are_the_same_whole_and_halved(size: tuple[int, int]) -> None:
    """But for little: the eye of the astronaut may be a level or two brighter."""
    image = cv2.resize(data.astronaut(), size[::-1], interpolation=cv2.INTER_AREA)
    content = cv2.imencode(".jpg", image)[1].tobytes()
    jpeg = Frame("f", "s", 0, datetime.now(UTC), 0, Fraction(1), 0, 0, Encoding.JPEG, content)
    whole, half = (open_picture(jpeg, first=scale) for scale in SCALES)
    assert whole.there.shape[0] == size[0]
    assert half.there.shape[0] == -(-size[0] // 2)
    some, others = (picture.samples(48, 64).astype(int) for picture in (whole, half))
    assert some.shape == others.shape
    assert some.shape[0] >= 48
    assert some.shape[1] >= 64
    assert np.abs(some - others).mean() < 1
    before, after = (np.frombuffer(thumbnail(one), np.uint8).astype(int) for one in (whole, half))
    assert np.abs(before - after).max() <= 2


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
