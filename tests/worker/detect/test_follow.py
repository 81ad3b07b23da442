"""Known faces are followed from picture to picture, and none is seen where there is none."""

import numpy as np
import pytest
from skimage import data

import worker.detect.cascade as cascade
import worker.detect.mtcnn as mtcnn
from tests.astronauts import assert_same, astronauts, overlap, saying_nothing
from worker.cores import Cores
from worker.detect.mtcnn import load_detector


@pytest.fixture(scope="module")
def detector():
    return load_detector(provider="cpu")


def test_faces_are_followed_where_detection_finds_them(detector):
    pictures = list(astronauts().values())
    found = detector.detect(pictures)
    followed = detector.follow(pictures, [faces.boxes for faces in found])
    assert len(followed) == len(pictures)
    for faces, detected in zip(followed, found, strict=True):
        assert (np.diff(faces.scores) <= 0).all()
        nearest = [
            max(range(len(detected)), key=lambda i, box=box: overlap(box, detected.boxes[i]))
            for box in faces.boxes
        ]
        assert 0 in nearest  # the best face
        assert len(set(nearest)) == len(faces)
        for i, box in zip(nearest, faces.boxes, strict=True):
            assert overlap(box, detected.boxes[i]) >= 0.7
    # What was barely a face to the detector may be none to the O-Net alone.
    assert sum(map(len, followed)) >= 0.8 * sum(map(len, found))


def test_a_face_that_has_moved_is_followed(detector):
    picture = data.astronaut()
    (before,) = detector.detect([picture])
    moved = np.roll(picture, (12, -15), axis=(0, 1))
    (after,) = detector.follow([moved], [before.boxes])
    assert len(after) == 1
    assert overlap(after.boxes[0], before.boxes[0] + [-15, 12, -15, 12]) >= 0.8
    np.testing.assert_allclose(after.landmarks, before.landmarks + np.array([-15, 12]), atol=6)


def test_where_no_face_is_none_is_followed(detector):
    picture = data.astronaut()
    boxes = np.array([[330, 300, 420, 400], [0, 400, 60, 470], [20, 20, 70, 80]], np.float32)
    (faces,) = detector.follow([picture], [boxes])
    assert len(faces) == 0


def test_two_boxes_on_one_face_give_one(detector):
    picture = data.astronaut()
    box = detector.detect([picture])[0].boxes[:1]
    boxes = np.concatenate([box + 300, box, box + 6])
    (faces,) = detector.follow([picture], [boxes])
    assert len(faces) == 1
    assert overlap(faces.boxes[0], box[0]) >= 0.7


def test_boxes_that_say_nothing_give_no_face(detector):
    picture = data.astronaut()
    (face,) = detector.detect([picture])[0].boxes[:1]
    (faces,) = detector.follow([picture], [saying_nothing(face)])
    assert_same(faces, detector.follow([picture], [face[None]])[0])
    assert len(faces) == 1


def test_following_in_a_batch_is_following_one_at_a_time(detector, monkeypatch):
    pictures = [*astronauts().values(), np.zeros((5, 7, 3), np.uint8), data.astronaut()]
    boxes = [faces.boxes for faces in detector.detect(pictures)]
    boxes[7] = np.array([[1, 1, 4, 4]], np.float32)
    boxes[2] = np.zeros((0, 4), np.float32)
    alone = [detector.follow([p], [b])[0] for p, b in zip(pictures, boxes, strict=True)]
    assert [len(faces) > 0 for faces in alone] == [True] * 2 + [False] + [True] * 4 + [
        False,
        True,
    ]
    together = detector.follow(pictures, boxes)
    monkeypatch.setattr(cascade, "_CROPS_AT_ONCE", 2)
    monkeypatch.setattr(mtcnn, "_FACES_TOGETHER", 3)
    split = load_detector(provider="cpu", cores=Cores(2)).follow(pictures, boxes)
    for faces, *others in zip(alone, together, split, strict=True):
        for other in others:
            assert_same(other, faces)


def test_following_nothing(detector):
    none = np.zeros((0, 4), np.float32)
    assert detector.follow([], []) == []
    (faces,) = detector.follow([data.astronaut()], [none])
    assert len(faces) == 0


def test_pictures_and_boxes_that_do_not_match_are_refused(detector):
    with pytest.raises(ValueError, match="1 pictures, and boxes for 0"):
        detector.follow([data.astronaut()], [])
    with pytest.raises(ValueError, match="a picture is uint8"):
        detector.follow([np.zeros((9, 9), np.uint8)], [np.zeros((0, 4), np.float32)])


def test_faces_of_a_real_video_are_followed(detector, data_dir):
    from worker.capture.sources import open_source

    with open_source(str(data_dir / "videos" / "asl_book.mkv")) as source:
        pictures = [picture.image for picture in source.pictures()][:40]
    found = detector.detect(pictures)
    followed = detector.follow(pictures[1:], [faces.boxes for faces in found[:-1]])
    overlaps = [
        max((overlap(box, other) for other in faces.boxes), default=0)
        for faces, expected in zip(followed, found[1:], strict=True)
        for box in expected.boxes
    ]
    assert len(overlaps) >= 35
    assert np.mean(np.array(overlaps) >= 0.5) >= 0.97
    assert np.mean(overlaps) >= 0.88
