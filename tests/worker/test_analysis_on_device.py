"""The analysis where the detector works on a device: crops are cut there, pictures sent once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import cv2
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from tests.pictures import reducible
from tests.shots import analysed
from worker.analysis import Analyst
from worker.capture.sources import open_source
from worker.config import WorkerSettings
from worker.demo import sample_clip
from worker.detect.ongraph import load_graph_detector
from worker.detect.propose import Pyramid
from worker.device import Device
from worker.emotion.align import crop_faces
from worker.emotion.classifier import SHIPPED, load_classifier
from worker.emotion.ongraph import DeviceCropper
from worker.metrics import Metrics
from worker.records import Floats, Image


class CropsHere:
    def crop(self, images: Sequence[Image], boxes: Sequence[Floats], **cut: Any) -> Image:
        crops = [crop_faces(*pair, **cut) for pair in zip(images, boxes, strict=True)]
        return np.concatenate([np.zeros((0, 48, 48, 1), np.uint8), *crops])


@pytest.mark.parametrize("larger", [1, 4])
def test_on_a_device_crops_are_cut_from_what_the_detector_was_sent(
    larger: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events are those of crops cut here, but for a level of 256; no picture is sent again.

    Of large pictures it was sent the whole where it detects, and half where it follows.
    """
    here, there = (
        Analyst(
            load_graph_detector(
                pyramid=Pyramid(40 * larger, 0.709), thresholds=(0.6, 0.7, 0.7), provider="cpu"
            ),
            load_classifier(SHIPPED, "cpu"),
            WorkerSettings(detect_every=4, min_face=40 * larger),
            Metrics(CollectorRegistry()),
        )
        for _ in range(2)
    )
    here._cropper = cast(DeviceCropper, CropsHere())
    assert there._cropper
    there.try_models()
    with open_source(str(sample_clip())) as source:
        images = [picture.image for picture in islice(source.pictures(), 90, 102)]
    pictures = [
        reducible(cv2.resize(image, None, fx=larger, fy=larger))[0] if larger > 1 else image
        for image in images
    ]
    cuts = [5, 9]
    expected = analysed(here, pictures, cuts)[0]
    sent: list[str] = []
    put, crop = Device.put, type(there._cropper).crop
    monkeypatch.setattr(Device, "put", lambda *given: (sent.append("pictures"), put(*given))[1])

    def cutting(*given: Any, **options: Any) -> Image:
        sent.append("crops")
        crops = crop(*given, **options)
        sent.append("done")
        return crops

    monkeypatch.setattr(type(there._cropper), "crop", cutting)
    found = analysed(there, pictures, cuts)[0]
    assert sum(len(event.faces) for event in found) >= 12
    for one, other in zip(expected, found, strict=True):
        for face, same in zip(one.faces, other.faces, strict=True):
            assert list(same.raw.values()) == pytest.approx(list(face.raw.values()), abs=0.02)
            assert same.quality == pytest.approx(face.quality, abs=0.02)
            answers: dict[str, Any] = {
                name: getattr(face, name) for name in ("raw", "smoothed", "quality")
            }
            assert replace(same, **answers) == face
    assert sent.count("crops") == 3
    assert all(sent[i + 1] == "done" for i, what in enumerate(sent) if what == "crops")
