"""A tiny data set in all layouts, made here; and the real one where it is at hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.training.recipes import recipe_with
from training.data import FER2013, SPLITS, Dataset, read_data
from training.data.votes import VOTED


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
        labels = list(range(len(FER2013.labels))) * count
        images = tiny_images(labels, seed)
        rows += [csv_row(*pair, split) for pair in zip(labels, images, strict=True)]
    path = tmp_path_factory.mktemp("data") / "fer2013.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_votes(tiny_csv: Path) -> Path:
    """FER+ votes of tiny_csv: eight of ten for the label that the CSV has too.

    But in every split the last neutral picture is contempt, the last sad one no face, and on the
    last fearful one the voters disagree: so all eight expressions occur, and two pictures of each
    split have no majority.
    """
    usages = [line.rpartition(",")[2] for line in tiny_csv.read_text().splitlines()[1:]]
    names = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    rows = [",".join(["Usage", "Image name", *VOTED])]
    for index, usage in enumerate(usages):
        is_last = usages[index : index + 8].count(usage) < 8
        votes = {names[index % 7]: 8, "unknown": 2}
        if is_last:
            special = {"neutral": {"contempt": 8, "neutral": 2}, "sadness": {"NF": 10}}
            special["fear"] = {"fear": 5, "surprise": 5}
            votes = special.get(names[index % 7], votes)
        image = "" if "NF" in votes else f"fer{index:07d}.png"
        rows.append(",".join([usage, image, *(str(votes.get(name, 0)) for name in VOTED)]))
    path = tiny_csv.parent / "fer2013new.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_folder(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of ``tiny`` as Kaggle's folders have them: names tell the split."""
    root = tmp_path_factory.mktemp("folders")
    for index, image in enumerate(tiny.images):
        split = SPLITS[tiny.splits[index]]
        label = FER2013.labels[tiny.labels[index]]
        folder = root / ("train" if split == "Training" else "test") / label
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{split}_{index:03d}.png"), image)
    return root


@pytest.fixture(scope="session")
def tiny(tiny_csv: Path) -> Dataset:
    return read_data(tiny_csv)


@pytest.fixture(scope="session")
def fer2013_zip(data_dir: Path) -> Path:
    path = data_dir / "fer2013" / "fer2013.csv.zip"
    if not path.exists():
        pytest.skip("needs FER2013: set MIEN_DATA to the folder that holds fer2013/")
    return path


@pytest.fixture(scope="session")
def fer2013(fer2013_zip: Path) -> Dataset:
    """The real data, all of it."""
    return read_data(fer2013_zip)


@pytest.fixture(scope="session")
def unbroken(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run of ``recipe_with()``, and the lines that it said."""
    import torch

    from training.train import fit

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("unbroken")
    lines: list[str] = []
    fit(tiny, recipe_with(), out, say=lines.append)
    return out, lines
