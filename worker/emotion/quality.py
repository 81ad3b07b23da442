"""How fit a face is for the classifier: its size, its sharpness, and how it is turned.

Each curve below is what the shipped classifier's accuracy on FER2013's PublicTest does as faces get
smaller, more blurred, more averted or more tilted: 1 where it is as good as on sharp frontal faces,
0 where it does no better than guessing. Their product predicts it within 8 points of a hundred for
faces that are both small and blurred, too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.emotion.align import Form
from worker.records import Detections, Floats

Sharpness = npt.NDArray[np.float64]
"""(N,): of N faces, see :func:`sharpness`."""

JUDGED = Form(size=48, margin=-0.06, colour="gray")
"""The crops whose sharpness is measured, whatever the model's are: the curve was, with these."""

FLAT = 0.1
"""A mean square of the gradient below this is that of a crop of one colour."""

_SIZE = ((12, 16, 20, 24, 28, 32, 40), (0.16, 0.45, 0.73, 0.92, 0.96, 0.99, 1.0))
"""Pixels of the picture that the crop's side covers; what few of them cost beyond sharpness."""
_SHARPNESS = ((0.13, 0.21, 0.31, 0.57, 0.85, 1.5), (0.0, 0.18, 0.49, 0.85, 0.94, 1.0))
"""Curvature over slope of the grey levels, each squared; see ``sharpness``."""
_YAW = ((0.08, 0.14), (1.0, 0.83))
"""How far the nose lies beside the face's middle line, in parts of the face. Measured up to 0.5."""
_ROLL = ((5, 15, 20, 30, 45), (1.0, 0.97, 0.91, 0.8, 0.54))
"""Degrees of the line through the eyes."""


def quality(sharp: Sharpness, faces: Detections, margin: float) -> Floats:
    """(N,) from 0 to 1 for N faces of any pictures.

    Args:
        sharp: (N,), their crops' :func:`sharpness`.
        faces: what they were cut by, in the same order.
        margin: that of the model's crops.
    """
    extent = (faces.boxes[:, 2:] - faces.boxes[:, :2]).max(axis=1, initial=0) * (1 + margin)
    yaw, roll = _turn(faces.landmarks.astype(np.float64))
    detail = np.interp(extent, *_SIZE) * np.interp(sharp, *_SHARPNESS)
    turn = np.interp(yaw, *_YAW) * np.interp(roll, *_ROLL)
    return np.asarray(detail * turn, np.float32)


def sharpness(crops: npt.NDArray[np.uint8]) -> Sharpness:
    """(N, S, S, 1) -> (N,): mean square of the Laplacian over that of the gradient.

    Contrast takes itself out; what remains falls with the width of the finest edges. 0 for a crop
    of one colour. Of crops that ``crop_faces`` has cut as JUDGED says.
    """
    grey = crops[..., 0].astype(np.float32)
    inner = grey[:, 1:-1, 1:-1]
    across = grey[:, 1:-1, 2:] - inner
    down = grey[:, 2:, 1:-1] - inner
    curvature = across + down + grey[:, 1:-1, :-2] + grey[:, :-2, 1:-1] - 2 * inner
    slope = (across * across + down * down).mean(axis=(1, 2))
    flat = slope < FLAT
    sharp = (curvature * curvature).mean(axis=(1, 2)) / np.where(flat, 1, slope)
    return np.where(flat, 0.0, sharp).astype(np.float64)


def _turn(landmarks: npt.NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Yaw, in parts of the face, and roll, in degrees, of landmarks (N, 5, 2); both absolute."""
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks.transpose(1, 0, 2)
    eyes, middle = right_eye - left_eye, (left_eye + right_eye) / 2
    down = (left_mouth + right_mouth) / 2 - middle
    width, height = np.hypot(*eyes.T), np.hypot(*down.T)
    beside = np.abs((nose - middle)[:, 0] * down[:, 1] - (nose - middle)[:, 1] * down[:, 0])
    yaw = beside / np.maximum(height * np.maximum(width, height), 1e-9)
    roll = np.abs(np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0])))
    return yaw, roll
