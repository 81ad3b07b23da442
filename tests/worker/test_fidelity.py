"""Tracking, as it is configured by default, beside full detection on every frame of a real clip."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from tests.tracking import analysed, best, changes, fidelity, frames_of, tracks_of
from worker.analysis import Analyst
from worker.config import WorkerSettings
from worker.demo import sample_clip
from worker.detect.mtcnn import load_detector
from worker.emotion.classifier import load_classifier
from worker.metrics import Metrics
from worker.records import FrameEvent

Runs = tuple[list[FrameEvent], list[FrameEvent]]


@pytest.fixture(scope="module", params=[None, (1280, 720)], ids=["640x360", "1280x720"])
def runs(request: pytest.FixtureRequest) -> Runs:
    """Events of the clip with full detection on every frame, and as by default.

    At the larger size most frames are decoded at half of it.
    """
    # Around the clip's scene cut, where faces enter and leave.
    frames = frames_of(str(sample_clip()), request.param, 250)[90:]
    detector, classifier = load_detector(), load_classifier(None)
    told = []
    for settings in (WorkerSettings(detect_every=1), WorkerSettings()):
        analyst = Analyst(detector, classifier, settings, Metrics(CollectorRegistry()))
        reduce = settings.detect_every > 1
        told.append(analysed(analyst, frames, live=False, reduce=reduce))
    return told[0], told[1]


def test_the_same_faces_are_found_and_read_the_same(runs: Runs) -> None:
    told = fidelity(*runs)
    assert told.faces > 250
    assert told.found >= 0.97 * told.faces
    assert told.extra <= 0.02 * told.faces
    assert told.equal >= 0.97 * told.found
    assert told.switches == 0


def test_most_frames_are_tracked(runs: Runs) -> None:
    sources = [face.source for event in runs[1] for face in event.faces]
    assert sources.count("tracked") > 0.6 * len(sources)


def test_the_label_is_steadier_than_the_answers(runs: Runs) -> None:
    tracks = [[face for _, face in track] for track in tracks_of(runs[1])]
    raw = sum(changes([best(face) for face in track]) for track in tracks)
    steady = sum(changes([face.label for face in track]) for track in tracks)
    assert steady <= raw / 4


def test_ids_end_with_the_scene(runs: Runs) -> None:
    ids = [{face.track_id for face in event.faces} for event in runs[1]]
    before, after = set().union(*ids[:85]), set().union(*ids[85:])
    assert before
    assert after
    assert not before & after
