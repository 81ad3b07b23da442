"""What abstaining costs and gains: how many pictures are still answered, and how well.

A model abstains where its top probability is below a threshold that its file names; workers then
publish the face as ``uncertain``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from training.evaluation.figures import Labels
from worker.records import Floats

_SHARES = tuple(range(0, 55, 5))
"""Of the pictures that are declined along the curve, in per cent."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """One point of the curve. Shares and accuracies in 0..1; None where there is no picture."""

    below: float
    """The top probability below which the model abstains."""
    answered: float
    """The share of pictures that it answers."""
    accuracy: float | None
    """Of those."""
    accuracy_declined: float | None
    """What it would have reached on the others."""

    def sentence(self) -> str:
        """The point in words, for a terminal."""
        said = f"abstains below {self.below:.3f}: answers {100 * self.answered:.2f} % of pictures"
        if self.accuracy is not None:
            said += f", {100 * self.accuracy:.2f} % of them rightly"
        if self.accuracy_declined is not None:
            said += f"; of the others it had {100 * self.accuracy_declined:.2f} % right"
        return said


def cover(probabilities: Floats, labels: Labels, below: float) -> Coverage:
    """What abstaining ``below`` does to probabilities (N, L) of pictures with labels (N,), N >= 1.

    It is decided as workers decide it.
    """
    right = probabilities.argmax(axis=1) == labels
    answered = probabilities.max(axis=1).astype(np.float64) >= below
    return Coverage(
        below=below,
        answered=float(answered.mean()),
        accuracy=float(right[answered].mean()) if answered.any() else None,
        accuracy_declined=float(right[~answered].mean()) if not answered.all() else None,
    )


def threshold(probabilities: Floats, share: float) -> float:
    """The least certain ``share`` (0 to 1) of probabilities (N, L) have a top below it.

    Cut to three decimals, so that no more than that share is declined; 0 for a share of 0.
    """
    if share == 0:
        return 0.0
    top = np.quantile(probabilities.max(axis=1), share, method="lower")
    return math.floor(1000 * float(top)) / 1000


def coverage_curve(probabilities: Floats, labels: Labels) -> list[Coverage]:
    """From answering all pictures down to the surest half, by steps of 5 %."""
    return [cover(probabilities, labels, threshold(probabilities, n / 100)) for n in _SHARES]
