"""Box arithmetic against facenet-pytorch's functions."""

import numpy as np
import pytest

from worker.detect.boxes import cell_boxes, doubled, halved, shift, square, windows
from worker.records import Detections


@pytest.fixture
def original():
    return pytest.importorskip(
        "facenet_pytorch.models.utils.detect_face", reason="the training extra is not installed"
    )


@pytest.fixture
def boxes():
    rng = np.random.default_rng(3)
    corner = rng.uniform(-60, 220, (400, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 90, (400, 2))], axis=1).astype(
        np.float32
    )


def test_square_is_rerec(original, boxes):
    torch = pytest.importorskip("torch", reason="the training extra is not installed")
    expected = original.rerec(torch.tensor(boxes)).numpy()
    np.testing.assert_array_equal(square(boxes), expected)


def test_shift_is_bbreg(original, boxes):
    torch = pytest.importorskip("torch", reason="the training extra is not installed")
    regression = np.random.default_rng(4).normal(0, 0.2, (400, 4)).astype(np.float32)
    expected = original.bbreg(torch.tensor(boxes), torch.tensor(regression)).numpy()
    np.testing.assert_allclose(shift(boxes, regression, inclusive=True), expected, atol=1e-4)
    plain = boxes + regression * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    np.testing.assert_allclose(shift(boxes, regression, inclusive=False), plain, atol=1e-4)


def test_cell_boxes_are_generate_bounding_box(original):
    torch = pytest.importorskip("torch", reason="the training extra is not installed")
    scale = 12 / 40 * 0.709
    faces = np.random.default_rng(5).random((1, 30, 40), np.float32)
    expected, _ = original.generateBoundingBox(
        torch.zeros(1, 4, 30, 40), torch.tensor(faces), scale, 0.8
    )
    _, rows, columns = np.nonzero(faces >= 0.8)
    np.testing.assert_array_equal(cell_boxes(rows, columns, scale), expected[:, :4].numpy())


def test_windows_are_pads_and_say_which_are_empty(original, boxes):
    torch = pytest.importorskip("torch", reason="the training extra is not installed")
    width, height = 200, 150
    y, ey, x, ex = original.pad(torch.tensor(boxes), width, height)
    found, visible = windows(boxes, np.full(400, width), np.full(400, height))
    np.testing.assert_array_equal(visible, (ey > y - 1) & (ex > x - 1))
    np.testing.assert_array_equal(found, np.stack([x - 1, y - 1, ex, ey], axis=1))
    assert 0 < visible.sum() < 400


def test_a_window_lies_inside_its_own_picture():
    boxes = np.tile(np.array([[-10.7, -5.2, 500, 500]], np.float32), (2, 1))
    found, visible = windows(boxes, np.array([30, 300]), np.array([20, 200]))
    assert found.tolist() == [[0, 0, 30, 20], [0, 0, 300, 200]]
    assert visible.all()


def test_a_box_covers_the_same_in_a_picture_of_half_the_size(boxes):
    """Its window there, doubled, is the window in the whole one."""
    even = (2 * np.round(boxes / 2)).astype(np.float32) + np.array([1, 1, 0, 0], np.float32)
    of = np.full(len(even), 200), np.full(len(even), 160)
    window, visible = windows(even, *of)
    half, seen = windows(halved(even), of[0] // 2, of[1] // 2)
    assert visible.any()
    np.testing.assert_array_equal(seen, visible)
    np.testing.assert_array_equal(2 * half[seen], window[visible])


def test_doubled_is_the_inverse_of_halved(boxes):
    landmarks = np.repeat(boxes[:, None, :2], 5, axis=1)
    faces = Detections(halved(boxes), np.ones(len(boxes), np.float32), landmarks)
    np.testing.assert_allclose(doubled(faces).boxes, boxes, atol=1e-4)
    np.testing.assert_array_equal(doubled(faces).landmarks, 2 * landmarks)
    assert halved(boxes).dtype == doubled(faces).boxes.dtype == np.float32
