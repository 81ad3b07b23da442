"""The analysis of a batch: events that go by a feed's frames alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from tests.doubles import LABELS, Calm
from tests.pictures import reducible
from tests.shots import analysed, both_steps, real_analyst, shot
from worker.analysis import Analyst
from worker.capture.sources import open_source
from worker.config import WorkerSettings
from worker.demo import sample_clip
from worker.detect.mtcnn import FaceDetector, load_detector
from worker.emotion.classifier import Classifier
from worker.memory import Memory
from worker.metrics import Metrics
from worker.records import Detections, Floats, FrameEvent, Image, ModelInfo

SIDE = 20


class Blobs:
    """Finds white squares on black; following finds only those in what it is given to look at."""

    info = ModelInfo("blobs", "1", "0" * 16)

    def __init__(self) -> None:
        self.fails = False

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        if self.fails and images:
            raise RuntimeError("device lost")
        return [_squares(image) for image in images]

    def glance(self, images: Sequence[Image]) -> list[Detections]:
        return self.detect(images)

    def follow(self, images: Sequence[Image], boxes: Sequence[Floats]) -> list[Detections]:
        if self.fails:
            raise RuntimeError("device lost")
        answers = []
        for image, expected in zip(images, boxes, strict=True):
            found = _squares(image)
            near = np.array(
                [
                    any(np.abs(box - one).max() < SIDE / 2 for one in expected)
                    for box in found.boxes
                ],
                bool,
            )
            answers.append(found.pick(near))
        return answers


def _squares(image: Image) -> Detections:
    _, _, stats, _ = cv2.connectedComponentsWithStats((image[:, :, 0] > 127).astype(np.uint8))
    corners = stats[1:, :2].astype(np.float32)
    boxes = np.concatenate([corners, corners + stats[1:, 2:4]], axis=1).astype(np.float32)
    n = len(boxes)
    landmarks = np.tile(np.array([[5, 5], [15, 5], [10, 10], [6, 15], [14, 15]]), (n, 1, 1))
    return Detections(boxes, np.ones(n, np.float32), landmarks.astype(np.float32))


class Moody(Calm):
    """Says what it is told to, one answer a call's row, and begins again at the end."""

    def __init__(
        self, *answers: float, uncertain_below: float = 0.0, digest: str = "m" * 16
    ) -> None:
        self.answers, self.asked = answers or (0.75,), 0
        self.uncertain_below = uncertain_below
        self.info = ModelInfo("moody", "1", digest)

    def classify(self, crops: Image) -> Floats:
        said = [self.answers[(self.asked + i) % len(self.answers)] for i in range(len(crops))]
        self.asked += len(crops)
        return np.array([[share, 1 - share] for share in said], np.float32).reshape(-1, 2)


class Fine(Calm):
    """Takes crops of another size."""

    def __init__(self, size: int, margin: float) -> None:
        self.size, self.margin = size, margin
        self.info = ModelInfo("fine", "1", "f" * 16)


class Shaky(Calm):
    fails = False

    def classify(self, crops: Image) -> Floats:
        if self.fails:
            raise RuntimeError("stumbled")
        return super().classify(crops)


class ByBrightness(Calm):
    """Goes by the crop alone, as a network does."""

    def classify(self, crops: Image) -> Floats:
        share = crops.mean(axis=(1, 2, 3)) / 255
        return np.stack([share, 1 - share], axis=1).astype(np.float32)


def analyst(
    classifier: Calm | None = None, detector: Blobs | None = None, **chosen: Any
) -> Analyst:
    return Analyst(
        cast(FaceDetector, detector or Blobs()),
        cast(Classifier, classifier or ByBrightness()),
        WorkerSettings(**chosen),
        Metrics(CollectorRegistry()),
    )


def picture(*places: tuple[int, int], light: int = 255) -> Image:
    image = np.random.default_rng(7).integers(0, 60, (120, 160, 3), np.uint8)
    for x, y in places:
        image[y : y + SIDE, x : x + SIDE] = light
    return image


places = st.lists(
    st.sampled_from([(10, 10), (14, 12), (70, 20), (74, 30), (120, 80)]), unique=True, max_size=3
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(places, st.sampled_from([150, 255])), min_size=2, max_size=14),
    st.lists(st.integers(1, 13), max_size=4),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_batches_may_be_cut_anywhere_and_workers_change(
    scenes: list[tuple[list[tuple[int, int]], int]],
    cuts: list[int],
    every: int,
    classify_every: int,
) -> None:
    pictures = [picture(*where, light=light) for where, light in scenes]
    chosen: dict[str, Any] = {"detect_every": every, "classify_every": classify_every}
    whole = analysed(analyst(**chosen), pictures)
    assert analysed(analyst(**chosen), pictures, cuts) == whole
    for event in whole[0]:
        ids = [face.track_id for face in event.faces]
        assert len(set(ids)) == len(ids)


def test_detection_may_be_batches_ahead_of_the_rest() -> None:
    pictures = [picture((10 + i, 10), (70, 20 + 2 * i)) for i in range(23)]
    whole = analysed(analyst(detect_every=3), pictures)
    worker, memory = analyst(detect_every=3), Memory()
    shots = [shot(memory, i, image) for i, image in enumerate(pictures)]
    batches = [shots[i : i + 4] for i in range(0, len(shots), 4)]
    looks = [worker.detect(batch) for batch in batches]
    found = [one for each in zip(batches, looks, strict=True) for one in worker.analyse(*each)]
    assert ([event for event, _ in found], [state for _, state in found]) == whole


def test_feeds_in_one_batch_do_not_disturb_each_other() -> None:
    first = [picture((10 + i, 10)) for i in range(9)]
    second = [picture((70, 20 + i), (120, 80)) for i in range(6)]
    alone = [analysed(analyst(), pictures)[0] for pictures in (first, second)]
    memories = Memory(), Memory()
    mixed = [shot(memories[0], i, image) for i, image in enumerate(first)]
    for i, image in enumerate(second):
        mixed.insert(2 * i, shot(memories[1], i, image))
    together = both_steps(analyst(), mixed)
    for feed, memory in enumerate(memories):
        mine = [e for (e, _), one in zip(together, mixed, strict=True) if one.memory is memory]
        assert mine == alone[feed]


def test_the_event_says_which_faces_were_detected_and_which_followed() -> None:
    events, _ = analysed(analyst(detect_every=3), [picture((10, 10))] * 6)
    sources = [face.source for event in events for face in event.faces]
    assert sources == ["detected", "tracked", "tracked"] * 2
    assert {face.track_id for event in events for face in event.faces} == {1}


def test_a_face_is_classified_on_every_so_many_of_its_frames() -> None:
    moody = Moody(0.9, 0.2, 0.8)
    events, _ = analysed(analyst(moody, classify_every=3), [picture((10, 10))] * 7)
    faces = [event.faces[0] for event in events]
    assert [face.classified for face in faces] == [True, False, False, True, False, False, True]
    assert [round(face.raw["calm"], 2) for face in faces] == [0.9] * 3 + [0.2] * 3 + [0.8]
    assert [face.quality is not None for face in faces] == [face.classified for face in faces]
    assert moody.asked == 3


def test_a_new_face_is_classified_at_once() -> None:
    moody = Moody()
    pictures = [picture((10, 10))] * 2 + [picture((10, 10), (70, 20))] * 2
    events, _ = analysed(analyst(moody, classify_every=4, detect_every=1), pictures)
    assert [face.classified for face in events[2].faces] == [False, True]


def test_the_label_is_steady_and_the_raw_answer_is_told_beside_it() -> None:
    worker = analyst(Moody(*[0.9] * 10, 0.2, *[0.9] * 10))
    events, _ = analysed(worker, [picture((10, 10))] * 21)
    odd = events[10].faces[0]
    assert odd.label == "calm"
    assert odd.raw["calm"] == pytest.approx(0.2, abs=1e-5)
    assert odd.smoothed["calm"] > 0.8
    assert sum(odd.smoothed.values()) == pytest.approx(1, abs=1e-4)


def test_without_smoothing_label_and_abstention_are_the_answers_own() -> None:
    worker = analyst(Moody(0.9, 0.45, uncertain_below=0.6), smooth_s=0)
    events, _ = analysed(worker, [picture((10, 10))] * 2)
    assert [event.faces[0].label for event in events] == ["calm", "cross"]
    assert [event.faces[0].uncertain for event in events] == [False, True]
    assert all(event.faces[0].smoothed == {} for event in events)


def test_one_unsure_answer_is_no_abstention_but_unsure_answers_are() -> None:
    worker = analyst(Moody(*[0.9] * 10, 0.55, *[0.9] * 5, *[0.55] * 60, uncertain_below=0.6))
    events, _ = analysed(worker, [picture((10, 10))] * 76)
    unsure = [event.faces[0].uncertain for event in events]
    assert not any(unsure[:16])
    assert unsure[-1]


def test_a_new_track_begins_a_new_average() -> None:
    pictures = [picture((10, 10))] * 5 + [picture()] * 30 + [picture((10, 10))] * 6
    events, _ = analysed(analyst(Moody(*[0.9] * 5, 0.2)), pictures)
    later = next(event.faces[0] for event in events[35:] if event.faces)
    assert later.track_id == 2
    assert later.smoothed["calm"] == pytest.approx(0.2, abs=1e-5)


def test_another_models_answers_are_not_averaged_with() -> None:
    memory = Memory()
    both_steps(analyst(Moody(0.9)), [shot(memory, 0, picture((10, 10)))])
    other = analyst(Moody(0.2, digest="n" * 16))
    ((event, _),) = both_steps(other, [shot(memory, 1, picture((10, 10)))])
    assert event.faces[0].track_id == 1
    assert event.faces[0].smoothed["calm"] == pytest.approx(0.2, abs=1e-5)


def test_a_failed_step_leaves_every_memory_as_it_was() -> None:
    detector, memory = Blobs(), Memory()
    worker = analyst(detector=detector, detect_every=1)
    both_steps(worker, [shot(memory, 0, picture((10, 10)))])
    before = memory.state()
    shots = [shot(memory, i, picture((10, 10))) for i in range(1, 4)]
    detector.fails = True
    with pytest.raises(RuntimeError):
        worker.detect(shots)
    assert memory.state() == before

    worker = analyst(detector=detector)
    looks = worker.detect(shots)
    between = memory.state()
    assert between != before, "the schedules are ahead"
    with pytest.raises(RuntimeError):
        worker.analyse(shots, looks)
    assert memory.state() == between


def test_a_failed_second_step_can_be_taken_again_frame_by_frame() -> None:
    pictures = [picture((10 + i, 10), (70, 20)) for i in range(9)]
    whole = analysed(analyst(Shaky()), pictures)[0]
    shaky, memory = Shaky(), Memory()
    worker = analyst(shaky)
    shots = [shot(memory, i, image) for i, image in enumerate(pictures)]
    looks = worker.detect(shots)
    shaky.fails = True
    with pytest.raises(RuntimeError):
        worker.analyse(shots, looks)
    shaky.fails = False
    alone = [worker.analyse([a], [b]) for a, b in zip(shots, looks, strict=True)]
    assert [event for ((event, _),) in alone] == whole


def test_no_frames_make_no_events() -> None:
    assert both_steps(analyst(), []) == []


def test_what_is_remembered_of_a_feed_is_small() -> None:
    _, states = analysed(analyst(), [picture((10, 10), (70, 20), (120, 80))] * 8)
    assert len(states[-1]) < 2_000


def test_labels_come_in_the_models_order() -> None:
    events, _ = analysed(analyst(), [picture((10, 10))])
    assert tuple(events[0].faces[0].raw) == tuple(events[0].faces[0].smoothed) == LABELS


@pytest.mark.parametrize(
    "state",
    [b"", b"\xff\xfe", b"[]", b"3", b"{}", b'{"v":1,"next":2,"tracks":[]}',
     b'{"v":2,"tracks":[1],"schedule":["",0,0.0,0.0],"readings":[[1]],"classifier":""}',
     b'{"v":2,"tracks":[0],"schedule":["",0,0.0,0.0],"readings":[],"classifier":""}',
     b'{"v":2,"tracks":[1],"schedule":[],"readings":[],"classifier":""}',
     b'{"v":2,"tracks":[1],"schedule":["",0,1%s,0.0],"readings":[],"classifier":""}' % (b"0" * 400),
     b'{"v":2,"tracks":[3,[1,0,0,9,9,0,0,0,0,0]],"schedule":["",0,0.0,0.0],'
     b'"readings":[[1,0.0,[0.5,0.5],[],0.0,1.0,null,0]],"classifier":""}',
     b"[" * 200_000],
    ids=range(12),
)  # fmt: skip
def test_a_corrupt_state_says_so(state: bytes) -> None:
    with pytest.raises(ValueError, match="saved state is corrupt"):
        Memory.restore(state)


def test_no_state_is_a_new_memory() -> None:
    assert Memory.restore(None).state() == Memory().state()


@pytest.mark.parametrize("halved", [False, True])
def test_with_the_real_models_batches_and_workers_make_no_difference_either(halved: bool) -> None:
    with open_source(str(sample_clip())) as source:
        images = [one.image for _, one in zip(range(80), source.pictures(), strict=False)][50:]
    worker = real_analyst(load_detector(), 40)

    def run(*cuts: int) -> tuple[list[FrameEvent], list[bytes]]:
        if not halved:
            return analysed(worker, images, cuts)
        pictures = [reducible(image)[0] for image in images]
        for picture in pictures[: len(cuts)]:
            picture.at(1)  # nor does it make one which size is there first
        return analysed(worker, pictures, cuts)

    events, states = run()
    again, ended = run(3, 4, 11, 23)
    assert sum(len(event.faces) for event in events) > 30
    assert [[face.track_id for face in event.faces] for event in again] == [
        [face.track_id for face in event.faces] for event in events
    ]
    assert again == events
    assert list(map(remembered, ended)) == list(map(remembered, states))


def remembered(state: bytes) -> dict[str, Any]:
    """Without the thumbnail and the motion, which may differ by a level."""
    content: dict[str, Any] = json.loads(state)
    del content["schedule"][3], content["schedule"][0]
    return content


@pytest.mark.parametrize(
    ("size", "margin", "side", "second"),
    [
        (48, 0.0, 120, [2]),
        (61, 0.0, 120, [2, 1]),
        (61, 0.1, 120, [2]),
        (58, -0.1, 120, [2, 1]),
        # How sharp a face is goes by 48 pixels, however few the model takes.
        (20, 0.0, 104, [2]),
        (20, 0.0, 98, [2, 1]),
    ],
)
def test_crops_are_cut_from_half_where_it_has_the_models_pixels(
    size: int, margin: float, side: int, second: list[int]
) -> None:
    image = np.zeros((720, 1280, 3), np.uint8)
    image[100 : 100 + side, 200 : 200 + side] = 255
    pictures, made = zip(*(reducible(image) for _ in range(2)), strict=True)
    events, _ = analysed(analyst(Fine(size, margin)), pictures)
    assert [len(event.faces) for event in events] == [1, 1]
    assert list(made) == [[2, 1], second]


def test_without_a_face_nothing_is_decoded_for_one() -> None:
    picture, made = reducible(np.zeros((720, 1280, 3), np.uint8))
    picture.at(1)
    (event,), _ = analysed(analyst(), [picture])
    assert not event.faces
    assert made == [1]
