"""The summed-area sampler against the original's adaptive average pool."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import worker.detect.resample as resample
from worker.detect.resample import AreaSampler, TableMemory


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prepared(images, memory=None):
    sampler = AreaSampler(images, memory or TableMemory())
    for i in range(len(images)):
        sampler.prepare(i)
    return sampler


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
    sampled = prepared(images).level([2, 0], *level)
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
        crops = prepared(images).crops(pictures, windows, size)
        assert crops.shape == (5, 3, size, size)
        for crop, picture, (left, top, right, bottom) in zip(crops, pictures, windows, strict=True):
            cut = images[picture][top:bottom, left:right]
            np.testing.assert_allclose(crop, pooled(cut, size, size), atol=1e-4)


def test_order_of_crops_is_kept_when_pictures_alternate():
    images = [np.full((50, 50, 3), value, np.uint8) for value in (10, 20, 30)]
    pictures = np.array([2, 0, 1, 0, 2])
    windows = np.tile([5, 5, 40, 40], (5, 1))
    crops = prepared(images).crops(pictures, windows, 24)
    assert crops.mean(axis=(1, 2, 3)).tolist() == [30, 10, 20, 10, 30]


def test_views_of_an_image_are_read_right():
    image = noise(60, 80)
    mirrored = image[:, ::-1]
    expected = prepared([mirrored.copy()]).level([0], 20, 30)
    np.testing.assert_array_equal(prepared([mirrored]).level([0], 20, 30), expected)


def test_sums_that_overflow_still_give_the_mean():
    # 3,000 x 3,000 x 255 is more than an int32 holds.
    white = np.full((3000, 3000, 3), 255, np.uint8)
    sampler = prepared([white])
    np.testing.assert_allclose(sampler.level([0], 70, 70), 255, atol=1e-4)
    window = np.array([[2900, 2900, 3000, 3000]])
    np.testing.assert_allclose(sampler.crops(np.array([0]), window, 24), 255, atol=1e-4)


def test_memory_is_used_again_and_changes_nothing():
    memory = TableMemory()
    for size in ((40, 50), (90, 70), (20, 30)):
        image = noise(*size)
        expected = prepared([image]).level([0], 15, 15)
        np.testing.assert_array_equal(prepared([image], memory).level([0], 15, 15), expected)
    assert memory.take([(20, 30)])[0].base is memory.take([(90, 70)])[0].base


def test_memory_for_huge_pictures_is_not_kept(monkeypatch):
    memory = TableMemory()
    monkeypatch.setattr(resample, "_KEPT_BYTES", 100_000)
    assert memory.take([(10, 10)])[0].base is memory.take([(5, 5)])[0].base
    assert memory.take([(200, 200)])[0].base is not memory.take([(200, 200)])[0].base
    assert np.shares_memory(memory.window(10, 10), memory.window(5, 5))
    assert not np.shares_memory(memory.window(200, 200), memory.window(200, 200))


def test_each_thread_has_its_own_memory():
    memory = TableMemory()
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(memory.take, [(10, 10)]).result()
    assert not np.shares_memory(theirs[0], memory.take([(10, 10)])[0])


def test_a_window_without_a_table_is_the_one_with_it():
    images = [noise(90, 120), noise(200, 50, 1)]
    windows = np.array([[3, 4, 90, 80], [0, 0, 1, 1], [49, 100, 50, 130], [0, 0, 50, 200]])
    pictures = np.array([0, 0, 1, 1])
    for size in (24, 48):
        np.testing.assert_array_equal(
            AreaSampler(images, TableMemory()).crops(pictures, windows, size),
            prepared(images).crops(pictures, windows, size),
        )
