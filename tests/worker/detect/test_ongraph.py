"""The detector in graphs finds the reference's faces, whatever the picture, the size, the batch.

The reference looks at each candidate (``exact``), as facenet-pytorch does and as the graphs do.

On the CPU, or where MIEN_TEST_PROVIDER says (deploy/gpu_check.sh). On the CPU boxes and landmarks
agree within 0.01 px, scores within 0.0001. A GPU rounds otherwise, and a rounding error can move a
crop by a pixel: there each face overlaps its partner by an IoU of 0.9 or more, scores agree within
0.02, landmarks within a twentieth of the face's width; of hard pictures' faces 1 % may differ.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import cv2
import numpy as np
import pytest
from skimage import data

from tests.astronauts import saying_nothing
from worker.demo import sample_clip
from worker.detect.boxes import CELL
from worker.detect.mtcnn import load_detector
from worker.detect.ongraph import GraphDetector, load_graph_detector
from worker.detect.propose import Pyramid
from worker.device import Device
from worker.errors import ModelError

PROVIDER = os.environ.get("MIEN_TEST_PROVIDER", "cpu")
THRESHOLDS = (0.6, 0.7, 0.7)


def load(*, min_face=40, thresholds=THRESHOLDS, factor=0.709, **options):
    return load_graph_detector(
        pyramid=Pyramid(min_face, factor), thresholds=thresholds, provider=PROVIDER, **options
    )


@pytest.fixture(scope="module")
def reference():
    return load_detector(provider="cpu", exact=True)


@pytest.fixture(scope="module")
def detector():
    return load()


def composition(height, width, places):
    """Astronauts on a noisy wall: ``places`` are (left, top, side), also beyond the border."""
    wall = np.random.default_rng(0).integers(90, 120, (height, width, 3), dtype=np.uint8)
    for left, top, side in places:
        one = cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_AREA)
        one = one[max(-top, 0) : height - top, max(-left, 0) : width - left]
        wall[max(top, 0) :, max(left, 0) :][: one.shape[0], : one.shape[1]] = one
    return wall


def pictures():
    face = data.astronaut()
    crowd = [(150 * column, 150 * row, 145) for row in range(5) for column in range(8)]
    return {
        "portrait": face,
        "none": np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8),
        "flat": np.full((100, 100, 3), 127, np.uint8),
        "many": composition(750, 1200, crowd),
        "border": composition(360, 640, [(-150, -20, 380), (440, 60, 300), (250, -60, 200)]),
        "close": np.ascontiguousarray(face[0:260, 90:340]),
        "odd size": cv2.resize(face, (641, 363), interpolation=cv2.INTER_AREA),
        "runs of 32": cv2.resize(face, (512, 511), interpolation=cv2.INTER_AREA),
        "smallest": np.full((40, 40, 3), 128, np.uint8),
    }


def iou(a, b):
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clip(0).prod(-1)
    return shared / ((a[:, 2:] - a[:, :2]).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1) - shared)


def same(expected, found):
    """Whether the faces of one picture agree; see above."""
    if len(expected) != len(found):
        return False
    if PROVIDER == "cpu":
        pixels, score, overlap = 0.01, 1e-4, 0.999
    else:
        width = (expected.boxes[:, 2] - expected.boxes[:, 0])[:, None, None]
        pixels, score, overlap = width / 20, 0.02, 0.9
        # Of nearly equal scores either may come first.
        order = [np.argsort(faces.boxes[:, 0], kind="stable") for faces in (expected, found)]
        expected, found = (f.pick(o) for f, o in zip((expected, found), order, strict=True))
        width = width[order[0]]
    return bool(
        (iou(expected.boxes, found.boxes) >= overlap).all()
        and (np.abs(expected.scores - found.scores) <= score).all()
        and (np.abs(expected.landmarks - found.landmarks) <= pixels).all()
    )


# The reference's faces


@pytest.mark.parametrize("name", pictures())
def test_boxes_scores_and_landmarks_are_the_references(reference, detector, name):
    picture = pictures()[name]
    (expected,), (found,) = reference.detect([picture]), detector.detect([picture])
    at_least = {"none": 0, "flat": 0, "smallest": 0, "many": 30, "border": 2}
    assert len(expected) >= at_least.get(name, 1)
    assert same(expected, found)
    assert found.boxes.dtype == found.scores.dtype == found.landmarks.dtype == np.float32


def test_two_threads_may_look_at_once(detector):
    """As the worker's do: one detects in a batch while another follows faces in the one before."""
    images = [composition(240, 320, [(10 * i, 20, 200)]) for i in range(6)]
    detected = detector.detect(images)
    boxes = [faces.boxes for faces in detected]
    followed = detector.follow(images, boxes)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            again = (
                pool.submit(detector.detect, images),
                pool.submit(detector.follow, images, boxes),
            )
            for one, other in zip(again[0].result(), detected, strict=True):
                assert same(other, one)
            for one, other in zip(again[1].result(), followed, strict=True):
                assert same(other, one)
    assert sum(map(len, boxes)) >= 5


@pytest.mark.parametrize(
    "settings",
    [
        {"min_face": 20},
        {"min_face": 90},
        {"min_face": 30, "thresholds": (0.5, 0.6, 0.95), "factor": 0.8},
        {"min_face": CELL, "factor": 0.5},
    ],
)
def test_settings_mean_the_same(settings):
    some = [pictures()[name] for name in ("portrait", "border", "odd size")]
    expected = load_detector(provider="cpu", exact=True, **settings).detect(some)
    found = load(**settings).detect(some)
    assert sum(map(len, expected)) >= 3
    assert [same(*pair) for pair in zip(expected, found, strict=True)] == [True] * 3


def test_the_sample_clip(reference, detector):
    from worker.capture.sources import open_source

    with open_source(str(sample_clip())) as source:
        frames = [picture.image for picture in islice(source.pictures(), 0, 60, 4)]
    large = [cv2.resize(f, (1280, 720), interpolation=cv2.INTER_CUBIC) for f in frames[::5]]
    expected, found = reference.detect(frames + large), detector.detect(frames + large)
    assert sum(map(len, expected)) >= 15
    assert all(same(*pair) for pair in zip(expected, found, strict=True))


def test_real_pictures(reference, detector, data_dir):
    total = different = 0
    for path in sorted((data_dir / "faces").rglob("*.jpg"))[::4]:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        (expected,), (found,) = reference.detect([image]), detector.detect([image])
        total += len(expected)
        different += 0 if same(expected, found) else max(len(expected), len(found))
    assert total >= 50
    assert different <= 0.01 * total


# Batches


def test_a_batch_of_mixed_sizes_is_one_picture_at_a_time(detector):
    some = [*pictures().values(), np.zeros((5, 7, 3), np.uint8), *list(pictures().values())[:2]]
    alone = [detector.detect([picture])[0] for picture in some]
    assert all(same(*pair) for pair in zip(alone, detector.detect(some), strict=True))
    # More of one size than go together.
    copies = detector.detect([data.astronaut()] * 19)
    assert len(copies) == 19
    assert all(same(alone[0], faces) for faces in copies)


def test_no_pictures(detector):
    assert detector.detect([]) == []
    assert detector.follow([], []) == []


@pytest.mark.parametrize(
    "picture", [np.zeros((100, 100), np.uint8), np.zeros((100, 100, 3), np.float32)]
)
def test_what_is_not_a_picture_is_refused(detector, picture):
    with pytest.raises(ValueError, match="a picture is uint8"):
        detector.detect([data.astronaut(), picture])


class SmallDevice(Device):
    """A device that holds so many pictures at once, and notes how many it was given."""

    holds = 3
    error = "Failed to allocate memory for requested buffer of size 4096"

    def put(self, images):
        self.given = [*getattr(self, "given", []), len(images)]
        if len(images) > self.holds:
            raise RuntimeError(self.error)
        return super().put(images)


@pytest.fixture
def small(detector):
    return GraphDetector(
        SmallDevice(detector.device._table), detector._sessions,
        info=detector.info, pyramid=Pyramid(40, 0.709), thresholds=THRESHOLDS,
    )  # fmt: skip


def test_batches_are_halved_where_memory_is_short_and_stay_so(detector, small):
    some = [data.astronaut()] * 5 + [pictures()["border"]] * 2
    (face, *_, border) = detector.detect(some)
    for _ in range(2):
        found = small.detect(some)
        assert all(same(face, faces) for faces in found[:5])
        assert all(same(border, faces) for faces in found[5:])
    assert small.device.given == [5, 4, 2, 2, 1, 2, 2, 2, 1, 2]


def test_a_picture_that_does_not_fit_is_named_with_its_size(small):
    small.device.holds = 0
    with pytest.raises(ModelError, match="memory does not hold one picture of 640x360"):
        small.detect([pictures()["border"]])


def test_other_errors_of_the_runtime_are_not_taken_for_want_of_memory(small):
    small.device.holds, small.device.error = 0, "CUDNN_STATUS_EXECUTION_FAILED"
    with pytest.raises(RuntimeError, match="CUDNN"):
        small.detect([data.astronaut()] * 2)


# Following known faces


def test_faces_are_followed_as_the_reference_follows_them(reference, detector):
    some = [*pictures().values(), np.zeros((5, 7, 3), np.uint8)]
    boxes = [faces.boxes + 2 for faces in reference.detect(some)]
    boxes[-1] = np.array([[1, 1, 4, 4]], np.float32)
    expected, found = reference.follow(some, boxes), detector.follow(some, boxes)
    assert sum(map(len, expected)) >= 30
    for faces, others in zip(expected, found, strict=True):
        assert same(faces, others)


def test_boxes_that_say_nothing_give_no_face(reference, detector):
    picture = data.astronaut()
    (face,) = reference.detect([picture])[0].boxes[:1]
    (faces,) = detector.follow([picture], [saying_nothing(face)])
    assert same(reference.follow([picture], [face[None]])[0], faces)
    assert len(faces) == 1


def test_pictures_and_boxes_that_do_not_match_are_refused(detector):
    with pytest.raises(ValueError, match="1 pictures, and boxes for 0"):
        detector.follow([data.astronaut()], [])


# Opening


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(ModelError, match=r"table\.onnx"):
        load(folder=tmp_path)
    shipped = load_graph_detector.__kwdefaults__["folder"]
    for step in ("table", "scan", "refine", "decide"):
        (tmp_path / f"{step}.onnx").write_bytes((shipped / f"{step}.onnx").read_bytes())
    assert load(folder=tmp_path).info == load().info
    (tmp_path / "scan.onnx").write_bytes((shipped / "table.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"scan\.onnx is not MTCNN's graph scan"):
        load(folder=tmp_path)
