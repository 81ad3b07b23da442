from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.abstention import Coverage, cover, coverage_curve, threshold

TOPS = np.array([0.9, 0.6, 0.8, 0.4, 0.5])
PROBABILITIES = np.stack([TOPS, 1 - TOPS, 0 * TOPS], axis=1).astype(np.float32)[:, [1, 0, 2]]
"""The tops are in column 1, save for the fourth's, 0.6 in column 0."""
LABELS = np.array([1, 0, 1, 0, 2])


def test_coverage_by_hand() -> None:
    """0.9, 0.8 and the fourth 0.6 are right, the second 0.6 and 0.5 are not."""
    assert cover(PROBABILITIES, LABELS, 0.0) == Coverage(0.0, 1.0, 0.6, None)
    assert cover(PROBABILITIES, LABELS, 0.55) == Coverage(0.55, 0.8, 0.75, 0.0)
    assert cover(PROBABILITIES, LABELS, 0.7) == Coverage(0.7, 0.4, 1.0, pytest.approx(1 / 3))
    assert cover(PROBABILITIES, LABELS, 0.95) == Coverage(0.95, 0.0, None, 0.6)


def test_at_the_threshold_itself_it_answers_as_workers_do() -> None:
    assert cover(PROBABILITIES, LABELS, 0.5).answered == 1


def test_no_more_than_the_share_is_declined() -> None:
    tops = np.random.default_rng(0).uniform(0.5, 1, 1000)
    probabilities = np.stack([tops, 1 - tops], axis=1).astype(np.float32)
    labels = np.zeros(1000, np.int64)
    for share in (0.0, 0.1, 0.37):
        below = threshold(probabilities, share)
        assert below == round(below, 3)
        declined = 1 - cover(probabilities, labels, below).answered
        assert share - 0.01 < declined <= share
    # A model that is sure of all abstains on none.
    assert threshold(np.eye(3, dtype=np.float32), 0) == 0
    assert cover(np.full((3, 1), 0.9999, np.float32), labels[:3], 0.999).answered == 1
    assert threshold(np.full((3, 1), 0.9999, np.float32), 0.5) == 0.999


def test_the_curve_goes_from_all_to_the_surest_half() -> None:
    random = np.random.default_rng(1)
    tops = random.uniform(0.5, 1, 40_000)
    right = random.uniform(size=40_000) < tops
    probabilities = np.stack([tops, 1 - tops], axis=1).astype(np.float32)
    curve = coverage_curve(probabilities, np.where(right, 0, 1))
    assert [one.answered for one in curve] == pytest.approx(np.arange(1, 0.45, -0.05), abs=0.01)
    accuracies = [one.accuracy for one in curve]
    assert accuracies[0] == pytest.approx(0.75, abs=0.02)
    assert accuracies[-1] == pytest.approx(0.875, abs=0.02)


def test_in_words() -> None:
    assert Coverage(0.4, 0.9, 0.734, 0.338).sentence() == (
        "abstains below 0.400: answers 90.00 % of pictures, 73.40 % of them rightly; "
        "of the others it had 33.80 % right"
    )
    assert Coverage(0.0, 1.0, 0.7, None).sentence() == (
        "abstains below 0.000: answers 100.00 % of pictures, 70.00 % of them rightly"
    )
