from __future__ import annotations

import math

import numpy as np
import pytest

from training.data import LABELS, Fer2013
from training.evaluate import evaluate_splits, measure, predict, table, wilson
from worker.emotion.align import Colour
from worker.errors import DataError, ModelError
from worker.records import ModelInfo


class MeanClassifier:
    """Says of each crop how bright it is: the label is its mean value."""

    info = ModelInfo("mean", "1", "0" * 16)

    def __init__(
        self, labels: tuple[str, ...] = LABELS, size: int = 48, colour: Colour = "gray"
    ) -> None:
        self.labels, self.size, self.colour = labels, size, colour
        self.shapes: set[tuple[int, ...]] = set()

    def classify(self, crops: np.ndarray) -> np.ndarray:
        self.shapes.add(crops.shape[1:])
        told = crops.reshape(len(crops), -1).mean(axis=1).round().astype(int)
        order = [self.labels.index(label) for label in LABELS]
        answer = np.full((len(crops), len(LABELS)), 0.05, np.float32)
        answer[np.arange(len(crops)), np.array(order)[told]] = 0.7
        return answer


def flat(values: list[int]) -> np.ndarray:
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None], (len(values), 48, 48))


def test_figures_against_hand_computed_ones() -> None:
    # Truth and prediction: angry-angry, angry-happy, happy-happy, happy-happy, sad-happy.
    labels = np.array([0, 0, 3, 3, 4])
    probabilities = np.full((5, 7), 0.0, np.float32)
    for row, (top, value, true_value) in enumerate(
        [(0, 0.9, 0.9), (3, 0.5, 0.25), (3, 0.9, 0.9), (3, 0.5, 0.5), (3, 0.8, 0.1)]
    ):
        probabilities[row, top] = value
        probabilities[row, labels[row]] = true_value

    figures = measure(probabilities, labels)

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


def test_wilson_interval() -> None:
    # From the literature: 81 of 263 gives 0.2553 to 0.3662 (Newcombe 1998, table I).
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    low, high = wilson(20, 20)
    assert (low, high) == pytest.approx((0.8389, 1.0), abs=1e-4)


def test_certainty_in_the_wrong_label_costs_much_but_not_infinitely() -> None:
    probabilities = np.eye(7, dtype=np.float32)[[0]]
    assert measure(probabilities, np.array([1])).nll == pytest.approx(-math.log(1e-12))


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="0 labels"):
        measure(np.zeros((0, 7), np.float32), np.zeros(0, np.int64))


@pytest.mark.parametrize(("size", "colour", "channels"), [(48, "gray", 1), (96, "rgb", 3)])
def test_predictions_keep_order_whatever_the_model_wants(
    size: int, colour: Colour, channels: int
) -> None:
    model = MeanClassifier(tuple(reversed(LABELS)), size, colour)
    wanted = [i % 7 for i in range(300)]

    probabilities = predict(model, flat(wanted))

    assert probabilities.argmax(axis=1).tolist() == wanted
    assert model.shapes == {(size, size, channels)}


def test_a_model_of_other_labels_is_refused() -> None:
    with pytest.raises(ModelError, match="knows the labels calm; FER2013 has angry"):
        predict(MeanClassifier(labels=("calm",)), flat([0]))


def test_private_test_is_shown_without_its_copies_too() -> None:
    # Training holds the picture 1; PrivateTest has it under a wrong label, and two new ones.
    data = Fer2013(
        images=flat([1, 2, 3, 1, 4]),
        labels=np.array([1, 2, 3, 5, 4]),
        splits=np.array([0, 2, 2, 2, 1], np.uint8),
    )
    found = evaluate_splits(MeanClassifier(), data, ["PublicTest", "PrivateTest"])

    assert found["PublicTest"].n == 1
    assert (found["PrivateTest"].n, found["PrivateTest"].accuracy) == (3, 2 / 3)
    new = found["PrivateTest without copies in Training"]
    assert (new.n, new.accuracy) == (2, 1.0)
    assert "accuracy 66.67 %" in table("PrivateTest", found["PrivateTest"])


def test_an_empty_split_is_refused() -> None:
    data = Fer2013(flat([1]), np.array([1]), np.array([0], np.uint8))
    with pytest.raises(DataError, match="no pictures of PublicTest"):
        evaluate_splits(MeanClassifier(), data, ["PublicTest"])
