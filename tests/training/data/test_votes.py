from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.data import FER2013, FERPLUS, SPLITS, Dataset
from training.data.votes import VOTED, majority, read_votes, soft_targets
from worker.errors import DataError

HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)
GOOD = "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0"


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_votes_come_back_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "v.csv", HEADER, GOOD, "PublicTest,,0,0,0,0,0,0,0,0,0,10")
    votes = read_votes(path, ["Training", "PublicTest"])
    assert votes.dtype == np.uint8
    assert votes.tolist() == [[4, 0, 0, 1, 3, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 10]]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("Training,a.png,4,0,0,1,3,2,0,0,0", "11 columns instead of 12"),
        ("", "0 columns instead of 12"),
        ("Training,a.png,11,0,0,0,0,0,0,0,0,0", "'11' is not a number of votes from 0 to 10"),
        ("Training,a.png,-1,0,0,0,0,0,0,0,0,0", "'-1' is not a number of votes"),
        ("Training,a.png,4.0,0,0,0,0,0,0,0,0,0", r"'4\.0' is not a number of votes"),
        ("PublicTest,a.png,4,0,0,1,3,2,0,0,0,0", "'PublicTest', but this row of the data is in T"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: str, complaint: str) -> None:
    path = write(tmp_path / "votes.csv", HEADER, GOOD, row, GOOD)
    with pytest.raises(DataError, match=rf"votes\.csv, line 3: .*{complaint}"):
        read_votes(path, ["Training"] * 3)


def test_files_that_are_no_votes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the votes .*none\.csv: No such file"):
        read_votes(tmp_path / "none.csv")
    with pytest.raises(DataError, match="line 1: the columns must be Usage,Image name,neutral"):
        read_votes(write(tmp_path / "fer.csv", "emotion,pixels,Usage", "0,1 2,Training"))
    with pytest.raises(DataError, match="line 1"):
        read_votes(write(tmp_path / "empty.csv", ""))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.csv is not a CSV text"):
        read_votes(tmp_path / "binary.csv")


def test_votes_for_other_pictures_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "votes.csv", HEADER, GOOD, GOOD)
    with pytest.raises(DataError, match="votes for 2 pictures, but the data has 3"):
        read_votes(path, ["Training"] * 3)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"sadness": 6, "neutral": 4}, "sadness"),
        ({"sadness": 5, "neutral": 5}, None),
        ({"neutral": 5, "sadness": 1, "anger": 1, "fear": 1, "NF": 2}, None),
        ({"unknown": 6, "neutral": 4}, None),
        ({"NF": 10}, None),
        ({"contempt": 10}, "contempt"),
        # Nine votes, as one row of the real file has.
        ({"fear": 5, "neutral": 4}, "fear"),
        ({}, None),
    ],
)
def test_a_majority_is_more_than_half_of_all_voters(
    row: dict[str, int], expected: str | None
) -> None:
    votes = np.array([[row.get(name, 0) for name in VOTED]], np.uint8)
    wanted = -1 if expected is None else FERPLUS.labels.index(expected)
    assert majority(votes).tolist() == [wanted]


def test_soft_targets_are_shares_without_single_votes() -> None:
    votes = np.array(
        [
            [6, 0, 0, 2, 1, 0, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, 0, 0, 5, 5, 0],
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 9],
        ],
        np.uint8,
    )
    shares = soft_targets(votes)
    assert shares.dtype == np.float32
    assert shares.tolist() == [
        [0.75, 0, 0, 0.25, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_the_tiny_votes_cover_all_expressions(tiny: Dataset, tiny_votes: Path) -> None:
    votes = read_votes(tiny_votes, [SPLITS[split] for split in tiny.splits])
    for split in range(3):
        found = majority(votes[tiny.splits == split])
        assert set(found.tolist()) == {-1, *range(8)}
        assert (found == -1).sum() == 2
    seen = {
        (FER2013.labels[a], FERPLUS.labels[b])
        for a, b in zip(tiny.labels, majority(votes), strict=True)
    }
    assert ("angry", "anger") in seen
    assert ("happy", "happiness") in seen


def test_the_real_votes_have_their_known_counts(data_dir: Path) -> None:
    path = data_dir / "fer2013" / "fer2013new.csv"
    if not path.exists():
        pytest.skip("needs FER+'s votes: set MIEN_DATA to the folder that holds fer2013/")
    usages = ["Training"] * 28709 + ["PublicTest"] * 3589 + ["PrivateTest"] * 3589
    votes = read_votes(path, usages)
    assert votes.shape == (35887, 10)
    assert (votes[:, VOTED.index("NF")] == 10).sum() == 176
    assert np.flatnonzero(votes.sum(axis=1) != 10).tolist() == [10435]
    assert (majority(votes[28709:32298]) >= 0).sum() == 2862
