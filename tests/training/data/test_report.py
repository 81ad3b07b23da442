from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.data import FER2013, Dataset, read_data
from training.data.report import Copies, report, table


@pytest.fixture
def doubtful(tiny: Dataset) -> Dataset:
    """``tiny`` with a conflict, a copy across splits, a mirrored one, and flat pictures."""
    images = tiny.images.copy()
    labels = tiny.labels.copy()
    # Rows 0 to 41 are Training, 42 to 55 PublicTest, 56 to 69 PrivateTest.
    images[1] = images[0]
    images[42] = images[0]  # its label, angry, is that of row 0 and not that of row 1
    images[57] = images[2][:, ::-1]  # disgust, of a picture of fear
    images[[10, 60]] = 77
    return replace(tiny, images=images, labels=labels)


def copies(of: str, within: str, *counts: int | None) -> Copies:
    return Copies(of, within, *counts)


def test_everything_is_counted(doubtful: Dataset) -> None:
    found = report(doubtful)
    assert found.counts["Training"] == dict.fromkeys(FER2013.labels, 6)
    assert found.counts["PrivateTest"] == dict.fromkeys(FER2013.labels, 2)
    assert found.flat == {"Training": 1, "PublicTest": 0, "PrivateTest": 1}
    assert found.conflicting_groups == 2
    assert found.votes is None
    assert found.digest == doubtful.digest()
    assert found.copies == (
        copies("Training", "Training", 2, 2, 0, 0),
        copies("PublicTest", "Training", 1, 0, 0, 0),
        copies("PublicTest", "PublicTest", 0, 0, 0, 0),
        copies("PrivateTest", "Training", 1, 1, 1, 1),
        copies("PrivateTest", "PublicTest", 0, 0, 0, 0),
        copies("PrivateTest", "PrivateTest", 0, 0, 0, 0),
    )


def test_near_copies_can_be_left_out(doubtful: Dataset) -> None:
    found = report(doubtful, near=False)
    assert found.copies[0] == copies("Training", "Training", 2, 2, None, None)
    assert "near" not in table(found)


def test_votes_are_compared_with_the_labels(tiny_csv: Path, tiny_votes: Path) -> None:
    votes = report(read_data(tiny_csv, tiny_votes), near=False).votes
    assert votes is not None
    assert votes.no_majority == {"Training": 2, "PublicTest": 2, "PrivateTest": 2}
    assert votes.majority["Training"] == {
        **dict.fromkeys(("happiness", "surprise", "anger", "disgust"), 6),
        **dict.fromkeys(("neutral", "sadness", "fear"), 5),
        "contempt": 1,
    }
    assert (votes.no_face, votes.not_ten) == (3, 0)
    # The three of contempt and the six without a majority cannot be compared.
    assert (votes.compared, votes.agreeing) == (70 - 3 - 6, 70 - 3 - 6)
    assert votes.agreement == dict.fromkeys(FER2013.labels, 1.0)


def test_disagreement_counts_against_the_label(tiny_csv: Path, tiny_votes: Path) -> None:
    data = read_data(tiny_csv, tiny_votes)
    labels = data.labels.copy()
    labels[labels == FER2013.labels.index("happy")] = FER2013.labels.index("angry")
    votes = report(replace(data, labels=labels), near=False).votes
    assert votes is not None
    assert votes.agreement["angry"] == 0.5
    assert votes.agreement["happy"] is None
    assert votes.agreeing == votes.compared - 10


def test_the_report_goes_to_json_and_to_a_terminal(tiny_csv: Path, tiny_votes: Path) -> None:
    found = report(read_data(tiny_csv, tiny_votes))
    assert json.loads(json.dumps(found.as_dict()))["votes"]["no_face"] == 3
    text = table(found)
    assert "PrivateTest again in Training     equal     0 (0)   near     0 (0)" in text
    assert "in agreement with FER2013's label: 61 of 61 (100.0 %)" in text
    assert found.digest in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_real_data_has_its_known_traps(fer2013: Dataset) -> None:
    found = report(fer2013, near=False)
    exact = {(one.of, one.within): (one.exact, one.exact_other_label) for one in found.copies}
    assert exact["PublicTest", "Training"] == (280, 7)
    assert exact["PrivateTest", "Training"] == (288, 9)
    assert exact["PrivateTest", "PublicTest"][0] == 44
    assert found.conflicting_groups == 57
    assert sum(found.flat.values()) == 12
    assert np.sum([list(row.values()) for row in found.counts.values()]) == 35887
