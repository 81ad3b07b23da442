"""The summed-area sampler against the original's adaptive average pool."""

import numpy as np
import pytest

from worker.detect.resample import AreaSampler


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pooled(image, height, width):
    torch = pytest.importorskip("torch", reason="the training extra is not installed")
    planes = torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    return torch.nn.functional.interpolate(planes, size=(height, width), mode="area")[0].numpy()


@pytest.mark.parametrize(
    ("size", "level"),
    [((720, 1280), (217, 385)), ((97, 61), (30, 19)), ((40, 40), (13, 13)), ((10, 7), (13, 11))],
)
def test_levels_are_the_originals(size, level):
    images = [noise(*size, seed) for seed in range(3)]
    sampled = AreaSampler(images).level([2, 0], *level)
    assert sampled.dtype == np.float32
    assert sampled.shape == (2, 3, *level)
    for planes, image in zip(sampled, (images[2], images[0]), strict=True):
        np.testing.assert_allclose(planes, pooled(image, *level), atol=1e-4)


def test_crops_are_the_originals():
    images = [noise(90, 120), noise(200, 50, 1)]
    windows = np.array(
        [[3, 4, 90, 80], [0, 0, 1, 1], [10, 20, 17, 90], [0, 0, 50, 200], [49, 100, 50, 130]]
    )
    pictures = np.array([0, 0, 0, 1, 1])
    for size in (24, 48):
        crops = AreaSampler(images).crops(pictures, windows, size)
        assert crops.shape == (5, 3, size, size)
        for crop, picture, (left, top, right, bottom) in zip(crops, pictures, windows, strict=True):
            cut = images[picture][top:bottom, left:right]
            np.testing.assert_allclose(crop, pooled(cut, size, size), atol=1e-4)


def test_order_of_crops_is_kept_when_pictures_alternate():
    images = [np.full((50, 50, 3), value, np.uint8) for value in (10, 20, 30)]
    pictures = np.array([2, 0, 1, 0, 2])
    windows = np.tile([5, 5, 40, 40], (5, 1))
    crops = AreaSampler(images).crops(pictures, windows, 24)
    assert crops.mean(axis=(1, 2, 3)).tolist() == [30, 10, 20, 10, 30]


def test_views_of_an_image_are_read_right():
    image = noise(60, 80)
    mirrored = image[:, ::-1]
    expected = AreaSampler([mirrored.copy()]).level([0], 20, 30)
    np.testing.assert_array_equal(AreaSampler([mirrored]).level([0], 20, 30), expected)


def test_sums_that_overflow_still_give_the_mean():
    # 3,000 x 3,000 x 255 is more than an int32 holds.
    white = np.full((3000, 3000, 3), 255, np.uint8)
    sampler = AreaSampler([white])
    np.testing.assert_allclose(sampler.level([0], 70, 70), 255, atol=1e-4)
    window = np.array([[2900, 2900, 3000, 3000]])
    np.testing.assert_allclose(sampler.crops(np.array([0]), window, 24), 255, atol=1e-4)
