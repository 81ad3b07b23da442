from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("facenet_pytorch", reason="needs the training extra")

from training.crop_convention import _canvas, measure
from training.data import CROP_MARGIN, Dataset


def test_the_picture_lies_in_the_middle_of_its_canvas() -> None:
    image = np.zeros((48, 48), np.uint8)
    image[8:40, 8:40] = 255
    for border, around in (("replicate", 0), ("grey", 128)):
        canvas = _canvas(image, border)
        assert canvas.shape == (480, 480, 3)
        assert canvas[0, 0].tolist() == [around] * 3
        bright = np.argwhere(canvas[:, :, 0] > 200)
        np.testing.assert_allclose(bright.mean(axis=0), 239.5, atol=1)
        np.testing.assert_allclose(np.ptp(bright, axis=0), 160, atol=4)


def test_a_few_pictures_already_show_the_margin(fer2013: Dataset) -> None:
    images = fer2013.split("Training").images
    found = measure(images[:: len(images) // 40])
    assert found.faces >= 30
    assert found.margin == pytest.approx(CROP_MARGIN, abs=0.06)
    assert max(map(abs, found.offset)) < 0.05
