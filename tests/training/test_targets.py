from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from tests.training.recipes import recipe_with  # noqa: E402
from training.data import Dataset, read_data  # noqa: E402
from training.targets import NOT_COUNTED, class_weights, examples  # noqa: E402
from worker.emotion.classifier import SHIPPED  # noqa: E402
from worker.errors import DataError, SettingsError  # noqa: E402


@pytest.fixture(scope="module")
def voted(tiny_csv: Path, tiny_votes: Path) -> Dataset:
    return read_data(tiny_csv, tiny_votes)


def test_labels_become_rows_of_ones(tiny: Dataset) -> None:
    given = examples(tiny, recipe_with())
    training, public = tiny.split("Training"), tiny.split("PublicTest")
    assert given.faces.shape == (42, 1, 48, 48)
    assert np.array_equal(given.faces[:, 0].numpy(), training.images)
    assert given.targets.shape == (42, 7)
    assert np.array_equal(given.targets.argmax(1).numpy(), training.labels)
    assert given.targets.sum() == 42
    assert given.public_labels.shape == (14, 1)
    assert np.array_equal(given.public_labels[:, 0].numpy(), public.labels)


def test_votes_are_a_second_head_beside_the_labels(voted: Dataset) -> None:
    given = examples(voted, recipe_with(auxiliary_weight=1.0))
    assert given.targets.shape == (42, 15)
    votes = given.targets[:, 7:]
    # Eight of ten votes for anger, and the other two unknown: all of what is left.
    assert votes[0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    # Two pictures of Training have no majority: nobody's face, and five against five.
    assert (votes.sum(1) == 0).sum() == 1
    assert (votes == 0.5).sum() == 2
    assert (given.public_labels[:, 1] == NOT_COUNTED).sum() == 2

    alone = examples(voted, recipe_with(label_set="ferplus"))
    assert torch.equal(alone.targets, votes)


def test_smoothing_and_balance(tiny: Dataset) -> None:
    smooth = examples(tiny, recipe_with(label_smoothing=0.7)).targets
    assert smooth[0].tolist() == pytest.approx([0.4, *[0.1] * 6])
    counts = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    balanced = recipe_with(class_weights="balanced")
    assert class_weights(counts, balanced).tolist() == pytest.approx([4 / 6, 2])
    assert class_weights(counts, recipe_with()).tolist() == [1, 1]
    rows = (tiny.labels != 1) | (np.arange(len(tiny.labels)) % 2 == 0)
    sharp = examples(tiny.rows(rows), recipe_with(class_weights="balanced"))
    smoothed = recipe_with(class_weights="balanced", label_smoothing=0.3)
    assert torch.equal(examples(tiny.rows(rows), smoothed).class_weights, sharp.class_weights)
    assert sharp.class_weights.argmax() == 1


def test_what_is_missing_is_named(tiny: Dataset) -> None:
    with pytest.raises(DataError, match="give their file with --votes"):
        examples(tiny, recipe_with(auxiliary_weight=1.0))
    rows = ~((tiny.labels == 1) & (tiny.splits == 0))
    with pytest.raises(DataError, match="no pictures of disgust in Training"):
        examples(tiny.rows(rows), recipe_with())
    with pytest.raises(DataError, match=r"no pictures of angry, disgust, .* in PublicTest"):
        examples(tiny.rows(tiny.splits != 1), recipe_with())


def test_a_teachers_word_is_a_part_of_the_target(tiny: Dataset) -> None:
    teacher = {"teachers": [str(SHIPPED)], "weight": 0.25}
    plain = examples(tiny, recipe_with()).targets
    taught = examples(tiny, recipe_with(distillation=teacher)).targets
    named = {"teachers": ["shipped"], "weight": 0.25}
    assert torch.equal(examples(tiny, recipe_with(distillation=named)).targets, taught)
    said = (taught - 0.75 * plain) / 0.25
    assert torch.allclose(said.sum(1), torch.ones(42), atol=1e-5)
    assert (said > -1e-6).all()
    assert said.std() > 0.01

    flipped = dataclasses.replace(tiny, images=np.ascontiguousarray(tiny.images[:, :, ::-1]))
    again = examples(flipped, recipe_with(distillation=teacher)).targets
    assert torch.allclose(again, taught, atol=1e-6), "the mirror image is asked about too"


def test_a_teacher_of_other_labels_is_refused(voted: Dataset) -> None:
    recipe = recipe_with(
        label_set="ferplus", distillation={"teachers": [str(SHIPPED)], "weight": 0.5}
    )
    with pytest.raises(SettingsError, match="knows fer2013, this experiment does not"):
        examples(voted, recipe)
