from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from training.data import Dataset, without_copies
from training.data.duplicates import equal_groups, near_pairs

Change = Callable[[np.ndarray], np.ndarray]


def shifted(image: np.ndarray, right: int, down: int) -> np.ndarray:
    wide = cv2.copyMakeBorder(image, 4, 4, 4, 4, cv2.BORDER_REPLICATE)
    return wide[4 - down : 52 - down, 4 - right : 52 - right]


def encoded(image: np.ndarray, quality: int) -> np.ndarray:
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)


def relit(image: np.ndarray, contrast: float, brightness: float) -> np.ndarray:
    light = (image.astype(np.float32) - 128) * contrast + 128 + brightness
    return np.clip(light, 0, 255).round().astype(np.uint8)


CHANGES: dict[str, Change] = {
    "none": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "right and up": lambda image: shifted(image, 4, -4),
    "left": lambda image: shifted(image, -1, 0),
    "encoded": lambda image: encoded(image, 50),
    "darker": lambda image: relit(image, 0.8, -25),
    "steeper": lambda image: relit(image, 1.25, 10),
    "all": lambda image: encoded(relit(shifted(image[:, ::-1], 2, 3), 0.8, 20), 60),
}


@pytest.fixture
def scenes() -> np.ndarray:
    """(40, 48, 48): smooth random shapes, no two alike."""
    noise = np.random.default_rng(0).standard_normal((40, 48, 48)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(one, (0, 0), 3) for one in noise])
    return np.clip(128 + 50 * smooth / smooth.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", CHANGES)
def test_near_copies_are_found_and_nothing_else(scenes: np.ndarray, change: str) -> None:
    copies = np.stack([CHANGES[change](scenes[index]) for index in (3, 17)])
    pairs = near_pairs(np.concatenate([scenes, copies]))
    assert pairs.tolist() == [[3, 40], [17, 41]]


def test_pairs_across_blocks_are_found_and_blocks_are_tracked(scenes: np.ndarray) -> None:
    filler = np.zeros((300, 48, 48), np.uint8)
    filler[:, ::2] = np.random.default_rng(1).integers(0, 256, (300, 24, 48))
    images = np.concatenate([scenes[:1], filler, scenes[:1], filler[:1]])
    seen: list[int] = []

    def track(blocks: range) -> range:
        seen.append(len(blocks))
        return blocks

    assert near_pairs(images, track).tolist() == [[0, 301], [1, 302]]
    assert seen == [2]


def test_plain_pictures_are_no_copies_of_each_other() -> None:
    images = np.zeros((4, 48, 48), np.uint8)
    images[1:] = 200
    images[3, 0, :] = 0  # something at the border, where shifts cut, and nothing inside
    assert near_pairs(images).shape == (0, 2)
    assert near_pairs(images[:0]).shape == (0, 2)


def test_equal_pictures_are_grouped(scenes: np.ndarray) -> None:
    images = scenes[[0, 1, 0, 2, 1, 0, 3]].copy()
    images[6, 0, 0] ^= 1
    assert equal_groups(images) == [[0, 2, 5], [1, 4]]


def test_copies_are_told_by_their_pixels(tiny: Dataset) -> None:
    images = tiny.images[:3].copy()
    others = images[[2, 0]].copy()
    images[0, 0, 0] ^= 1
    assert without_copies(images, others).tolist() == [True, True, False]


def test_near_copies_of_real_faces_are_found(fer2013: Dataset) -> None:
    training = fer2013.split("Training").images
    faces = training[np.linspace(0, len(training) - 1, 400).astype(int)]
    known = near_pairs(faces)
    # Few faces repeat by themselves, and those that do are left out of the account.
    assert len(known) <= 8
    faces = np.delete(faces, known.reshape(-1), axis=0)
    n = len(faces)
    for change in ("right and up", "encoded", "all"):
        copies = np.stack([CHANGES[change](face) for face in faces])
        pairs = {tuple(pair) for pair in near_pairs(np.concatenate([faces, copies])).tolist()}
        right = {(index, n + index) for index in range(n)}
        assert len(pairs & right) >= 0.99 * n
        # Nothing else, but for two copies of one picture that drifted apart: none here.
        assert len(pairs - right) <= 0.01 * n


def test_equal_pictures_of_the_real_data_are_near_copies_too(fer2013: Dataset) -> None:
    images = fer2013.split("PublicTest").images
    pairs = {tuple(pair) for pair in near_pairs(images).tolist()}
    equal = {(group[0], other) for group in equal_groups(images) for other in group[1:]}
    assert len(equal) >= 20
    assert equal <= pairs
