from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from worker.emotion.align import BLANK, crop_faces


def noise(height: int = 60, width: int = 90) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def one_crop(
    image: np.ndarray, box: list[float], size: int = 48, margin: float = 0.0
) -> np.ndarray:
    crops = crop_faces(image, np.array([box]), size=size, margin=margin, colour="rgb")
    assert crops.shape == (1, size, size, 3)
    return crops[0]


def test_a_square_of_the_right_size_is_the_picture_itself() -> None:
    image = noise()
    np.testing.assert_array_equal(one_crop(image, [10, 5, 40, 35], size=30), image[5:35, 10:40])


def test_the_side_is_the_longer_one_around_the_boxs_centre() -> None:
    image = noise()
    # 20 x 40 around (40, 30): the square reaches 10 pixels further to the left and right.
    crop = one_crop(image, [30, 10, 50, 50], size=40)
    np.testing.assert_array_equal(crop, image[10:50, 20:60])


@pytest.mark.parametrize(("margin", "side"), [(0.5, 30), (-0.25, 15)])
def test_the_margin_is_a_part_of_the_side(margin: float, side: int) -> None:
    image = noise()
    crop = one_crop(image, [30, 20, 50, 40], size=side, margin=margin)
    low_x, low_y = 40 - side / 2, 30 - side / 2
    left, top = round(low_x), round(low_y)
    np.testing.assert_array_equal(crop, image[top : top + side, left : left + side])


def test_beyond_the_picture_its_edge_is_repeated() -> None:
    image = noise()
    crop = one_crop(image, [-10, -10, 20, 20], size=30)
    np.testing.assert_array_equal(crop[10:, 10:], image[:20, :20])
    np.testing.assert_array_equal(crop[:10, 10:], np.broadcast_to(image[0, :20], (10, 20, 3)))
    np.testing.assert_array_equal(crop[:10, :10], np.broadcast_to(image[0, 0], (10, 10, 3)))

    crop = one_crop(image, [80, 50, 100, 70], size=20)
    np.testing.assert_array_equal(crop[:10, :10], image[50:, 80:])
    np.testing.assert_array_equal(crop[10:, 10:], np.broadcast_to(image[-1, -1], (10, 10, 3)))


def test_a_box_outside_shows_the_nearest_edge_however_far_it_is() -> None:
    image = noise()
    for shift in (0, 1e3, 1e30):
        crop = one_crop(image, [200 + shift, 10, 230 + shift, 40], size=30)
        np.testing.assert_array_equal(crop, np.repeat(image[10:40, -1:], 30, axis=1))


@pytest.mark.parametrize(("side", "size"), [(120, 48), (20, 48), (97, 48), (48, 48)])
def test_circles_stay_circles(side: int, size: int) -> None:
    """Never stretched: a disc is as wide as it is high, in the middle, wherever it was."""
    rows, columns = np.mgrid[:200, :300] + 0.5
    disc = np.hypot(columns - 170, rows - 90) <= side / 4
    image = np.repeat(disc[:, :, None] * np.uint8(255), 3, axis=2)
    # The box itself is not square: the wide one and the high one give the same crop.
    high = one_crop(image, [160, 90 - side / 2, 180, 90 + side / 2], size=size)
    wide = one_crop(image, [170 - side / 2, 80, 170 + side / 2, 100], size=size)
    np.testing.assert_array_equal(high, wide)

    bright = high[:, :, 0] > 127
    width, height = bright.any(axis=0).sum(), bright.any(axis=1).sum()
    assert width == height
    assert abs(width - size / 2) <= 2
    middle = np.argwhere(bright).mean(axis=0) + 0.5
    np.testing.assert_allclose(middle, size / 2, atol=1.0)


def test_shrinking_averages() -> None:
    """A fine chessboard must become grey, not a coarse chessboard (aliasing)."""
    board = (np.indices((96, 96)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = one_crop(np.repeat(board[:, :, None], 3, axis=2), [0, 0, 96, 96], size=48)
    assert np.ptp(crop) == 0
    assert abs(int(crop[0, 0, 0]) - 127) <= 1


def test_grey_is_luma_and_leaves_grey_as_it_is() -> None:
    image = np.zeros((10, 40, 3), np.uint8)
    for index, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (77, 77, 77)]):
        image[:, 10 * index : 10 * index + 10] = colour
    boxes = np.array([[10 * i, 0, 10 * i + 10, 10] for i in range(4)], np.float32)

    crops = crop_faces(image, boxes, size=10, margin=0.0, colour="gray")

    assert crops.shape == (4, 10, 10, 1)
    assert crops[:, 0, 0, 0].tolist() == [76, 150, 29, 77]


@pytest.mark.parametrize(
    "box",
    [
        [np.nan, 0, 10, 10],
        [0, 0, np.inf, 10],
        [20, 20, 20, 20],
        [30, 30, 10, 10],
        [0, 0, 1e9, 10],
    ],
)
def test_boxes_that_say_nothing_give_mid_grey_and_shift_no_other(box: list[float]) -> None:
    image = noise()
    good = [10.0, 5.0, 40.0, 35.0]
    crops = crop_faces(
        image, np.array([good, box, good], np.float32), size=30, margin=0.0, colour="rgb"
    )
    assert (crops[1] == BLANK).all()
    for crop in crops[[0, 2]]:
        np.testing.assert_array_equal(crop, image[5:35, 10:40])


@given(
    boxes=npst.arrays(
        np.float32,
        st.tuples(st.integers(0, 6), st.just(4)),
        elements=st.one_of(st.floats(width=32), st.floats(-100, 200, width=32)),
    ),
    margin=st.floats(-0.5, 1.0),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_always_as_many_crops_as_boxes(
    boxes: np.ndarray, margin: float, shape: tuple[int, int]
) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    crops = crop_faces(image, boxes, size=12, margin=margin, colour="gray")
    assert crops.shape == (len(boxes), 12, 12, 1)
    assert crops.dtype == np.uint8
    # Of a picture of one colour every crop is that colour, or says that the box said nothing.
    for crop in crops:
        assert np.unique(crop).tolist() in ([200], [BLANK])


def test_wrong_arguments_are_refused() -> None:
    boxes = np.zeros((1, 4), np.float32)
    good = {"size": 8, "margin": 0.0, "colour": "gray"}
    for image in (np.zeros((5, 5), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5, 3))):
        with pytest.raises(ValueError, match="image must be"):
            crop_faces(image, boxes, **good)
    with pytest.raises(ValueError, match="boxes must be"):
        crop_faces(noise(), np.zeros(4, np.float32), **good)
    with pytest.raises(ValueError, match="margin above -1"):
        crop_faces(noise(), boxes, size=8, margin=-1.0, colour="gray")
