"""A picture with one face in it, on which a worker can try its models."""

from __future__ import annotations

from importlib import resources

import cv2
import numpy as np

from worker.records import Image

_FACE = 100
"""About the side of the face in portrait.jpg, in pixels."""


def portrait_with_face(side: int) -> Image:
    """The portrait (RGB), scaled so that its face has about ``side`` pixels."""
    data = (resources.files("worker.sample") / "portrait.jpg").read_bytes()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None, "portrait.jpg is part of the package"
    scale = side / _FACE
    scaled = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(scaled, np.uint8)
