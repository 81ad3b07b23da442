"""What every reader gives and every step after it takes: pictures, labels, splits, votes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.votes import VOTED, majority
from worker.errors import DataError

SIZE = 48
"""Side of every picture, in pixels."""

SPLITS = ("Training", "PublicTest", "PrivateTest")

CROP_MARGIN = -0.06
"""What ``crop_faces`` adds to a box of MTCNN so that its crop shows what FER2013's pictures show:
measured by ``training.crop_convention``, where the figures are."""


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The expressions that a model tells apart, in the order of its probabilities."""

    name: str
    labels: tuple[str, ...]


FER2013 = LabelSet("fer2013", ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"))
"""One label a picture, in the order of the CSV's ``emotion`` column."""

FERPLUS = LabelSet("ferplus", VOTED[:8])
"""FER+: what most of ten people saw, in the order of the votes file's columns."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """All pictures in the order of their file, so that files of votes stay aligned with them."""

    images: npt.NDArray[np.uint8]
    """(N, 48, 48): grey, rows from the top."""
    labels: npt.NDArray[np.int64]
    """(N,): index into ``FER2013.labels``."""
    splits: npt.NDArray[np.uint8]
    """(N,): index into SPLITS."""
    votes: npt.NDArray[np.uint8] | None = None
    """(N, 10): how many of FER+'s ten people chose each of ``votes.VOTED``."""

    def split(self, name: str) -> Dataset:
        """The rows of one of SPLITS, in the file's order."""
        return self.rows(self.splits == SPLITS.index(name))

    def rows(self, chosen: npt.NDArray[np.bool_]) -> Dataset:
        """The rows where ``chosen`` (N,) is true."""
        votes = None if self.votes is None else self.votes[chosen]
        return Dataset(self.images[chosen], self.labels[chosen], self.splits[chosen], votes)

    def labelled(self, label_set: LabelSet) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Images (n, 48, 48) and their labels (n,), indices into ``label_set.labels``.

        All rows for FER2013; for FERPLUS the rows of which ``votes.majority`` knows one.

        Raises:
            DataError: FERPLUS is asked for, and the data has no votes.
        """
        if label_set == FER2013:
            return self.images, self.labels
        if self.votes is None:
            raise DataError("the labels of FER+ need its votes file, fer2013new.csv")
        labels = majority(self.votes)
        return self.images[labels >= 0], labels[labels >= 0]

    def digest(self) -> str:
        """SHA-256 of pixels, labels, splits and votes, in hex: equal exactly where the data is."""
        votes = np.zeros((0, 10), np.uint8) if self.votes is None else self.votes
        digest = hashlib.sha256(f"{len(self.labels)} pictures, {len(votes)} votes\n".encode())
        for part in (self.images, self.labels.astype("<i8"), self.splits, votes):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()
