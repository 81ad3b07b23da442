from __future__ import annotations

import numpy as np
import pytest

from training.data import FER2013
from training.evaluation import robustness
from training.evaluation.robustness import measure_robustness


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(1).integers(0, 256, (4, 48, 48), np.uint8)
    return images, np.array([0, 1, 2, 3])


def crops_by_point(model, curve: str) -> list[np.ndarray]:
    """What the model saw, (N, 48, 48) for each point of one curve."""
    order = ("margin", "jitter", "roll", "blur", "size")
    counts = [len(getattr(robustness, f"{name.upper()}S")) for name in order]
    start = sum(counts[: order.index(curve)])
    return [crops[..., 0] for crops in model.seen[start : start + counts[order.index(curve)]]]


@pytest.mark.parametrize("margin", [-0.06, 0.0, 0.3])
def test_without_error_each_picture_comes_back_bit_for_bit(
    mean_model, pictures, margin: float
) -> None:
    model = mean_model()
    model.margin = margin
    measure_robustness(model, *pictures)
    exact = [
        crops_by_point(model, "margin")[robustness.MARGINS.index(0.0)],
        *(crops_by_point(model, name)[0] for name in ("jitter", "roll", "blur", "size")),
    ]
    for crops in exact:
        np.testing.assert_array_equal(crops, pictures[0])


def test_each_curve_does_what_it_says(mean_model) -> None:
    # A black picture with a white square of 16 pixels in the middle of its left half.
    image = np.zeros((1, 48, 48), np.uint8)
    image[0, 16:32, 4:20] = 255
    model = mean_model()
    measure_robustness(model, image, np.array([0]))

    def centre(crop: np.ndarray) -> tuple[float, float]:
        weights = crop.astype(float) / crop.sum()
        rows, columns = np.indices(crop.shape)
        return float((weights * rows).sum()), float((weights * columns).sum())

    shares = [crops[0].mean() / 255 for crops in crops_by_point(model, "margin")]
    # The crop's side grows by value / (1 - 0.06), and the square's share falls with its square.
    for value, share in zip(robustness.MARGINS[2:], shares[2:], strict=True):
        side = 1 + value / 0.94
        assert share == pytest.approx(16 * 16 / 48 / 48 / side**2, rel=0.05)

    places = [centre(crops[0]) for crops in crops_by_point(model, "jitter")]
    moved = [np.hypot(y - places[0][0], x - places[0][1]) for y, x in places]
    assert moved == sorted(moved)
    # Up to 20 % of a side of 51 pixels both ways, and 20 % of size.
    assert 0 < moved[-1] < 48 * 0.5

    turned = centre(crops_by_point(model, "roll")[-1][0])
    # The square's centre, 12 pixels left of the middle, is now 12 / sqrt(2) left and up or down.
    assert abs(turned[0] - 23.5) == pytest.approx(12 / 2**0.5, abs=0.3)
    assert 23.5 - turned[1] == pytest.approx(12 / 2**0.5, abs=0.3)

    for curve in ("blur", "size"):
        detail = [
            np.abs(np.diff(crops[0].astype(float))).max() for crops in crops_by_point(model, curve)
        ]
        assert detail[0] == 255
        assert detail[-1] < 128


def test_points_count_what_is_still_right(mean_model, flat) -> None:
    # Of flat pictures no distortion changes the mean: three of four stay right everywhere.
    found = measure_robustness(mean_model(), flat([0, 1, 2, 3]), np.array([0, 1, 2, 6]))
    assert (found.n, found.seed) == (4, 0)
    for name in ("margin", "jitter", "roll", "blur", "size"):
        curve = getattr(found, name)
        assert [one.accuracy for one in curve] == [0.75] * len(curve)
        assert all(one.interval[0] < 0.75 < one.interval[1] for one in curve)
    assert [one.value for one in found.size] == [48, 40, 32, 24, 20, 16]


def test_a_sample_is_drawn_by_the_seed(mean_model) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 14, (30, 48, 48), np.uint8)
    labels = random.integers(0, len(FER2013.labels), 30)
    seen = []
    for seed in (1, 1, 2):
        model = mean_model()
        found = measure_robustness(model, images, labels, sample=5, seed=seed)
        assert found.n == 5
        seen.append(np.concatenate(model.seen))
    np.testing.assert_array_equal(seen[0], seen[1])
    assert (seen[0] != seen[2]).any()
