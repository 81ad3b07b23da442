"""Searching for faces around boxes: windows of pictures, and faces back in the picture's pixels.

Real faces are scikit-image's astronaut (NASA, public domain).
"""

import cv2
import numpy as np
import pytest
from skimage import data

from tests.astronauts import overlap
from tests.pictures import reducible
from worker.detect.mtcnn import load_detector
from worker.detect.near import detect_near
from worker.picture import FramePicture

MIN_FACE = 40


@pytest.fixture(scope="module")
def detector():
    return load_detector(provider="cpu", min_face=MIN_FACE)


def picture(height, width, *places):
    """Astronauts on a grey wall: ``places`` are (left, top, side)."""
    wall = np.full((height, width, 3), 90, np.uint8)
    for left, top, side in places:
        one = cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_AREA)
        room = wall[max(top, 0) : top + side, max(left, 0) : left + side]
        one = one[max(-top, 0) :, max(-left, 0) :]
        room[...] = one[: room.shape[0], : room.shape[1]]
    return wall


def near(detector, image, *boxes):
    picture = image if isinstance(image, FramePicture) else FramePicture.of(image)
    return detect_near(detector, [picture] * len(boxes), np.array(boxes, np.float32), MIN_FACE)


@pytest.mark.parametrize("side", [210, 500, 1000])
@pytest.mark.parametrize("moved", [(0.0, 0.0), (0.7, -0.3), (-0.5, 0.7)])
def test_a_face_that_moved_is_found_where_it_is(detector, side, moved):
    image = picture(1100, 1300, (150, 60, side))
    (known,) = detector.detect([image])[0].boxes
    extent = (known[2:] - known[:2]).max()
    (found,) = near(detector, image, known + np.tile(moved, 2) * extent)
    assert len(found) == 1
    assert overlap(found.boxes[0], known) > 0.7
    # The landmarks belong to the face, and the eyes lie above the mouth.
    assert (found.landmarks[0] > known[:2]).all()
    assert (found.landmarks[0] < known[2:]).all()
    assert found.landmarks[0, :2, 1].max() < found.landmarks[0, 3:, 1].min()


@pytest.mark.parametrize("corner", [(-60, -20), (390, -15), (-60, 200)])
def test_a_face_at_the_edge_of_the_picture_is_found(detector, corner):
    image = picture(360, 640, (*corner, 300))
    whole = detector.detect([image])[0].boxes
    assert len(whole) == 1
    (found,) = near(detector, image, whole[0])
    assert len(found) == 1
    assert overlap(found.boxes[0], whole[0]) > 0.6


def test_a_picture_smaller_than_the_window_is_seen_whole(detector):
    image = np.ascontiguousarray(data.astronaut()[0:260, 90:340])
    (known,) = detector.detect([image])[0].boxes
    (found,) = near(detector, image, known)
    assert len(found) == 1
    assert overlap(found.boxes[0], known) > 0.7


def test_nothing_is_said_of_a_face_that_the_window_cuts(detector):
    image = picture(300, 900, (200, 0, 300))
    (known,) = detector.detect([image])[0].boxes
    extent = known[3] - known[1]
    # The window, three sides wide, ends a little beyond the face's middle.
    end = (known[0] + known[2]) / 2 + 0.15 * extent
    window = image[:, round(end - 3 * extent) : round(end)]
    assert len(detector.detect([np.ascontiguousarray(window)])[0]) == 1
    middle = end - 1.5 * extent
    box = (middle - extent / 2, known[1], middle + extent / 2, known[3])
    assert len(near(detector, image, box)[0]) == 0


def test_each_box_has_its_own_answer(detector):
    image = picture(300, 1500, (0, 0, 300), (1100, 0, 300))
    first, second = sorted(detector.detect([image])[0].boxes.tolist())
    nowhere = (700, 100, 760, 170)
    found = near(detector, image, second, nowhere, first)
    assert [len(faces) for faces in found] == [1, 0, 1]
    assert overlap(found[0].boxes[0], np.array(second)) > 0.7
    assert overlap(found[2].boxes[0], np.array(first)) > 0.7


def test_a_box_outside_the_picture_is_looked_for_at_its_edge(detector):
    image = picture(300, 600)
    for box in ((-500, -500, -400, -400), (2000, 50, 2100, 150), (10, 10, 10, 10)):
        assert len(near(detector, image, box)[0]) == 0


@pytest.mark.parametrize(("side", "halves"), [(500, False), (1000, True)])
def test_where_half_the_size_has_the_pixels_the_whole_is_not_made(detector, side, halves):
    image = picture(1100, 1301, (150, 60, side))
    first, made = reducible(image)
    (known,) = detector.detect([image])[0].boxes
    (found,) = near(detector, first, known)
    assert overlap(found.boxes[0], known) > 0.7
    assert made == ([2] if halves else [1])
