"""FER2013 as a folder of pictures: ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``.

Kaggle has several such copies. Where a file keeps the name of its split (``PublicTest_123.jpg``),
the name decides. Where it does not, the folder does: ``train/`` is Training, ``validation/``,
``valid/`` or ``val/`` is PublicTest, ``test/`` is PrivateTest; capitals do not matter. If nothing
is in PublicTest then, about a tenth of Training takes its place, so that a run has something to
choose its epoch on: chosen by the hash of the pixels, hence the same in every copy, and with equal
pictures on the same side.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from training.data.dataset import FER2013, SIZE, SPLITS, Dataset
from worker.errors import DataError

_TRAINING, _PUBLIC, _PRIVATE = range(len(SPLITS))
_FOLDERS = {"train": _TRAINING, **dict.fromkeys(("validation", "valid", "val"), _PUBLIC),
            "test": _PRIVATE}  # fmt: skip
_SUFFIXES = (".jpg", ".jpeg", ".png")
# The other names are those of the copy "emotion-detection-fer".
_CLASSES = {name: index for index, name in enumerate(FER2013.labels)} | {
    "disgusted": 1,
    "fearful": 2,
    "surprised": 5,
}
_HELD_OUT = 0.1


def read_folders(path: Path) -> Dataset:
    """Read all pictures below ``path``, ordered by split's folder, class's folder and file name.

    Raises:
        DataError: there is no train/ or no picture, a split's folder has an unknown name or a
            class's another one than an expression, or a picture is unreadable or not 48 x 48; the
            text names it.
    """
    # OpenCV would tell of damage in its own words, beside ours.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    splits: list[int] = []
    for folder, split in _splits(path):
        for file, label in _files(path, folder):
            images.append(_picture(path, file))
            labels.append(label)
            splits.append(_split_of(file.name, split))
    if not images:
        raise DataError(f"{path} holds no pictures ({', '.join(_SUFFIXES)}) in folders of classes")
    faces, places = np.stack(images), np.array(splits, np.uint8)
    if not (places == _PUBLIC).any():
        places[(places == _TRAINING) & _held_out(faces)] = _PUBLIC
    return Dataset(faces, np.array(labels, np.int64), places)


def _splits(path: Path) -> list[tuple[Path, int]]:
    """The folders of the splits, and which split each is; such as hold no classes are left out."""
    found = []
    for folder in sorted(path.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        split = _FOLDERS.get(folder.name.lower())
        if split is not None:
            found.append((folder, split))
        elif any(within.name.lower() in _CLASSES for within in folder.iterdir()):
            raise DataError(
                f"{folder} holds expressions, but its name is that of no split; known are "
                f"{', '.join(_FOLDERS)}"
            )
    if not any(split == _TRAINING for _, split in found):
        raise DataError(f"{path} holds no train/ folder with a folder of pictures for each class")
    return sorted(found, key=lambda one: list(_FOLDERS).index(one[0].name.lower()))


def _files(path: Path, folder: Path) -> list[tuple[Path, int]]:
    found: list[tuple[Path, int]] = []
    for within in sorted(folder.iterdir()):
        if not within.is_dir() or within.name.startswith("."):
            continue
        label = _CLASSES.get(within.name.lower())
        if label is None:
            raise DataError(
                f"{within.relative_to(path)} is named for no expression; known are "
                f"{', '.join(FER2013.labels)}"
            )
        pictures = (file for file in within.iterdir() if file.suffix.lower() in _SUFFIXES)
        found += [(file, label) for file in sorted(pictures)]
    return found


def _picture(path: Path, file: Path) -> npt.NDArray[np.uint8]:
    try:
        image = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    except OSError as error:
        raise DataError(f"cannot read {file.relative_to(path)}: {error.strerror}") from None
    except cv2.error:  # no bytes at all, or more pixels than OpenCV allows
        image = None
    if image is None:
        raise DataError(f"{file.relative_to(path)} is not a readable picture")
    height, width = image.shape
    if (height, width) != (SIZE, SIZE):
        raise DataError(
            f"{file.relative_to(path)} has {width} x {height} pixels instead of {SIZE} x {SIZE}"
        )
    return image.astype(np.uint8, copy=False)


def _split_of(name: str, otherwise: int) -> int:
    begin = name.partition("_")[0]
    return SPLITS.index(begin) if begin in SPLITS else otherwise


def _held_out(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which of the pictures (N, 48, 48) are in the chosen tenth: (N,) bool."""
    digests = (hashlib.sha256(image.tobytes()).digest() for image in images)
    return np.array([int.from_bytes(digest[:8]) < _HELD_OUT * 2**64 for digest in digests], bool)
