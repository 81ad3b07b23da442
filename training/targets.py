"""What a network is to answer: labels and votes as one row of numbers a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.data import FER2013, FERPLUS, Dataset, LabelSet
from training.data.votes import majority, soft_targets
from training.evaluation.prediction import label_set_of, predict
from training.recipe import Recipe
from worker.emotion.classifier import load_classifier
from worker.errors import DataError, SettingsError

LABEL_SETS = {FER2013.name: FER2013, FERPLUS.name: FERPLUS}

NOT_COUNTED = -1
"""The label of a picture that FER+'s voters did not agree on."""


@dataclass(frozen=True, slots=True)
class Examples:
    """What a run reads, decoded and in memory."""

    faces: Tensor
    """(N, 1, 48, 48) uint8, of Training."""
    targets: Tensor
    """(N, sum of labels) float: for each head in turn the probabilities that it is to give."""
    public_faces: Tensor
    """(M, 1, 48, 48) uint8, of PublicTest."""
    public_labels: Tensor
    """(M, heads) int64: the true label for each head, or NOT_COUNTED."""


def label_sets(recipe: Recipe) -> list[LabelSet]:
    """One for each head; the first is what the network is for."""
    main = LABEL_SETS[recipe.label_set]
    if recipe.auxiliary_weight == 0:
        return [main]
    return [main, *(other for other in LABEL_SETS.values() if other is not main)]


def examples(data: Dataset, recipe: Recipe) -> Examples:
    """Training and PublicTest as the recipe's heads see them.

    Raises:
        DataError: the recipe needs votes and the data has none; a label has no pictures.
        SettingsError: a teacher knows other labels than the recipe learns.
        ModelError: a teacher cannot be read.
    """
    sets = label_sets(recipe)
    if FERPLUS in sets and data.votes is None:
        raise DataError("this experiment learns from FER+'s votes: give their file with --votes")
    train, public = data.split("Training"), data.split("PublicTest")
    for name, part in (("Training", train), ("PublicTest", public)):
        for labels in sets:
            _check_labels(part, labels, name)
    targets = [_targets(train, labels, recipe) for labels in sets]
    return Examples(
        faces=torch.from_numpy(train.images)[:, None],
        targets=torch.cat(_distilled(train, sets, targets, recipe), 1),
        public_faces=torch.from_numpy(public.images)[:, None],
        public_labels=torch.stack([_labels(public, labels) for labels in sets], 1),
    )


def class_weights(targets: Tensor) -> Tensor:
    """(N, labels) -> (labels,): N / (labels x pictures of each), the weights called balanced."""
    return targets.sum() / (targets.shape[1] * targets.sum(0))


def _labels(data: Dataset, labels: LabelSet) -> Tensor:
    if labels is FER2013:
        return torch.from_numpy(data.labels)
    assert data.votes is not None
    return torch.from_numpy(majority(data.votes))


def _targets(data: Dataset, labels: LabelSet, recipe: Recipe) -> Tensor:
    """(N, labels): one-hot, or the shares of the votes; smoothed; all 0 where nobody could tell."""
    if labels is FER2013:
        targets = nn.functional.one_hot(torch.from_numpy(data.labels), len(labels.labels)).float()
    else:
        assert data.votes is not None
        targets = torch.from_numpy(soft_targets(data.votes))
    even = targets.sum(1, keepdim=True) / len(labels.labels)
    return targets.lerp(even.expand_as(targets), recipe.label_smoothing)


def _distilled(
    data: Dataset, sets: list[LabelSet], targets: list[Tensor], recipe: Recipe
) -> list[Tensor]:
    """The same, moved part of the way to what the recipe's teachers say of each picture."""
    if recipe.distillation is None:
        return targets
    taught = list(targets)
    teachers = [load_classifier(path) for path in recipe.distillation.teachers]
    for teacher in teachers:
        labels = label_set_of(teacher)
        if labels not in sets:
            raise SettingsError(
                f"the teacher {teacher.info.name} knows {labels.name}, this experiment does not"
            )
    mirrored = np.ascontiguousarray(data.images[:, :, ::-1])
    for index, labels in enumerate(sets):
        views = [
            predict(teacher, images)
            for teacher in teachers
            if label_set_of(teacher) == labels
            for images in (data.images, mirrored)
        ]
        if views:
            said = torch.from_numpy(np.mean(views, axis=0))
            taught[index] = targets[index].lerp(said, recipe.distillation.weight)
    return taught


def _check_labels(data: Dataset, labels: LabelSet, split: str) -> None:
    present = set(_labels(data, labels).tolist())
    missing = [name for index, name in enumerate(labels.labels) if index not in present]
    if missing:
        raise DataError(f"the data has no pictures of {', '.join(missing)} in {split}")
