from __future__ import annotations

import math

import numpy as np
import pytest

from training.data import FER2013, FERPLUS
from training.evaluation.figures import measure, paired, untempered, wilson


def test_figures_against_hand_computed_ones() -> None:
    # Truth and prediction: angry-angry, angry-happy, happy-happy, happy-happy, sad-happy.
    labels = np.array([0, 0, 3, 3, 4])
    probabilities = np.full((5, 7), 0.0, np.float32)
    for row, (top, value, true_value) in enumerate(
        [(0, 0.9, 0.9), (3, 0.5, 0.25), (3, 0.9, 0.9), (3, 0.5, 0.5), (3, 0.8, 0.1)]
    ):
        probabilities[row, top] = value
        probabilities[row, labels[row]] = true_value

    figures = measure(probabilities, labels, FER2013)

    assert (figures.n, figures.accuracy) == (5, 0.6)
    assert figures.confusion[0] == [1, 0, 0, 1, 0, 0, 0]
    assert figures.confusion[3] == [0, 0, 0, 2, 0, 0, 0]
    assert figures.confusion[4] == [0, 0, 0, 1, 0, 0, 0]
    assert np.trace(figures.confusion) / figures.n == figures.accuracy
    angry, happy, sad = (figures.classes[name] for name in ("angry", "happy", "sad"))
    assert (angry.precision, angry.recall, angry.support) == (1.0, 0.5, 2)
    assert angry.f1 == pytest.approx(2 / 3)
    assert (happy.precision, happy.recall, happy.support) == (0.5, 1.0, 2)
    assert happy.f1 == pytest.approx(2 / 3)
    assert (sad.precision, sad.recall, sad.f1, sad.support) == (0.0, 0.0, 0.0, 1)
    # disgust, fear, surprise and neutral do not occur and count as 0.
    assert figures.macro_f1 == pytest.approx((2 / 3 + 2 / 3) / 7)
    expected = -sum(map(math.log, [0.9, 0.25, 0.9, 0.5, 0.1])) / 5
    assert figures.nll == pytest.approx(expected)
    # Bins: two of 0.9 both right; two of 0.5 one right; one of 0.8 wrong.
    assert figures.ece == pytest.approx((2 * 0.1 + 2 * 0.0 + 1 * 0.8) / 5)
    assert [one.n for one in figures.reliability if one.n] == [2, 1, 2]
    half = figures.reliability[7]
    assert (half.low, half.high) == pytest.approx((7 / 15, 8 / 15))
    assert (half.n, half.confidence, half.accuracy) == (2, 0.5, 0.5)
    assert figures.reliability[0].accuracy is None


def test_labels_are_those_of_the_label_set() -> None:
    figures = measure(np.eye(8, dtype=np.float32), np.arange(8), FERPLUS)
    assert tuple(figures.classes) == FERPLUS.labels
    assert figures.accuracy == figures.macro_f1 == 1
    assert figures.ece == 0
    with pytest.raises(ValueError, match=r"\(8, 8\) probabilities"):
        measure(np.eye(8, dtype=np.float32), np.arange(8), FER2013)


def test_wilson_interval() -> None:
    # From the literature: 81 of 263 gives 0.2553 to 0.3662 (Newcombe 1998, table I).
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


def test_certainty_in_the_wrong_label_costs_much_but_not_infinitely() -> None:
    probabilities = np.eye(7, dtype=np.float32)[[0]]
    assert measure(probabilities, np.array([1]), FER2013).nll == pytest.approx(-math.log(1e-12))


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="0 labels"):
        measure(np.zeros((0, 7), np.float32), np.zeros(0, np.int64), FER2013)


def outcomes(both: int, only_a: int, only_b: int) -> tuple[np.ndarray, np.ndarray]:
    a = [True] * both + [True] * only_a + [False] * only_b
    b = [True] * both + [False] * only_a + [True] * only_b
    return np.array(a), np.array(b)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (1, 5, 2 * (1 + 6) / 64),
        (5, 1, 2 * (1 + 6) / 64),
        (0, 8, 2 / 256),
        (4, 4, 1.0),
        (0, 0, 1.0),
    ],
)
def test_paired_test_against_coin_tosses(only_a: int, only_b: int, p: float) -> None:
    assert paired(*outcomes(10, only_a, only_b)) == pytest.approx(p)


def test_paired_test_of_many_pictures_is_near_the_normal_approximation() -> None:
    # (|1450 - 1550| - 1) / sqrt(3000) standard deviations, both tails.
    expected = math.erfc(99 / math.sqrt(3000) / math.sqrt(2))
    assert paired(*outcomes(0, 1450, 1550)) == pytest.approx(expected, rel=0.01)


def test_temperature_is_taken_out_again() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (50, 7))

    def softmax(values: np.ndarray) -> np.ndarray:
        raised = np.exp(values)
        return (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)

    np.testing.assert_allclose(untempered(softmax(logits / 1.7), 1.7), softmax(logits), atol=1e-5)


def test_a_probability_that_is_zero_stays_finite() -> None:
    found = untempered(np.array([[1.0, 0.0]], np.float32), 0.5)
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1)
