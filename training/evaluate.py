"""Measure a model file on FER2013, by the same path that serves it.

Needs numpy and onnxruntime, not torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data import LABELS, SIZE, Fer2013, without_copies
from worker.emotion.align import crop_faces
from worker.emotion.classifier import Classifier
from worker.errors import DataError, ModelError
from worker.records import Floats

Labels = npt.NDArray[np.int64]
Track = Callable[[range], Iterable[int]]

_BINS = 15
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Of one label; a ratio whose denominator is 0 counts as 0."""

    precision: float
    recall: float
    f1: float
    support: int


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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def predict(classifier: Classifier, images: npt.NDArray[np.uint8], track: Track = iter) -> Floats:
    """Grey faces (N, 48, 48) -> probabilities (N, 7) in FER2013's order of labels.

    The pictures go through ``crop_faces`` with a box around the whole, so that a model of another
    size or colour is fed as the workers would feed it.

    Raises:
        ModelError: the model's labels are not FER2013's.
    """
    if set(classifier.labels) != set(LABELS):
        raise ModelError(
            f"the model {classifier.info.name} knows the labels {', '.join(classifier.labels)}; "
            f"FER2013 has {', '.join(LABELS)}"
        )
    columns = [classifier.labels.index(label) for label in LABELS]
    whole = np.array([[0, 0, SIZE, SIZE]], np.float32)
    parts = [np.zeros((0, len(LABELS)), np.float32)]
    for start in track(range(0, len(images), _CHUNK)):
        crops = [
            crop_faces(
                np.repeat(image[:, :, None], 3, axis=2),
                whole,
                size=classifier.size,
                margin=0.0,
                colour=classifier.colour,
            )
            for image in images[start : start + _CHUNK]
        ]
        parts.append(classifier.classify(np.concatenate(crops))[:, columns])
    return np.concatenate(parts)


def measure(probabilities: Floats, labels: Labels) -> Figures:
    """Compare probabilities (N, 7) with the true labels (N,), N >= 1."""
    n = len(labels)
    if n == 0 or probabilities.shape != (n, len(LABELS)):
        raise ValueError(f"{probabilities.shape} probabilities for {n} labels")
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(LABELS), len(LABELS)), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    correct = int(np.trace(confusion))
    if correct != int((predicted == labels).sum()):
        raise AssertionError("the confusion matrix does not agree with the accuracy")

    classes = {label: _class_figures(confusion, index) for index, label in enumerate(LABELS)}
    true_probability = probabilities[np.arange(n), labels].astype(np.float64)
    return Figures(
        n=n,
        accuracy=correct / n,
        interval=wilson(correct, n),
        macro_f1=float(np.mean([figures.f1 for figures in classes.values()])),
        nll=float(-np.log(np.maximum(true_probability, 1e-12)).mean()),
        ece=_calibration_error(probabilities.max(axis=1), predicted == labels),
        classes=classes,
        confusion=confusion.tolist(),
    )


def evaluate_splits(
    classifier: Classifier, data: Fer2013, splits: Iterable[str], track: Track = iter
) -> dict[str, Figures]:
    """Figures by name of split; for PrivateTest also over the pictures without a copy in Training.

    Raises:
        DataError: a split has no pictures.
    """
    found: dict[str, Figures] = {}
    for split in splits:
        images, labels = data.split(split)
        if len(labels) == 0:
            raise DataError(f"the data has no pictures of {split}")
        probabilities = predict(classifier, images, track)
        found[split] = measure(probabilities, labels)
        if split == "PrivateTest":
            new = without_copies(images, data.split("Training")[0])
            if new.any():
                found["PrivateTest without copies in Training"] = measure(
                    probabilities[new], labels[new]
                )
    return found


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (E. B. Wilson, 1927)."""
    z = 1.959964
    share = correct / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def table(name: str, figures: Figures) -> str:
    """The figures as text for a terminal."""
    low, high = figures.interval
    width = max(map(len, LABELS))
    lines = [
        f"{name}: {figures.n} pictures",
        f"  accuracy {100 * figures.accuracy:.2f} %  (95 % interval {100 * low:.2f} to "
        f"{100 * high:.2f})  macro-F1 {figures.macro_f1:.4f}  NLL {figures.nll:.4f}  "
        f"ECE {figures.ece:.4f}",
        f"  {'':{width}}  precision  recall      F1  pictures   predicted as "
        + " ".join(f"{label[:5]:>5}" for label in LABELS),
    ]
    for (label, one), row in zip(figures.classes.items(), figures.confusion, strict=True):
        lines.append(
            f"  {label:{width}}  {one.precision:9.3f}  {one.recall:6.3f}  {one.f1:6.3f}  "
            f"{one.support:8d}                " + " ".join(f"{count:5d}" for count in row)
        )
    return "\n".join(lines)


def _class_figures(confusion: npt.NDArray[np.int64], index: int) -> ClassFigures:
    hits = int(confusion[index, index])
    support, claimed = int(confusion[index].sum()), int(confusion[:, index].sum())
    return ClassFigures(
        precision=hits / claimed if claimed else 0.0,
        recall=hits / support if support else 0.0,
        f1=2 * hits / (support + claimed) if support + claimed else 0.0,
        support=support,
    )


def _calibration_error(confidence: Floats, correct: npt.NDArray[np.bool_]) -> float:
    """Mean over bins of |accuracy - mean confidence|, weighted by the bins' shares."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gap = np.bincount(bins, correct.astype(np.float64) - confidence, minlength=_BINS)
    return float(np.abs(gap).sum() / len(confidence))
