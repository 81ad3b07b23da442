from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data import FER2013, SPLITS, Dataset
from training.data.folders import read_folders
from worker.errors import DataError


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 48), np.uint8)


def put(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def test_named_files_give_what_the_csv_gives(tiny: Dataset, tiny_folder: Path) -> None:
    data = read_folders(tiny_folder)
    # Folders come class by class; within one, names keep the order of the rows.
    order = np.lexsort((np.arange(70), [FER2013.labels[label] for label in tiny.labels]))
    for split in SPLITS:
        rows = [row for row in order if SPLITS[tiny.splits[row]] == split]
        part = data.split(split)
        if split == "Training":
            np.testing.assert_array_equal(part.images, tiny.images[rows])
        np.testing.assert_array_equal(part.labels, tiny.labels[rows])
        assert sorted(map(bytes, part.images)) == sorted(map(bytes, tiny.images[rows]))


def test_folders_tell_the_split_where_names_do_not(tmp_path: Path) -> None:
    put(tmp_path / "train" / "happy" / "im0.png", picture(0))
    put(tmp_path / "validation" / "sad" / "im0.png", picture(1))
    put(tmp_path / "test" / "surprised" / "im0.png", picture(2))
    put(tmp_path / "test" / "Neutral" / "PublicTest_7.png", picture(3))

    data = read_folders(tmp_path)

    found = [
        (SPLITS[split], FER2013.labels[label], int(image[0, 0]))
        for split, label, image in zip(data.splits, data.labels, data.images, strict=True)
    ]
    assert found == [
        ("Training", "happy", int(picture(0)[0, 0])),
        ("PublicTest", "sad", int(picture(1)[0, 0])),
        ("PublicTest", "neutral", int(picture(3)[0, 0])),
        ("PrivateTest", "surprise", int(picture(2)[0, 0])),
    ]


def test_a_split_is_known_by_other_names_too(tmp_path: Path) -> None:
    put(tmp_path / "Train" / "happy" / "im0.png", picture(0))
    put(tmp_path / "valid" / "sad" / "im0.png", picture(1))
    put(tmp_path / "Test" / "sad" / "im0.png", picture(2))
    (tmp_path / "logs" / "today").mkdir(parents=True)
    assert read_folders(tmp_path).splits.tolist() == [0, 1, 2]

    put(tmp_path / "holdout" / "sad" / "im0.png", picture(3))
    with pytest.raises(DataError, match=r"holdout holds expressions, but .* known are train, "):
        read_folders(tmp_path)


def test_a_tenth_of_training_is_held_out_and_copies_stay_together(tmp_path: Path) -> None:
    for seed in range(200):
        for name in ("one", "two"):
            put(tmp_path / "train" / "fear" / f"{name}{seed}.png", picture(seed))
    put(tmp_path / "test" / "fear" / "im0.png", picture(999))

    data = read_folders(tmp_path)

    public = {bytes(image) for image in data.split("PublicTest").images}
    training = {bytes(image) for image in data.split("Training").images}
    assert 8 <= len(public) <= 36
    assert len(public) + len(training) == 200
    assert len(data.split("PrivateTest").labels) == 1

    # Another copy with other names and fewer pictures parts the same ones.
    shutil.rmtree(tmp_path / "train")
    for seed in range(100, 200):
        put(tmp_path / "train" / "sad" / f"{seed}.png", picture(seed))
    again = {bytes(image) for image in read_folders(tmp_path).split("PublicTest").images}
    assert again == public & {bytes(picture(seed)) for seed in range(100, 200)}


def test_colour_and_jpeg_become_grey(tmp_path: Path) -> None:
    colour = np.zeros((48, 48, 3), np.uint8)
    colour[..., 2] = 200  # red, in OpenCV's order
    put(tmp_path / "train" / "angry" / "Training_1.png", colour)
    put(tmp_path / "train" / "angry" / "PublicTest_2.JPG", np.full((48, 48), 90, np.uint8))

    data = read_folders(tmp_path)

    assert data.images.shape == (2, 48, 48)
    assert data.split("Training").images[0, 5, 5] == pytest.approx(0.299 * 200, abs=1)
    assert data.split("PublicTest").images[0, 5, 5] == 90


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    put(tmp_path / "train" / "happy" / "a.png", picture(0))
    put(tmp_path / "train" / "happy" / "b.png", picture(0)[:47, :46])
    with pytest.raises(DataError, match=r"train/happy/b\.png has 46 x 47 pixels instead of 48"):
        read_folders(tmp_path)

    bad = tmp_path / "train" / "happy" / "b.png"
    for content in (b"", b"nothing", (tmp_path / "train/happy/a.png").read_bytes()[:500]):
        bad.write_bytes(content)
        with pytest.raises(DataError, match=r"train/happy/b\.png is not a readable picture"):
            read_folders(tmp_path)


def test_folders_without_pictures_or_with_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no train/ folder"):
        read_folders(tmp_path)

    (tmp_path / "train" / "happy").mkdir(parents=True)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "happy" / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="holds no pictures"):
        read_folders(tmp_path)

    put(tmp_path / "train" / "bored" / "a.png", picture(0))
    with pytest.raises(DataError, match="train/bored is named for no expression; known are angry"):
        read_folders(tmp_path)
