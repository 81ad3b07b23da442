"""Crops cut on a device are those that ``crop_faces`` cuts, and are classified there.

On the CPU, or where MIEN_TEST_PROVIDER says (deploy/gpu_check.sh). No pixel differs by more than
one level: OpenCV rounds grey before it averages, and weighs in steps of 1/2048 where it enlarges.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from skimage import data

from worker.detect.ongraph import load_graph_detector
from worker.detect.propose import Pyramid
from worker.device import Device
from worker.emotion.align import BLANK, CHANNELS, Colour, crop_faces
from worker.emotion.classifier import SHIPPED, load_classifier
from worker.emotion.ongraph import (
    CROP_GRAPH,
    CROPS_A_CALL,
    DeviceCropper,
    load_device_cropper,
)
from worker.errors import ModelError
from worker.records import Image, Provider

PROVIDER = cast("Provider", os.environ.get("MIEN_TEST_PROVIDER", "cpu"))

Boxes = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def device() -> Device:
    detector = load_graph_detector(
        pyramid=Pyramid(40, 0.709), thresholds=(0.6, 0.7, 0.7), provider=PROVIDER
    )
    return detector.device


@pytest.fixture(scope="module")
def cropper(device: Device) -> DeviceCropper:
    return load_device_cropper(device)


def pictures() -> list[Image]:
    face = data.astronaut()
    noise = np.random.default_rng(0).integers(0, 256, (333, 500, 3), dtype=np.uint8)
    return [np.asarray(face, np.uint8), noise, np.ascontiguousarray(face[:120, 150:230])]


def boxes_in(image: Image, count: int, seed: int, smallest: float = 2) -> Boxes:
    """Of all sizes, many of them partly or wholly beyond the picture."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    middle = rng.uniform(-0.2, 1.2, (count, 2)) * (width, height)
    extent = rng.uniform(smallest, 1.2 * max(height, width), (count, 1)) * rng.uniform(
        0.7, 1, (count, 2)
    )
    return np.concatenate([middle - extent / 2, middle + extent / 2], axis=1)


def cut_here(
    images: list[Image], boxes: list[Boxes], size: int, margin: float, colour: Colour
) -> npt.NDArray[np.int64]:
    crops = [
        crop_faces(image, some, size=size, margin=margin, colour=colour)
        for image, some in zip(images, boxes, strict=True)
    ]
    return np.concatenate(crops).astype(np.int64)


@pytest.mark.parametrize("colour", ["gray", "rgb"])
@pytest.mark.parametrize(("size", "margin"), [(48, -0.06), (20, 0.3), (112, 0.0)])
def test_crops_are_the_references(
    cropper: DeviceCropper, size: int, margin: float, colour: Colour
) -> None:
    images = pictures()
    boxes = [boxes_in(image, 40, seed) for seed, image in enumerate(images)]
    expected = cut_here(images, boxes, size, margin, colour)
    crops = cropper.crop(images, boxes, size=size, margin=margin, colour=colour)
    found = np.asarray(crops)
    assert crops.shape == found.shape == (120, size, size, CHANNELS[colour])
    assert crops.dtype == found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - expected).mean() < 0.15
    # Neither kind of resampling is missing.
    sides = np.concatenate([(b[:, 2:] - b[:, :2]).max(axis=1) * (1 + margin) for b in boxes])
    assert (sides < size).sum() >= 3 < (sides > size).sum()


def test_faces_keep_their_order_however_they_are_grouped(
    device: Device, cropper: DeviceCropper
) -> None:
    """Pictures of three sizes in turns, sent in other groups; more faces than go together."""
    images = [picture.copy() for _ in range(4) for picture in pictures()]
    device.take(images[3::3])
    device.take([images[1]])
    boxes = [boxes_in(image, 3 * i, i) for i, image in enumerate(images)]
    assert sum(map(len, boxes)) > 3 * CROPS_A_CALL
    expected = cut_here(images, boxes, 24, 0.1, "gray")
    crops = cropper.crop(images, boxes, size=24, margin=0.1, colour="gray")
    assert np.abs(np.asarray(crops) - expected).max() <= 1
    for value, rows in crops.calls:
        many = value.shape()[0]
        assert many & (many - 1) == 0
        assert len(rows) <= CROPS_A_CALL


def test_boxes_that_say_nothing_give_mid_grey(cropper: DeviceCropper) -> None:
    image = data.astronaut()
    odd = np.array(
        [[np.nan, 0, 9, 9], [9, 9, 9, 9], [0, 0, np.inf, 5], [-9e3, -9e3, 9e3, 9e3], [5, 5, 60, 60]]
    )
    crops = np.asarray(cropper.crop([image], [odd], size=16, margin=0, colour="rgb"))
    assert (crops[:4] == BLANK).all()
    assert crops[4].std() > 1


def test_far_outside_the_edge_is_repeated(cropper: DeviceCropper) -> None:
    image = data.astronaut()
    far = np.array([[-4000.0, -3000, -3900, -2900], [800, 200, 900, 300], [0, -90, 90, 0]])
    crops = np.asarray(cropper.crop([image], [far], size=16, margin=0, colour="rgb"))
    assert (crops[0] == image[0, 0]).all()
    expected = cut_here([image], [far], 16, 0, "rgb")
    assert np.abs(crops - expected).max() <= 1


def test_large_pictures_whose_sums_wrap_around(cropper: DeviceCropper) -> None:
    image = np.full((2900, 3000, 3), 255, np.uint8)
    image[2000:, 2000:] = cv2.resize(data.astronaut(), (1000, 900))
    boxes = np.array([[2300.0, 2050, 2600, 2400], [2990, 2880, 2999, 2899]])
    expected = cut_here([image], [boxes], 48, 0, "gray")
    found = np.asarray(cropper.crop([image], [boxes], size=48, margin=0, colour="gray"))
    assert np.abs(found - expected).max() <= 1


def test_no_faces(cropper: DeviceCropper) -> None:
    none = np.zeros((0, 4))
    for images in ([], pictures()):
        crops = cropper.crop(images, [none] * len(images), size=48, margin=0, colour="gray")
        assert np.asarray(crops).shape == (0, 48, 48, 1)
        assert load_classifier(SHIPPED, PROVIDER).classify(crops).shape == (0, 7)


def test_they_are_classified_where_they_are(cropper: DeviceCropper) -> None:
    model = load_classifier(SHIPPED, PROVIDER)
    images = pictures()
    boxes = [boxes_in(image, 30, seed, smallest=20) for seed, image in enumerate(images)]
    crops = cropper.crop(images, boxes, size=model.size, margin=model.margin, colour=model.colour)
    answers = model.classify(crops)
    # The same pixels, brought here first.
    np.testing.assert_allclose(answers, model.classify(np.asarray(crops)), atol=1e-5)
    expected = cut_here(images, boxes, model.size, model.margin, model.colour)
    apart = np.abs(answers - model.classify(expected.astype(np.uint8)))
    assert apart.mean() < 0.002
    assert len(answers) == 90


def test_crops_of_another_shape_are_refused(cropper: DeviceCropper) -> None:
    model = load_classifier(SHIPPED, PROVIDER)
    crops = cropper.crop(pictures(), [np.zeros((0, 4))] * 3, size=47, margin=0, colour="gray")
    with pytest.raises(ValueError, match=r"crops must be uint8 .* not uint8 \(0, 47, 47, 1\)"):
        model.classify(crops)


def test_where_memory_is_short_held_pictures_make_room(
    device: Device, cropper: DeviceCropper, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, boxes = pictures(), [boxes_in(image, 2, 0) for image in pictures()]
    before = np.asarray(cropper.crop(images, boxes, size=32, margin=0, colour="rgb"))
    tries = []

    def run(*arguments: object) -> object:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 4096")
        return Device.run(device, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(device, "run", run)
    after = np.asarray(cropper.crop(images, boxes, size=32, margin=0, colour="rgb"))
    assert (before == after).all()
    assert len(tries) > 2


def test_missing_and_wrong_files(device: Device, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the model .*crop\.onnx"):
        load_device_cropper(device, tmp_path / "crop.onnx")
    with pytest.raises(ModelError, match="is not the graph that cuts crops"):
        load_device_cropper(device, SHIPPED)
    assert CROP_GRAPH.exists()
