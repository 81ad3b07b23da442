"""Quality falls with what makes the classifier err; on drawn faces, and on a real portrait."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from worker.detect.mtcnn import load_detector
from worker.emotion import quality as judged
from worker.emotion.align import crop_faces
from worker.emotion.quality import sharpness
from worker.records import Detections, Floats, Image
from worker.sample.portrait import portrait_with_face

FRONTAL = [[30.0, 40.0], [70.0, 40.0], [50.0, 60.0], [35.0, 80.0], [65.0, 80.0]]


def quality(crops: Image, faces: Detections, margin: float) -> Floats:
    return judged.quality(sharpness(crops), faces, margin)


def face(landmarks: list[list[float]] = FRONTAL, side: float = 100.0) -> Detections:
    return Detections(
        np.array([[0, 0, side, side]], np.float32),
        np.ones(1, np.float32),
        np.array([landmarks], np.float32),
    )


def texture() -> Image:
    return np.random.default_rng(0).integers(0, 256, (1, 48, 48, 1), np.uint8)


def turned(degrees: float) -> list[list[float]]:
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found: list[list[float]] = ((np.array(FRONTAL) - 50) @ matrix.T + 50).tolist()
    return found


def blurred(crops: Image, deviation: float) -> Image:
    soft = cv2.GaussianBlur(crops[0, :, :, 0], (0, 0), deviation)
    return np.asarray(soft, np.uint8)[None, :, :, None]


def test_a_sharp_large_frontal_face_is_of_full_quality() -> None:
    assert quality(texture(), face(), 0.0) == pytest.approx([1.0])


def test_quality_falls_with_blur_whatever_the_contrast() -> None:
    patches = texture()[:, :8, :8].repeat(6, 1).repeat(6, 2)
    found = [quality(blurred(patches, d), face(), 0.0)[0] for d in (0.3, 0.8, 1.0, 1.5, 2.0, 3.0)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.2 < 0.8 < found[0]
    faint = (patches.astype(np.float32) * 0.3).round().astype(np.uint8)
    assert quality(blurred(faint, 1.0), face(), 0.0) == pytest.approx(found[2:3], abs=0.1)


def test_quality_falls_with_size_and_the_margin_counts() -> None:
    found = [quality(texture(), face(side=side), 0.0)[0] for side in (48, 28, 20, 16, 12)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.9
    assert found[-1] < 0.2
    wider = quality(texture(), face(side=20), 0.4)
    assert wider == pytest.approx(quality(texture(), face(side=28), 0.0))


def test_quality_falls_with_roll_and_yaw() -> None:
    tilted = [quality(texture(), face(turned(d)), 0.0)[0] for d in (0, -15, 25, -40, 60)]
    assert tilted == sorted(tilted, reverse=True)
    assert tilted[-1] < 0.6
    averted = [*FRONTAL[:2], [65.0, 60.0], *FRONTAL[3:]]
    assert quality(texture(), face(averted), 0.0) < 0.9


def test_a_tilted_head_is_not_taken_for_an_averted_one() -> None:
    assert quality(texture(), face(turned(10)), 0.0) > 0.95


def test_a_crop_of_one_colour_is_of_no_quality() -> None:
    assert quality(np.full((1, 48, 48, 1), 128, np.uint8), face(), 0.0) == [0.0]


def test_no_faces_have_no_qualities() -> None:
    assert quality(np.zeros((0, 48, 48, 1), np.uint8), Detections.none(), 0.0).shape == (0,)


def test_landmarks_that_fall_together_give_a_number() -> None:
    found = quality(texture(), face([[5, 5]] * 5), 0.0)
    assert np.isfinite(found).all()


def test_a_portrait_out_of_focus_or_far_away_is_worse_than_itself() -> None:
    sharp = portrait_with_face(120)
    far = cv2.resize(sharp, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    versions = {
        "sharp": sharp,
        "soft": cv2.GaussianBlur(sharp, (0, 0), 4),
        "far": cv2.resize(far, sharp.shape[1::-1], interpolation=cv2.INTER_LINEAR),
    }
    (found,) = load_detector().detect([sharp])
    told = {}
    for name, image in versions.items():
        crops = crop_faces(np.asarray(image), found.boxes, size=48, margin=-0.06, colour="gray")
        (told[name],) = quality(crops, found, -0.06).tolist()
    assert told["sharp"] > 0.8
    assert told["soft"] < 0.7 * told["sharp"]
    assert told["far"] < 0.95 * told["sharp"]
