"""The trial of the models, before a worker takes feeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.shots import real_analyst
from worker.detect.mtcnn import FaceDetector, load_detector
from worker.errors import ModelError


class Broken:
    """A network on a device that is gone."""

    def run(self, *arguments: object) -> None:
        raise RuntimeError("device lost")

    def get_outputs(self) -> list[object]:
        return []


@pytest.mark.parametrize("min_face", [12, 40, 120])
def test_models_that_work_pass(min_face: int) -> None:
    analyst = real_analyst(load_detector(min_face=min_face), min_face)
    analyst.try_models()
    analyst.try_models((900, 300))


@pytest.mark.parametrize("network", ["pnet", "rnet", "onet"])
def test_each_broken_network_is_noticed(network: str) -> None:
    detector = load_detector(min_face=120)
    assert isinstance(detector, FaceDetector)
    broken: Any = Broken()
    detector._cascade = replace(detector._cascade, **{network: broken})
    with pytest.raises(ModelError, match="do not work"):
        real_analyst(detector, 120).try_models()


def test_thresholds_that_no_face_passes_are_noticed() -> None:
    detector = load_detector(min_face=40, thresholds=(0.6, 0.7, 0.999999999))
    with pytest.raises(ModelError, match="no face is found in a portrait"):
        real_analyst(detector, 40).try_models()
