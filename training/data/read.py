"""One way in for all layouts of the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from training.data.csv_file import read_csv
from training.data.dataset import SPLITS, Dataset
from training.data.folders import read_folders
from training.data.votes import read_votes
from worker.errors import DataError


def read_data(path: Path, votes: Path | None = None) -> Dataset:
    """Read a folder of ``train/<class>/`` and ``test/<class>/``, or Kaggle's CSV, plain or zipped.

    ``votes`` is FER+'s ``fer2013new.csv``, whose lines belong to the rows of the CSV.

    Raises:
        DataError: something is missing or malformed; the text names the file, the line and what
            is wrong there.
    """
    if path.is_dir():
        if votes is not None:
            raise DataError(
                f"the votes of {votes.name} belong to the rows of FER2013's CSV, and {path} is a "
                "folder of pictures"
            )
        return read_folders(path)
    data = read_csv(path)
    if votes is None:
        return data
    usages = [SPLITS[split] for split in data.splits]
    return replace(data, votes=read_votes(votes, usages))
