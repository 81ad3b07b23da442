"""The analysis where the detector works on a device: crops are cut and stay there, pictures are
sent once.

On the CPU, or where MIEN_TEST_PROVIDER says (deploy/gpu_check.sh).
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import cv2
import pytest
from prometheus_client import CollectorRegistry

from tests.pictures import reducible
from tests.shots import analysed
from worker.analysis import Analyst
from worker.binding import Rows
from worker.capture.sources import open_source
from worker.config import WorkerSettings
from worker.demo import sample_clip
from worker.detect.ongraph import load_graph_detector
from worker.detect.propose import Pyramid
from worker.device import Device
from worker.emotion.classifier import SHIPPED, load_classifier
from worker.emotion.crops import Crops, HostCropper
from worker.emotion.ongraph import DeviceCropper
from worker.metrics import Metrics
from worker.records import Provider

PROVIDER = cast("Provider", os.environ.get("MIEN_TEST_PROVIDER", "cpu"))


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
                pyramid=Pyramid(40 * larger, 0.709), thresholds=(0.6, 0.7, 0.7), provider=PROVIDER
            ),
            load_classifier(SHIPPED, PROVIDER),
            WorkerSettings(detect_every=4, min_face=40 * larger),
            Metrics(CollectorRegistry()),
        )
        for _ in range(2)
    )
    here._cropper = HostCropper(here.cores)
    assert isinstance(there._cropper, DeviceCropper)
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
    put, cut = Device.put, DeviceCropper.cut
    monkeypatch.setattr(Device, "put", lambda *given: (sent.append("pictures"), put(*given))[1])

    def cutting(*given: Any, **options: Any) -> Crops:
        sent.append("crops")
        crops = cut(*given, **options)
        assert isinstance(crops.pixels, Rows)
        sent.append("done")
        return crops

    monkeypatch.setattr(DeviceCropper, "cut", cutting)
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
