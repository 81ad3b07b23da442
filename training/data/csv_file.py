"""FER2013 as Kaggle published it: one CSV of ``emotion,pixels,Usage``, plain or inside a zip."""

from __future__ import annotations

import csv
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from training.data.dataset import FER2013, SIZE, SPLITS, Dataset
from worker.errors import DataError

_ZIP = b"PK\x03\x04"
_ENCODING = "utf-8-sig"
"""Spreadsheets put a mark before the text."""
_COLUMNS = ["emotion", "pixels", "Usage"]
_BYTE = {str(value): value for value in range(256)}
_EMOTION = {str(index): index for index in range(len(FER2013.labels))}
_SPLIT = {name: index for index, name in enumerate(SPLITS)}


def read_csv(path: Path) -> Dataset:
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
    return Dataset(
        images=np.frombuffer(pixels, np.uint8).reshape(-1, SIZE, SIZE),
        labels=np.array(labels, np.int64),
        splits=np.array(splits, np.uint8),
    )


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
        raise DataError(
            f"{where}: unknown emotion {field[:20]!r}, expected 0 to {len(_EMOTION) - 1}"
        )
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
                if file.read(4) == _ZIP:
                    raise DataError(f"{path} is an incomplete zip: its end is missing")
                file.seek(0)
                yield io.TextIOWrapper(file, encoding=_ENCODING, newline="")
                return
            with zipfile.ZipFile(file) as archive:
                members = [name for name in archive.namelist() if name.endswith(".csv")]
                if len(members) != 1:
                    raise DataError(
                        f"{path.name} must hold one .csv file, but it holds {len(members)}"
                    )
                with archive.open(members[0]) as member:
                    yield io.TextIOWrapper(member, encoding=_ENCODING, newline="")
    except (
        zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError
    ) as error:  # fmt: skip
        # NotImplementedError: a packing that Python does not know; RuntimeError: a password.
        raise DataError(f"{path} cannot be unpacked: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read the data {path}: {error.strerror or error}") from None
