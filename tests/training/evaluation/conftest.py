"""A model file's stand-in, and pictures that it reads."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from training.data import FER2013, SPLITS, Dataset, LabelSet
from worker.emotion.align import Colour
from worker.records import ModelInfo


class MeanClassifier:
    """Says of each crop how bright it is: its mean value is the index of the label it is sure of.

    The answer is for the labels in the label set's order, whatever order the model has them in.
    """

    info = ModelInfo("mean", "1", "0" * 16)
    margin = -0.06
    temperature = 2.0
    uncertain_below = 0.0

    def __init__(
        self,
        label_set: LabelSet = FER2013,
        *,
        labels: tuple[str, ...] | None = None,
        size: int = 48,
        colour: Colour = "gray",
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.label_set = label_set
        self.labels = labels or label_set.labels
        self.size, self.colour = size, colour
        self.network = SimpleNamespace(metadata=metadata or {})
        self.seen: list[np.ndarray] = []

    def classify(self, crops: np.ndarray) -> np.ndarray:
        self.seen.append(crops)
        told = crops.reshape(len(crops), -1).mean(axis=1).round().astype(int)
        width = len(self.labels)
        order = np.array([self.labels.index(label) for label in self.label_set.labels])
        answer = np.full((len(crops), width), 0.3 / (width - 1), np.float32)
        answer[np.arange(len(crops)), order[told.clip(0, width - 1)]] = 0.7
        return answer


def flat(values: list[int]) -> np.ndarray:
    """Pictures (N, 48, 48), each of one grey."""
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None], (len(values), 48, 48)).copy()


def dataset(rows: list[tuple[int, int, str]], votes: list[list[int]] | None = None) -> Dataset:
    """Of rows (grey, label, split)."""
    greys, labels, splits = zip(*rows, strict=True)
    return Dataset(
        images=flat(list(greys)),
        labels=np.array(labels, np.int64),
        splits=np.array([SPLITS.index(split) for split in splits], np.uint8),
        votes=None if votes is None else np.array(votes, np.uint8),
    )


@pytest.fixture
def small() -> Dataset:
    """PublicTest: two right, one wrong. PrivateTest: a copy of Training's picture, labelled
    wrongly, and two new ones."""
    return dataset(
        [
            (1, 1, "Training"),
            (4, 4, "PublicTest"),
            (2, 2, "PublicTest"),
            (6, 0, "PublicTest"),
            (2, 2, "PrivateTest"),
            (3, 3, "PrivateTest"),
            (1, 5, "PrivateTest"),
        ]
    )


@pytest.fixture(name="flat")
def flat_fixture():
    return flat


@pytest.fixture(name="dataset")
def dataset_fixture():
    return dataset


@pytest.fixture
def mean_model():
    return MeanClassifier
