"""A tiny data set in FER2013's layout, made here; and the real one where it is at hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from training.data import LABELS, SPLITS, Fer2013, read_fer2013


def tiny_images(labels: Iterable[int], seed: int) -> np.ndarray:
    """(N, 48, 48) uint8: noise with a bright bar whose height tells the label."""
    random = np.random.default_rng(seed)
    labels = list(labels)
    images = random.integers(0, 120, (len(labels), 48, 48), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[6 * label + 3 : 6 * label + 8, 4:44] += 120
    return images


def csv_row(label: object, image: np.ndarray, usage: str) -> str:
    return f"{label},{' '.join(map(str, image.reshape(-1).tolist()))},{usage}"


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of each label in Training, two in PublicTest and two in PrivateTest."""
    rows = ["emotion,pixels,Usage"]
    for seed, (split, count) in enumerate(zip(SPLITS, (6, 2, 2), strict=True)):
        labels = list(range(len(LABELS))) * count
        images = tiny_images(labels, seed)
        rows += [csv_row(*pair, split) for pair in zip(labels, images, strict=True)]
    path = tmp_path_factory.mktemp("data") / "fer2013.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny(tiny_csv: Path) -> Fer2013:
    return read_fer2013(tiny_csv)


@pytest.fixture(scope="session")
def fer2013_zip(data_dir: Path) -> Path:
    path = data_dir / "fer2013" / "fer2013.csv.zip"
    if not path.exists():
        pytest.skip("needs FER2013: set MIEN_DATA to the folder that holds fer2013/")
    return path


@pytest.fixture(scope="session")
def fer2013(fer2013_zip: Path) -> Fer2013:
    """The real data, all of it."""
    return read_fer2013(fer2013_zip)
