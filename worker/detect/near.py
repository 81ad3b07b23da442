"""A search for faces that are lost sight of: the detector, on a small window around each.

A face that moved faster than it can be followed, or turned away for a moment, is mostly close to
where it was. The window is resized until the face should be a little larger than the smallest that
the detector finds, so that the search costs the same for faces and pictures of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from worker.detect.mtcnn import Detector
from worker.picture import FramePicture, smallest
from worker.records import Detections, Floats, Image

_SIDES = 3.0
"""Side of a window, in sides of the face: one that moved by its own side is seen whole."""

_FACE = 1.5
"""Side of that face in the window, in smallest ones: one that has become smaller is seen, too."""

_PIXELS = 180_000
"""Pixels of a picture whose full detection takes as long as a window's, beyond its first ones."""


def windows_worth(pixels: int) -> int:
    """So many windows take as long as a picture with ``pixels``: for more, search all of it."""
    return 1 + pixels // _PIXELS


def detect_near(
    detector: Detector, pictures: Sequence[FramePicture], boxes: Floats, min_face: float
) -> list[Detections]:
    """The faces around each box (N, 4) in its picture, N as well, some perhaps repeatedly.

    Of a face that lies partly outside the window nothing is said. Boxes are as fine as the window
    is: where that was shrunk, coarser than those of full detection.

    Args:
        min_face: side of the smallest face that the detector finds, in pixels.
    """
    side = round(_SIDES * _FACE * min_face)
    cut = [_cut(picture, box, side) for picture, box in zip(pictures, boxes, strict=True)]
    found = detector.detect([window for window, _ in cut])
    return [_whole(faces, piece) for faces, (_, piece) in zip(found, cut, strict=True)]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Which piece of a picture a window shows."""

    corner: Floats
    """(2,): x, y of its left top corner in the picture."""
    pitch: Floats
    """(2,): pixels of the picture for one of the window, in x and y."""
    inner: npt.NDArray[np.bool_]
    """(4,): whether the picture goes on beyond its left, top, right, bottom edge."""
    extent: Floats
    """(2,): its width and height in pixels of the window, which may be larger."""


def _cut(picture: FramePicture, box: Floats, side: int) -> tuple[Image, _Piece]:
    """A window (side, side, 3) around the box, moved so that it lies inside the picture.

    All windows are of one shape, as a GPU likes it: black where the picture is too small for it.
    """
    scale = picture.scale_for(smallest(box[None]), side / _SIDES)
    image, box = picture.at(scale), np.asarray(box / scale, np.float32)
    wanted = _SIDES * max(float((box[2:] - box[:2]).max()), 1.0)
    limits = np.array(image.shape[1::-1])
    shown = np.minimum(np.ceil(wanted), limits).astype(np.int64)
    middle = (box[:2] + box[2:]) / 2
    corner = np.clip(np.rint(middle - shown / 2), 0, limits - shown).astype(np.int64)
    extent = np.clip(np.rint(shown * (side / wanted)), 1, side).astype(np.int64)
    (left, top), (right, bottom), (width, height) = corner, corner + shown, extent
    window = np.zeros((side, side, 3), np.uint8)
    # Twice as many pixels as are wanted are enough to average over.
    step = max(1, int(wanted / side / 2))
    window[:height, :width] = cv2.resize(
        np.ascontiguousarray(image[top:bottom:step, left:right:step]),
        (int(width), int(height)),
        interpolation=cv2.INTER_AREA if side < wanted else cv2.INTER_LINEAR,
    )
    inner = np.concatenate([corner > 0, corner + shown < limits])
    places = scale * corner, scale * shown / extent, extent
    floats = [np.asarray(each, np.float32) for each in places]
    return window, _Piece(floats[0], floats[1], inner, floats[2])


def _whole(faces: Detections, piece: _Piece) -> Detections:
    """In pixels of the picture, without those cut by an edge beyond which it goes on."""
    beyond = np.concatenate([faces.boxes[:, :2] < 0, faces.boxes[:, 2:] > piece.extent], axis=1)
    faces = faces.pick(np.logical_not(np.any(beyond & piece.inner, axis=1)))
    points = np.concatenate([faces.boxes.reshape(-1, 2, 2), faces.landmarks], axis=1)
    placed = np.asarray(points * piece.pitch + piece.corner, np.float32)
    return Detections(placed[:, :2].reshape(-1, 4), faces.scores, placed[:, 2:])
