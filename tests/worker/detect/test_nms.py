"""Suppression against torchvision's and facenet-pytorch's own."""

import numpy as np
import pytest

import worker.detect.nms as suppression
from worker.detect.nms import nms_by_group, nms_of_smaller


def nms(boxes, scores, threshold):
    return nms_by_group(boxes, scores, np.zeros(len(boxes), np.int64), threshold)


def random_boxes(count, seed, spread=200):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-20, spread, (count, 2))
    size = rng.uniform(5, 80, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def random_scores(count, seed):
    return np.random.default_rng(seed + 1000).random(count, np.float32)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("count", [0, 1, 2, 40, 257, 1500])
def test_union_is_torchvisions(count, threshold):
    torch = pytest.importorskip("torch", reason="the training extra is not installed")
    ops = pytest.importorskip("torchvision.ops", reason="the training extra is not installed")
    boxes, scores = random_boxes(count, count), random_scores(count, count)
    expected = ops.nms(torch.tensor(boxes), torch.tensor(scores), threshold).numpy()
    np.testing.assert_array_equal(nms(boxes, scores, threshold), expected)


def test_union_is_torchvisions_among_equal_scores():
    torch = pytest.importorskip("torch", reason="the training extra is not installed")
    ops = pytest.importorskip("torchvision.ops", reason="the training extra is not installed")
    boxes = random_boxes(300, 5)
    scores = random_scores(300, 5).round(1)
    expected = ops.nms(torch.tensor(boxes), torch.tensor(scores), 0.4).numpy()
    np.testing.assert_array_equal(nms(boxes, scores, 0.4), expected)


@pytest.mark.parametrize("count", [1, 2, 40, 257, 1500])
def test_minimum_is_facenets(count):
    original = pytest.importorskip(
        "facenet_pytorch.models.utils.detect_face", reason="the training extra is not installed"
    )
    boxes, scores = random_boxes(count, count), random_scores(count, count)
    expected = original.nms_numpy(boxes, scores, 0.7, "Min")
    np.testing.assert_array_equal(nms_of_smaller(boxes, scores, 0.7), expected)


def test_groups_are_torchvisions():
    torch = pytest.importorskip("torch", reason="the training extra is not installed")
    ops = pytest.importorskip("torchvision.ops", reason="the training extra is not installed")
    boxes, scores = random_boxes(200, 1), random_scores(200, 1)
    groups = np.random.default_rng(2).choice([0, 3, 4, 10**9], 200)
    tensors = (torch.tensor(a) for a in (boxes, scores, groups))
    # Each group by itself: torchvision's own for groups moves their boxes apart, which rounds.
    expected = ops.boxes._batched_nms_vanilla(*tensors, 0.5).numpy()
    kept = nms_by_group(boxes, scores, groups, 0.5)
    assert sorted(kept) == sorted(expected)
    # Group by group, best first in each.
    assert (np.diff(groups[kept]) >= 0).all()
    for group in np.unique(groups):
        assert (np.diff(scores[kept][groups[kept] == group]) <= 0).all()


def test_a_suppressed_box_suppresses_nothing():
    # A chain: each box overlaps the next by half; the second goes, so the third stays.
    boxes = np.array([[x, 0, x + 20, 20] for x in (0, 5, 10, 15, 20)], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    assert nms(boxes, scores, 0.4).tolist() == [0, 2, 4]
    # The chain read from its other end, and a long one.
    assert nms(boxes, scores[::-1].copy(), 0.4).tolist() == [4, 2, 0]
    long = np.array([[x, 0, x + 20, 20] for x in range(0, 5 * 601, 5)], np.float32)
    falling = np.linspace(1, 0, 601, dtype=np.float32)
    assert nms(long, falling, 0.4).tolist() == list(range(0, 601, 2))


def test_boxes_without_area_are_harmless():
    boxes = np.array([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]], np.float32)
    assert nms(boxes, np.array([0.9, 0.8, 0.7], np.float32), 0.5).tolist() == [0, 1, 2]
    assert nms_by_group(boxes[:0], np.zeros(0, np.float32), np.zeros(0, np.int64), 0.5).size == 0


def test_the_smaller_of_boxes_without_area_is_harmless():
    boxes = np.array([[5, 5, 4, 4], [5, 5, 4, 4], [0, 0, 10, 10]], np.float32)
    assert sorted(nms_of_smaller(boxes, np.array([0.9, 0.8, 0.7], np.float32), 0.5)) == [0, 1, 2]


def test_many_groups_go_in_several_calls_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 40, (300, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (300, 2))], 1).astype(np.float32)
    scores, groups = rng.uniform(0, 1, 300).astype(np.float32), rng.integers(0, 9, 300) * 7
    whole = nms_by_group(boxes, scores, groups, 0.4)
    sizes = []
    operator = suppression.nms_operator()

    class Counted:
        def run(self, _, inputs):
            sizes.append(inputs["scores"].size)
            return operator.run(None, inputs)

    monkeypatch.setattr(suppression, "nms_operator", Counted)
    monkeypatch.setattr(suppression, "_SCORES_AT_ONCE", 400)
    np.testing.assert_array_equal(nms_by_group(boxes, scores, groups, 0.4), whole)
    assert 9 >= len(sizes) > 3
    assert max(sizes) <= 400
