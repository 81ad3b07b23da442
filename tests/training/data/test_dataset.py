from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.data import FER2013, FERPLUS, Dataset
from training.data.votes import VOTED
from worker.errors import DataError


def ballots(*rows: dict[str, int]) -> np.ndarray:
    return np.array([[row.get(name, 0) for name in VOTED] for row in rows], np.uint8)


@pytest.fixture
def three() -> Dataset:
    return Dataset(
        images=np.arange(3, dtype=np.uint8)[:, None, None].repeat(48, 1).repeat(48, 2),
        labels=np.array([3, 6, 3]),
        splits=np.array([0, 2, 0], np.uint8),
        votes=ballots({"happiness": 10}, {"neutral": 5, "fear": 5}, {"contempt": 6, "NF": 4}),
    )


def test_a_split_keeps_pictures_labels_and_votes_together(three: Dataset) -> None:
    part = three.split("Training")
    assert part.images[:, 0, 0].tolist() == [0, 2]
    assert part.labels.tolist() == [3, 3]
    assert part.splits.tolist() == [0, 0]
    assert part.votes is not None
    assert part.votes[:, VOTED.index("contempt")].tolist() == [0, 6]
    assert len(three.split("PublicTest").labels) == 0
    assert replace(three, votes=None).split("PrivateTest").votes is None


def test_each_label_set_gives_the_pictures_that_it_has_labels_for(three: Dataset) -> None:
    images, labels = three.labelled(FER2013)
    assert images[:, 0, 0].tolist() == [0, 1, 2]
    assert [FER2013.labels[label] for label in labels] == ["happy", "neutral", "happy"]

    images, labels = three.labelled(FERPLUS)
    assert images[:, 0, 0].tolist() == [0, 2]
    assert [FERPLUS.labels[label] for label in labels] == ["happiness", "contempt"]


def test_without_votes_there_are_no_labels_of_ferplus(three: Dataset) -> None:
    with pytest.raises(DataError, match=r"FER\+ need its votes file"):
        replace(three, votes=None).labelled(FERPLUS)


def test_the_digest_tells_any_change(three: Dataset) -> None:
    brighter = three.images.copy()
    brighter[2, 47, 47] += 1
    other_votes = ballots({"happiness": 10}, {"neutral": 5, "fear": 5}, {"contempt": 6, "NF": 3})
    others = [
        replace(three, images=brighter),
        replace(three, labels=np.array([3, 6, 4])),
        replace(three, splits=np.array([0, 1, 0], np.uint8)),
        replace(three, votes=other_votes),
        replace(three, votes=None),
    ]
    assert len({data.digest() for data in [three, *others]}) == 6
    # And nothing else: neither the type that labels are kept in nor how pictures lie in memory.
    same = replace(three, labels=three.labels.astype(">i4"), images=np.asfortranarray(three.images))
    assert same.digest() == three.digest()
