"""What a training run is told. Its values are kept in the run's checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.augment import Augmentation


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a run's result depends on, besides the data."""

    model: str = "cnn"
    epochs: int = 80
    batch_size: int = 128
    seed: int = 0
    learning_rate: float = 0.1
    """The highest; reached after the warm-up, then a half cosine to 0."""
    warm_up_epochs: float = 2.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """Not on biases and batch normalisation."""
    average: float = 0.999
    """Decay of the moving average of the weights, a step; it is the average that is evaluated."""
    augmentation: Augmentation = field(default_factory=Augmentation)
