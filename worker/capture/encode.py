"""Pictures to bytes for the wire."""

from __future__ import annotations

import cv2

from worker.errors import SettingsError
from worker.records import Image


def check_quality(quality: int) -> None:
    """Refuse a quality before the first picture is there.

    Raises:
        SettingsError: ``quality`` is not within 1 to 100.
    """
    if not 1 <= quality <= 100:
        raise SettingsError(f"the JPEG quality must be within 1 to 100, not {quality}")


def encode_jpeg(image: Image, quality: int = 85) -> bytes:
    """Encode a picture (height, width, 3), RGB, as a baseline JPEG.

    Raises:
        SettingsError: ``quality`` is not within 1 to 100, or the picture has no pixels or more than
            65,500 in a row or column, which JPEG cannot hold.
    """
    check_quality(quality)
    height, width = image.shape[:2]
    if not (0 < height <= 65_500 and 0 < width <= 65_500):
        raise SettingsError(f"a picture of {width}x{height} does not fit into a JPEG")
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    good, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not good:
        raise SettingsError(f"OpenCV refused to encode a picture of {width}x{height} as JPEG")
    return data.tobytes()
