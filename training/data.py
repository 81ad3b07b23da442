"""FER2013 as it was published: one CSV of 48 x 48 grey faces, plain or inside a zip.

Only numpy and the standard library are needed here, so that ``mien evaluate`` runs without torch.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from worker.errors import DataError

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The expressions in the order of the CSV's ``emotion`` column, which is the models' order too."""

SPLITS = ("Training", "PublicTest", "PrivateTest")
SIZE = 48

CROP_MARGIN = -0.06
"""What ``crop_faces`` adds to a box of MTCNN so that its crop shows what FER2013's pictures show:
measured by ``training.crop_convention``, where the figures are."""

_COLUMNS = ["emotion", "pixels", "Usage"]
_BYTE = {str(value): value for value in range(256)}
_EMOTION = {str(index): index for index in range(len(LABELS))}
_SPLIT = {name: index for index, name in enumerate(SPLITS)}


@dataclass(frozen=True, slots=True)
class Fer2013:
    """All rows of the CSV in its own order, so that other files of votes stay aligned with it."""

    images: npt.NDArray[np.uint8]
    """(N, 48, 48): grey, rows from the top."""
    labels: npt.NDArray[np.int64]
    """(N,): index into LABELS."""
    splits: npt.NDArray[np.uint8]
    """(N,): index into SPLITS."""

    def split(self, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Images (n, 48, 48) and labels (n,) of one of SPLITS, in the file's order."""
        chosen = self.splits == SPLITS.index(name)
        return self.images[chosen], self.labels[chosen]


def read_fer2013(path: Path) -> Fer2013:
    """Read ``fer2013.csv``, or a zip with exactly one member of a name that ends in ``.csv``.

    Raises:
        DataError: the file is missing or unreadable, or a row is bad; the text names the line
            (the header is line 1) and what is wrong with it.
    """
    pixels = bytearray()
    labels: list[int] = []
    splits: list[int] = []
    with _open_text(path) as text:
        for label, face, split in _rows(path.name, text):
            labels.append(label)
            pixels += face
            splits.append(split)
    if not labels:
        raise DataError(f"{path.name} has a header but no rows")
    return Fer2013(
        images=np.frombuffer(pixels, np.uint8).reshape(-1, SIZE, SIZE),
        labels=np.array(labels, np.int64),
        splits=np.array(splits, np.uint8),
    )


def without_copies(
    images: npt.NDArray[np.uint8], others: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """Which of ``images`` (n, 48, 48) have no pixel-for-pixel copy in ``others``: (n,) bool."""
    known = {image.tobytes() for image in others}
    return np.array([image.tobytes() not in known for image in images], bool)


def _rows(name: str, text: IO[str]) -> Iterator[tuple[int, bytes, int]]:
    """Yield (label, 2304 pixel bytes, split) of each row, checked."""
    reader = csv.reader(text)
    try:
        header = next(reader, None)
        if header != _COLUMNS:
            raise DataError(
                f"{name}, line 1: the columns must be {','.join(_COLUMNS)}, "
                f"not {','.join(header)[:80] if header else 'nothing'}"
            )
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if len(row) != len(_COLUMNS):
                raise DataError(f"{where}: {len(row)} columns instead of {len(_COLUMNS)}")
            yield _emotion(where, row[0]), _pixels(where, row[1]), _usage(where, row[2])
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{name}, after line {reader.line_num}: not a CSV text: {error}") from None


def _emotion(where: str, field: str) -> int:
    if field not in _EMOTION:
        raise DataError(f"{where}: unknown emotion {field[:20]!r}, expected 0 to {len(LABELS) - 1}")
    return _EMOTION[field]


def _pixels(where: str, field: str) -> bytes:
    values = field.split()
    if len(values) != SIZE * SIZE:
        raise DataError(f"{where}: {len(values)} pixels instead of {SIZE * SIZE} ({SIZE} x {SIZE})")
    try:
        return bytes(map(_BYTE.__getitem__, values))
    except KeyError as error:
        raise DataError(
            f"{where}: pixel value {error.args[0][:20]!r} is not a whole number from 0 to 255"
        ) from None


def _usage(where: str, field: str) -> int:
    if field not in _SPLIT:
        raise DataError(f"{where}: unknown Usage {field[:20]!r}, expected {', '.join(SPLITS)}")
    return _SPLIT[field]


@contextmanager
def _open_text(path: Path) -> Iterator[IO[str]]:
    """Open the CSV as text, looking into the zip where it is one."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                yield io.TextIOWrapper(file, encoding="utf-8", newline="")
                return
            with zipfile.ZipFile(file) as archive:
                members = [name for name in archive.namelist() if name.endswith(".csv")]
                if len(members) != 1:
                    raise DataError(
                        f"{path.name} must hold one .csv file, but it holds {len(members)}"
                    )
                with archive.open(members[0]) as member:
                    yield io.TextIOWrapper(member, encoding="utf-8", newline="")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # NotImplementedError: a packing that Python does not know; RuntimeError: a password.
        raise DataError(f"{path} cannot be unpacked: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read the data {path}: {error.strerror or error}") from None
