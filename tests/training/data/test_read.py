from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.data import FERPLUS, Dataset, read_data
from worker.errors import DataError


def test_votes_join_the_rows_of_the_csv(tiny: Dataset, tiny_csv: Path, tiny_votes: Path) -> None:
    data = read_data(tiny_csv, tiny_votes)
    np.testing.assert_array_equal(data.images, tiny.images)
    assert data.votes is not None
    assert data.votes.shape == (len(tiny.labels), 10)
    assert len(data.split("PublicTest").labelled(FERPLUS)[1]) == 14 - 2


def test_votes_of_another_file_are_refused(
    tiny_csv: Path, tiny_votes: Path, tmp_path: Path
) -> None:
    lines = tiny_csv.read_text().splitlines()
    swapped = tmp_path / "swapped.csv"
    swapped.write_text("\n".join([lines[0], lines[-1], *lines[2:-1], lines[1]]) + "\n")
    with pytest.raises(DataError, match=r"fer2013new\.csv, line 2: the Usage is 'Training'"):
        read_data(swapped, tiny_votes)


def test_a_folder_is_read_as_one_and_takes_no_votes(tiny_folder: Path, tiny_votes: Path) -> None:
    assert len(read_data(tiny_folder).labels) == 70
    with pytest.raises(DataError, match=r"fer2013new\.csv belong to the rows of FER2013's CSV"):
        read_data(tiny_folder, tiny_votes)
