"""FER+: what each of ten people saw in each picture of FER2013.

E. Barsoum, C. Zhang, C. Canton Ferrer, Z. Zhang: Training deep networks for facial expression
recognition with crowd-sourced label distribution (ICMI 2016). The file ``fer2013new.csv`` has a
line for each row of FER2013's CSV, in its order. Not everything in it is clean, and all of it is
taken as it is: where no face was seen the image's name is empty (names are not looked at, as
they drift away from the rows), and the votes of one row add to nine.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from worker.errors import DataError

VOTED = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    *("unknown", "NF"),
)
"""The columns of votes: eight expressions, "I cannot tell", "there is no face"."""

EXPRESSIONS = 8

_COLUMNS = ["Usage", "Image name", *VOTED]
_VOTES = {str(count): count for count in range(11)}


def read_votes(path: Path, usages: list[str] | None = None) -> npt.NDArray[np.uint8]:
    """Read ``fer2013new.csv``: (N, 10) uint8, columns as in VOTED.

    ``usages`` are the names of the splits of the N rows that the votes belong to.

    Raises:
        DataError: the file is missing or malformed, or does not agree with ``usages``; the text
            names the line (the header is line 1).
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            rows = list(csv.reader(text))
    except OSError as error:
        raise DataError(f"cannot read the votes {path}: {error.strerror or error}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} is not a CSV text: {error}") from None
    if not rows or rows[0] != _COLUMNS:
        raise DataError(f"{path.name}, line 1: the columns must be {','.join(_COLUMNS)}")
    if usages is not None and len(rows) - 1 != len(usages):
        raise DataError(
            f"{path.name} has votes for {len(rows) - 1} pictures, but the data has {len(usages)}"
        )
    votes = np.empty((len(rows) - 1, len(VOTED)), np.uint8)
    for index, row in enumerate(rows[1:]):
        where = f"{path.name}, line {index + 2}"
        if len(row) != len(_COLUMNS):
            raise DataError(f"{where}: {len(row)} columns instead of {len(_COLUMNS)}")
        if usages is not None and row[0] != usages[index]:
            raise DataError(
                f"{where}: the Usage is {row[0][:20]!r}, but this row of the data is in "
                f"{usages[index]}"
            )
        try:
            votes[index] = [_VOTES[field] for field in row[2:]]
        except KeyError as error:
            raise DataError(
                f"{where}: {error.args[0][:20]!r} is not a number of votes from 0 to 10"
            ) from None
    return votes


def majority(votes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Of votes (N, 10), the expression that more than half of all voters chose: (N,), else -1.

    All voters count, those who could not tell or saw no face too; and where most of them did
    not, the picture is not part of the subset either.
    """
    winner = votes.argmax(axis=1)
    wins = 2 * votes.max(axis=1, initial=0).astype(np.int64) > votes.sum(axis=1, dtype=np.int64)
    return np.where(wins & (winner < EXPRESSIONS), winner, -1)


def soft_targets(votes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Votes (N, 10) as shares of the eight expressions: (N, 8) float32, rows add to 1.

    Single votes count as outliers and are left out, as the authors' own code does. Rows of which
    nothing is left are 0 throughout.
    """
    kept = np.where(votes[:, :EXPRESSIONS] > 1, votes[:, :EXPRESSIONS], 0).astype(np.float32)
    total = kept.sum(axis=1, keepdims=True)
    shares: npt.NDArray[np.float32] = kept / np.maximum(total, 1)
    return shares
