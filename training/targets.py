"""What a network is to answer: labels and votes as one row of numbers a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.data import FER2013, FERPLUS, Dataset, LabelSet
from training.data.votes import majority, soft_targets
from training.evaluation.prediction import label_set_of, predict
from training.recipe import Recipe
from worker.emotion.classifier import SHIPPED, load_classifier
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
    class_weights: Tensor
    """(sum of labels,): by which the loss of each label is multiplied; for each head in turn."""
    public_faces: Tensor
    """(M, 1, 48, 48) uint8, of PublicTest."""
    public_labels: Tensor
    """(M, heads) int64: the true label for each head, or NOT_COUNTED."""
    teachers: tuple[str, ...]
    """Digests of the models whose word is a part of the targets."""

    def __deepcopy__(self, memo: dict[int, object]) -> Examples:
        return self  # whoever copies the experiment, as averaging does, need not copy its data


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
    plain = [_targets(train, labels) for labels in sets]
    targets = [_smoothed(one, recipe.label_smoothing) for one in plain]
    targets, teachers = _distilled(train, sets, targets, recipe)
    return Examples(
        faces=torch.from_numpy(train.images)[:, None],
        targets=torch.cat(targets, 1),
        class_weights=torch.cat([class_weights(one, recipe) for one in plain]),
        public_faces=torch.from_numpy(public.images)[:, None],
        public_labels=torch.stack([_labels(public, labels) for labels in sets], 1),
        teachers=teachers,
    )


def class_weights(targets: Tensor, recipe: Recipe) -> Tensor:
    """(N, labels) -> (labels,): ones; or, balanced, N / (labels x the pictures of each)."""
    if recipe.class_weights == "none":
        return torch.ones(targets.shape[1])
    return targets.sum() / (targets.shape[1] * targets.sum(0))


def _labels(data: Dataset, labels: LabelSet) -> Tensor:
    if labels is FER2013:
        return torch.from_numpy(data.labels)
    assert data.votes is not None
    return torch.from_numpy(majority(data.votes))


def _targets(data: Dataset, labels: LabelSet) -> Tensor:
    """(N, labels): one-hot, or the shares of the votes; all 0 where nobody could tell."""
    if labels is FER2013:
        return nn.functional.one_hot(torch.from_numpy(data.labels), len(labels.labels)).float()
    assert data.votes is not None
    return torch.from_numpy(soft_targets(data.votes))


def _smoothed(targets: Tensor, part: float) -> Tensor:
    even = targets.sum(1, keepdim=True) / targets.shape[1]
    return targets.lerp(even.expand_as(targets), part)


def _distilled(
    data: Dataset, sets: list[LabelSet], targets: list[Tensor], recipe: Recipe
) -> tuple[list[Tensor], tuple[str, ...]]:
    """The same, moved part of the way to what the recipe's teachers say; and who they are."""
    if recipe.distillation is None:
        return targets, ()
    threads = torch.get_num_threads()
    teachers = [
        load_classifier(SHIPPED if teacher == "shipped" else Path(teacher), threads=threads)
        for teacher in recipe.distillation.teachers
    ]
    for teacher in teachers:
        labels = label_set_of(teacher)
        if labels not in sets:
            raise SettingsError(
                f"the teacher {teacher.info.name} knows {labels.name}, this experiment does not"
            )
    mirrored = np.ascontiguousarray(data.images[:, :, ::-1])
    taught = list(targets)
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
    return taught, tuple(teacher.info.digest for teacher in teachers)


def _check_labels(data: Dataset, labels: LabelSet, split: str) -> None:
    present = set(_labels(data, labels).tolist())
    missing = [name for index, name in enumerate(labels.labels) if index not in present]
    if missing:
        raise DataError(f"the data has no pictures of {', '.join(missing)} in {split}")
