"""The worker's trial of its own models: it notices each network that is broken."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from worker.analysis import Analyst
from worker.config import WorkerSettings
from worker.detect.mtcnn import FaceDetector, load_detector
from worker.emotion.classifier import load_classifier
from worker.errors import ModelError
from worker.metrics import Metrics


class Broken:
    """A network on a device that is gone."""

    def run(self, *arguments: object) -> None:
        raise RuntimeError("device lost")

    def get_outputs(self) -> list[object]:
        return []


def make(detector: FaceDetector, min_face: int) -> Analyst:
    settings = WorkerSettings(min_face=min_face)
    return Analyst(detector, load_classifier(None, "cpu"), settings, Metrics(CollectorRegistry()))


@pytest.mark.parametrize("min_face", [12, 40, 120])
def test_models_that_work_pass(min_face: int) -> None:
    analyst = make(load_detector(min_face=min_face), min_face)
    analyst.try_models()
    analyst.try_models((900, 300))


@pytest.mark.parametrize("network", ["_pnet", "_rnet", "_onet"])
def test_each_broken_network_is_noticed(network: str) -> None:
    detector = load_detector(min_face=120)
    setattr(detector, network, Broken())
    with pytest.raises(ModelError, match="do not work"):
        make(detector, 120).try_models()


def test_thresholds_that_no_face_passes_are_noticed() -> None:
    detector = load_detector(min_face=40, thresholds=(0.6, 0.7, 0.999999999))
    with pytest.raises(ModelError, match="no face is found in a portrait"):
        make(detector, 40).try_models()
