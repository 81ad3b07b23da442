"""Crops cut on a device are those that ``crop_faces`` cuts.

On the CPU, or where MIEN_TEST_PROVIDER says (deploy/gpu_check.sh). No pixel differs by more than
one level: OpenCV rounds grey before it averages, and weighs in steps of 1/2048 where it enlarges.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from skimage import data

import worker.emotion.ongraph as ongraph
from worker.binding import Inputs, Kind, Rows
from worker.cores import Cores
from worker.detect.ongraph import load_graph_detector
from worker.detect.propose import Pyramid
from worker.device import Device
from worker.emotion.align import BLANK, CHANNELS, Colour, Form, crop_faces
from worker.emotion.classifier import FACES_A_CALL, SHIPPED, load_classifier
from worker.emotion.crops import HostCropper
from worker.emotion.ongraph import GRAPHS, DeviceCropper, load_device_cropper
from worker.emotion.quality import sharpness
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


def cut_there(cropper: DeviceCropper, *given: Any, **form: Any) -> Image:
    """In the order of the boxes."""
    crops = cropper.cut(*given, Form(**form))
    assert isinstance(crops.pixels, Rows)
    assert sorted(crops.rows) == list(range(len(crops.pixels)))
    pixels = crops.pixels.whole.numpy()[: len(crops.pixels)]
    return np.asarray(pixels, np.uint8)[crops.rows]


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
    found = cut_there(cropper, images, boxes, size=size, margin=margin, colour=colour)
    assert found.shape == (120, size, size, CHANNELS[colour])
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - expected).mean() < 0.15
    # Neither kind of resampling is missing.
    sides = np.concatenate([(b[:, 2:] - b[:, :2]).max(axis=1) * (1 + margin) for b in boxes])
    assert (sides < size).sum() >= 3
    assert (sides > size).sum() > 3


def test_faces_keep_their_order_however_they_are_grouped(
    device: Device, cropper: DeviceCropper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of three sizes in turns, sent in other groups; more faces than are cut at once."""
    monkeypatch.setattr(ongraph, "_PIXELS_A_CALL", 7 * 24**2)
    images = [picture.copy() for _ in range(4) for picture in pictures()]
    device.hold(images[3::3])
    device.hold([images[1]])
    boxes = [boxes_in(image, 3 * i, i) for i, image in enumerate(images)]
    expected = cut_here(images, boxes, 24, 0.1, "gray")
    found = cut_there(cropper, images, boxes, size=24, margin=0.1, colour="gray")
    assert len(found) == 198
    assert np.abs(found - expected).max() <= 1


def interleaved() -> tuple[list[Image], list[Boxes]]:
    """Pictures of three sizes in turns, so that crops lie in another order than their faces."""
    images = [picture.copy() for _ in range(3) for picture in pictures()]
    return images, [boxes_in(image, 2 + 2 * i, i, smallest=24) for i, image in enumerate(images)]


@pytest.mark.parametrize(
    ("size", "margin", "colour"), [(48, -0.06, "gray"), (20, -0.06, "gray"), (48, 0.3, "rgb")]
)
def test_how_sharp_they_are_is_measured_there_and_at_one_scale(
    device: Device,
    size: int,
    margin: float,
    colour: Colour,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And a picture that is not held goes there once."""
    monkeypatch.setattr(ongraph, "_PIXELS_A_CALL", 4 * 48**2)
    judged: Any = {"size": 48, "margin": -0.06, "colour": "gray"}
    images, boxes = interleaved()
    images[1][50:90, 50:90] = 77
    boxes[1][3] = 55, 55, 85, 85
    small = Counted(device._table)
    small._most_held = 0
    cropper = load_device_cropper(small)
    expected = sharpness(cut_there(cropper, images, boxes, **judged))
    small.sent = 0
    found = cropper.cut(images, boxes, Form(size, margin, colour))
    assert small.sent == len(images)
    assert (found.rows != np.arange(len(found.rows))).any()
    assert found.sharpness == pytest.approx(expected, rel=1e-4)
    assert found.sharpness[2 + 3] == 0
    here = HostCropper(Cores()).cut(images, boxes, Form(size, margin, colour))
    views = zip(images, boxes, strict=True)
    crops = np.concatenate([crop_faces(*view, **judged) for view in views])
    assert (here.sharpness == sharpness(crops)).all()


def test_the_model_answers_for_crops_that_stay_there(cropper: DeviceCropper) -> None:
    """As on the CPU, and for each face its own."""
    model, reference = (load_classifier(SHIPPED, provider) for provider in (PROVIDER, "cpu"))
    form = Form(model.size, model.margin, model.colour)
    images, boxes = interleaved()
    crops = cropper.cut(images, boxes, form)
    assert len(crops.rows) > FACES_A_CALL
    expected = reference.classify(cut_there(cropper, images, boxes, **form._asdict()))
    assert crops.classified(model.classify) == pytest.approx(expected, abs=1e-3)
    none = cropper.cut([], [], form)
    assert none.classified(model.classify).shape == (0, len(model.labels))
    with pytest.raises(ValueError, match="crops must be uint8"):
        model.classify(cropper.cut(images, boxes, form._replace(size=20)).pixels)


def test_boxes_that_say_nothing_give_mid_grey(cropper: DeviceCropper) -> None:
    image = data.astronaut()
    odd = np.array(
        [[np.nan, 0, 9, 9], [9, 9, 9, 9], [0, 0, np.inf, 5], [-9e3, -9e3, 9e3, 9e3], [5, 5, 60, 60]]
    )
    crops = cut_there(cropper, [image], [odd], size=16, margin=0, colour="rgb")
    assert (crops[:4] == BLANK).all()
    assert crops[4].std() > 1


@pytest.mark.parametrize("size", [16, 448])
def test_far_outside_the_edge_is_repeated(cropper: DeviceCropper, size: int) -> None:
    image = pictures()[1]
    far = np.array(
        [[-800.0, -600, -700, -500], [600, 200, 700, 300], [0, -90, 90, 0], [-340, -300, 60, 100]]
    )
    crops = cut_there(cropper, [image], [far], size=size, margin=0, colour="rgb")
    assert (crops[0] == image[0, 0]).all()
    expected = cut_here([image], [far], size, 0, "rgb")
    assert np.abs(crops - expected).max() <= 1


def test_large_pictures_whose_sums_wrap_around(cropper: DeviceCropper) -> None:
    image = np.full((2900, 3000, 3), 255, np.uint8)
    image[2000:, 2000:] = cv2.resize(data.astronaut(), (1000, 900))
    boxes = np.array([[2300.0, 2050, 2600, 2400], [2990, 2880, 2999, 2899]])
    expected = cut_here([image], [boxes], 48, 0, "gray")
    found = cut_there(cropper, [image], [boxes], size=48, margin=0, colour="gray")
    assert np.abs(found - expected).max() <= 1


def test_no_faces(cropper: DeviceCropper) -> None:
    none = np.zeros((0, 4))
    for images in ([], pictures()):
        crops = cut_there(cropper, images, [none] * len(images), size=48, margin=0, colour="gray")
        assert crops.shape == (0, 48, 48, 1)


class Counted(Device):
    """Knows how many pictures it was sent."""

    sent = 0

    def put(self, images: Any) -> ort.OrtValue:
        self.sent += len(images)
        return super().put(images)


class Changing(Device):
    """Others use the device between two steps: pictures are forgotten, or put there."""

    cut = 0

    def run(self, graph: Any, inputs: Inputs, into: Any = None) -> dict[str, ort.OrtValue]:
        if "squares" in inputs:
            self.cut += 1
            if self.cut % 2:
                self.forget()
            else:
                self.hold(pictures()[:1])
        return super().run(graph, inputs, into)


def test_other_threads_may_use_the_device_meanwhile(device: Device, cropper: DeviceCropper) -> None:
    changing = Changing(device._table)
    images, boxes = pictures() * 2, [boxes_in(image, 5, 0) for image in pictures() * 2]
    expected = cut_there(cropper, images, boxes, size=32, margin=0, colour="rgb")
    changing.hold(images[2:3])
    found = cut_there(load_device_cropper(changing), images, boxes, size=32, margin=0, colour="rgb")
    assert changing.cut >= 3
    assert (found == expected).all()


class Small(Device):
    """Its memory holds so many pictures in all, and crops only while it holds fewer; it judges them
    at the third try."""

    room = 3
    cut = 0
    judged = 0

    def run(self, graph: Any, inputs: Inputs, into: Any = None) -> dict[str, ort.OrtValue]:
        there = sum(tables.batch for tables in {place.tables for _, place in self._held.values()})
        if "squares" in inputs:
            self.cut += 1
        elif "crops" in inputs:
            self.judged += 1
            there += self.room * (self.judged < 3)
        else:
            there += inputs["frames"].shape()[0]  # type: ignore[operator]
        if there > self.room:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 4096")
        return super().run(graph, inputs, into)


def test_where_memory_is_short_pictures_are_cut_a_few_at_a_time(
    device: Device, cropper: DeviceCropper
) -> None:
    images = [pictures()[0].copy() for _ in range(6)]
    boxes = [boxes_in(image, 2, i) for i, image in enumerate(images)]
    expected = cut_there(cropper, images, boxes, size=32, margin=0, colour="rgb")
    small = Small(device._table)
    found = cut_there(load_device_cropper(small), images, boxes, size=32, margin=0, colour="rgb")
    assert small.cut >= 3
    assert small.judged >= 5
    assert (found == expected).all()
    small.room = 0
    with pytest.raises(ModelError, match="memory does not hold one picture of 512x512"):
        cut_there(load_device_cropper(small), images, boxes, size=32, margin=0, colour="rgb")


def test_pictures_make_room_for_crops_and_too_many_crops_are_no_reason_to_take_fewer_pictures(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory has room for the crops of twelve faces, and only when it holds no picture."""
    small = Counted(device._table)
    cropper = load_device_cropper(small)
    images = [pictures()[0].copy() for _ in range(6)]
    boxes = [boxes_in(image, 2, i) for i, image in enumerate(images)]
    new = Rows.new

    def refuse(kind: Kind, count: int, *rest: int) -> Rows:
        if small._held or count > 12:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 4096")
        return new(kind, count, *rest)

    monkeypatch.setattr(Rows, "new", refuse)
    small.hold(images)
    form: Any = {"size": 48, "margin": -0.06, "colour": "gray"}
    found = cut_there(cropper, images, boxes, **form)
    assert (np.abs(found - cut_here(images, boxes, *form.values())) <= 1).all()
    small.sent = 0
    with pytest.raises(ModelError, match="memory does not hold the crops of 24 faces"):
        cropper.cut([*images, *images], [*boxes, *boxes], Form(**form))
    assert small.sent == 0
    assert small._at_once == Device(device._table)._at_once


def test_missing_and_wrong_files(device: Device, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the model .*crop\.onnx"):
        load_device_cropper(device, tmp_path)
    for name in ("crop", "sharpness"):
        (tmp_path / "crop.onnx").write_bytes((GRAPHS / "crop.onnx").read_bytes())
        (tmp_path / f"{name}.onnx").write_bytes(SHIPPED.read_bytes())
        with pytest.raises(ModelError, match=rf"{name}\.onnx is not the graph {name}"):
            load_device_cropper(device, tmp_path)
