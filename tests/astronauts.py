"""Pictures with real faces, scikit-image's astronaut (NASA, public domain) and compositions of it;
and how alike are the faces found in them."""

from __future__ import annotations

import cv2
import numpy as np
from skimage import data


def composition(height, width, places):
    """Astronauts on a grey wall: ``places`` are (left, top, side, mirrored)."""
    wall = np.full((height, width, 3), 90, np.uint8)
    wall += np.random.default_rng(0).integers(0, 30, wall.shape, dtype=np.uint8)
    for left, top, side, mirrored in places:
        one = cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_AREA)
        one = one[:, ::-1] if mirrored else one
        room = wall[max(top, 0) : top + side, max(left, 0) : left + side]
        one = one[max(-top, 0) :, max(-left, 0) :]
        room[...] = one[: room.shape[0], : room.shape[1]]
    return wall


def astronauts():
    """Name -> picture, all with faces; one face is cut by the border, one is small."""
    face = data.astronaut()
    return {
        "portrait": face,
        "mirrored": np.ascontiguousarray(face[:, ::-1]),
        "360p": cv2.resize(face, (640, 360), interpolation=cv2.INTER_AREA),
        "enlarged": cv2.resize(face, (900, 900), interpolation=cv2.INTER_LINEAR),
        "three": composition(
            480, 854, [(0, 0, 400, False), (380, 200, 260, True), (640, 10, 210, False)]
        ),
        "cut": composition(360, 640, [(-150, -20, 380, False), (440, 60, 300, True)]),
        "close": np.ascontiguousarray(face[0:260, 90:340]),
    }


def overlap(a, b):
    """Intersection over union of two boxes (4,)."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = (high - low).clip(0).prod()
    return shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


def assert_same(a, b, atol=1e-3):
    assert len(a) == len(b)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=atol)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
    np.testing.assert_allclose(a.landmarks, b.landmarks, atol=atol)


def saying_nothing(face):
    """Boxes of the portrait that are no place to look, and its ``face`` behind them."""
    left, top, right, bottom = face
    odd = [
        [np.nan, top, right, bottom], [left, top, np.inf, bottom], [right, top, left, bottom],
        [left, top, left, bottom], [-900, -900, -800, -800], [5000, 5000, 5100, 5100], face,
    ]  # fmt: skip
    return np.array(odd, np.float32)
