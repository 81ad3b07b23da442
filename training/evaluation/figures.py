"""Figures of a classification: how often it is right, where it errs, how far its certainty holds.

Plain arithmetic on probabilities and labels; nothing here knows a model or a data set's files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data import LabelSet
from worker.records import Floats

Labels = npt.NDArray[np.int64]

_BINS = 15
_Z = 1.959964
"""The standard normal's 97.5 % quantile."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Of one label; a ratio whose denominator is 0 counts as 0."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, slots=True)
class Bin:
    """The pictures whose top probability lies in one part of 0..1; means are None where n is 0."""

    low: float
    high: float
    n: int
    confidence: float | None
    """Mean top probability."""
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What one model did on one set of pictures."""

    n: int
    accuracy: float
    interval: tuple[float, float]
    """95 % Wilson score interval of the accuracy."""
    macro_f1: float
    nll: float
    """Mean negative log-likelihood of the true label, in nats."""
    ece: float
    """Expected calibration error of the top probability: 15 bins of equal width."""
    classes: dict[str, ClassFigures]
    confusion: list[list[int]]
    """Rows are the truth, columns the prediction, both in the order of the labels."""
    reliability: list[Bin]
    """The bins of ``ece``, from 0 up."""

    def summary(self) -> dict[str, Any]:
        """The figures that are one number, and the interval."""
        return {
            "n": self.n,
            "accuracy": self.accuracy,
            "interval": self.interval,
            "macro_f1": self.macro_f1,
            "nll": self.nll,
            "ece": self.ece,
        }


def measure(probabilities: Floats, labels: Labels, label_set: LabelSet) -> Figures:
    """Compare probabilities (N, L) with the true labels (N,), N >= 1, both as ``label_set`` says.

    Raises:
        ValueError: the shapes do not fit each other or the label set, or N is 0.
    """
    n, width = len(labels), len(label_set.labels)
    if n == 0 or probabilities.shape != (n, width):
        raise ValueError(f"{probabilities.shape} probabilities for {n} labels")
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((width, width), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    correct = int(np.trace(confusion))
    if correct != int((predicted == labels).sum()):
        raise AssertionError("the confusion matrix does not agree with the accuracy")

    classes = {
        label: _class_figures(confusion, index) for index, label in enumerate(label_set.labels)
    }
    true_probability = probabilities[np.arange(n), labels].astype(np.float64)
    reliability = _reliability(probabilities.max(axis=1), predicted == labels)
    return Figures(
        n=n,
        accuracy=correct / n,
        interval=wilson(correct, n),
        macro_f1=float(np.mean([figures.f1 for figures in classes.values()])),
        nll=float(-np.log(np.maximum(true_probability, 1e-12)).mean()),
        ece=_calibration_error(reliability),
        classes=classes,
        confusion=confusion.tolist(),
        reliability=reliability,
    )


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (E. B. Wilson, 1927)."""
    share = correct / n
    centre = share + _Z * _Z / (2 * n)
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    return (centre - spread) / (1 + _Z * _Z / n), (centre + spread) / (1 + _Z * _Z / n)


def paired(correct_a: npt.NDArray[np.bool_], correct_b: npt.NDArray[np.bool_]) -> float:
    """Two-sided p value of the exact McNemar test.

    ``correct_a`` and ``correct_b`` (N,) say which of the same N pictures two models got right. Were
    both equally good, the pictures that only one of them got right would fall to either like the
    tosses of a coin; p is the probability of a split at least as uneven as this one. 1 where there
    is no such picture.
    """
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    tosses = only_a + only_b
    tail = sum(math.comb(tosses, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / (1 << tosses))


def untempered(probabilities: Floats, temperature: float) -> Floats:
    """What softmax(logits / temperature) (N, L) would have been at temperature 1.

    The logits are known from the probabilities up to a constant a row, which softmax ignores.
    """
    tiny = np.finfo(np.float32).smallest_subnormal
    logits = temperature * np.log(np.maximum(probabilities, tiny).astype(np.float64))
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


def _class_figures(confusion: npt.NDArray[np.int64], index: int) -> ClassFigures:
    hits = int(confusion[index, index])
    support, claimed = int(confusion[index].sum()), int(confusion[:, index].sum())
    return ClassFigures(
        precision=hits / claimed if claimed else 0.0,
        recall=hits / support if support else 0.0,
        f1=2 * hits / (support + claimed) if support + claimed else 0.0,
        support=support,
    )


def _reliability(confidence: Floats, correct: npt.NDArray[np.bool_]) -> list[Bin]:
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    confident = np.bincount(bins, confidence.astype(np.float64), minlength=_BINS)
    right = np.bincount(bins, correct.astype(np.float64), minlength=_BINS)
    return [
        Bin(
            low=index / _BINS,
            high=(index + 1) / _BINS,
            n=int(n),
            confidence=float(confident[index] / n) if n else None,
            accuracy=float(right[index] / n) if n else None,
        )
        for index, n in enumerate(counts)
    ]


def _calibration_error(reliability: list[Bin]) -> float:
    """Mean over bins of |accuracy - mean confidence|, weighted by the bins' shares."""
    gaps = sum(
        one.n * abs(one.accuracy - one.confidence)
        for one in reliability
        if one.accuracy is not None and one.confidence is not None
    )
    return gaps / sum(one.n for one in reliability)
