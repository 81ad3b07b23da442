"""What a model file says of itself beyond what serving needs: how it was made, from what."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from training.data import SIZE
from training.evaluation.prediction import label_set_of
from worker.emotion.classifier import Classifier
from worker.errors import ModelError

_ASSUMED_CROP = SIZE - 4


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """None, or empty, where the file does not say: models from before a key was written lack it."""

    name: str
    version: str
    digest: str
    """First 16 hexadecimal digits of the file's SHA-256."""
    label_set: str
    labels: tuple[str, ...]
    input_size: int
    colour: str
    margin: float
    temperature: float
    precision: str | None
    """fp32, fp16 or int8."""
    parameters: int | None
    multiply_adds: int | None
    """For one face."""
    config_digest: str | None
    data_digest: str | None
    """Of the data that it was trained on."""
    seed: int | None
    epoch: int | None
    """The one that was chosen, from 1."""
    pretrained: str | None
    teachers: list[str] | None
    """Digests of the models that it learned from."""
    replanned: list[list[int]]
    """Each time that the run's length was changed: epochs had, epochs planned until then."""
    recipe: dict[str, Any]
    history: list[dict[str, Any]]
    """An entry an epoch: epoch, train_loss, public_loss, public_accuracy."""

    @property
    def crop(self) -> int:
        """Side of the centre crop that the graph cuts from SIZE pixels; 44 where it is not said."""
        return int(self.recipe.get("augmentation", {}).get("crop", _ASSUMED_CROP))


def read_facts(classifier: Classifier) -> ModelFacts:
    """Read them from the opened model's metadata.

    Raises:
        ModelError: a value there cannot be read, or the labels belong to no known label set.
    """
    metadata = classifier.network.metadata
    try:
        training = json.loads(metadata.get("training", "{}"))
        recipe = training.get("recipe", {})
        parameters, multiply_adds = (
            int(metadata[key]) if key in metadata else None
            for key in ("parameters", "multiply_adds")
        )
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"the metadata of the model {classifier.info.name} cannot be read: {error}"
        ) from None
    return ModelFacts(
        name=classifier.info.name,
        version=classifier.info.version,
        digest=classifier.info.digest,
        label_set=label_set_of(classifier).name,
        labels=classifier.labels,
        input_size=classifier.size,
        colour=classifier.colour,
        margin=classifier.margin,
        temperature=classifier.temperature,
        precision=metadata.get("precision"),
        parameters=parameters,
        multiply_adds=multiply_adds,
        config_digest=metadata.get("config_digest", training.get("config_digest")),
        data_digest=metadata.get("data_digest", training.get("data_digest")),
        seed=training.get("seed", recipe.get("seed")),
        epoch=training.get("epoch"),
        pretrained=training.get("pretrained"),
        teachers=training.get("teachers"),
        replanned=training.get("replanned", []),
        recipe=recipe,
        history=training.get("history", []),
    )
