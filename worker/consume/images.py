"""A frame's bytes -> its picture. The size is judged from the header, before memory is taken."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np

from worker.config import MAX_PIXELS
from worker.errors import EntryError
from worker.picture import FramePicture, Scale
from worker.records import Encoding, Frame, Image

# Start-of-frame markers of the JPEG processes that the decoder knows: baseline, extended and
# progressive Huffman (ITU-T T.81, table B.1).
_START_OF_FRAME = {0xC0, 0xC1, 0xC2}
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_START_OF_SCAN = 0xDA

_WORTH_REDUCING = 500_000
"""Pixels of a picture from which half its size is so much cheaper that both may be decoded."""

_WHOLE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# OpenCV has names for half the size in BGR and in grey; the latter is the mere bit for half.
_FLAGS: dict[Scale, int] = {1: _WHOLE, 2: _WHOLE | cv2.IMREAD_REDUCED_GRAYSCALE_2}


def decode_picture(frame: Frame, max_pixels: int = MAX_PIXELS) -> Image:
    """The picture of ``frame``: (height, width, 3), RGB, uint8, contiguous.

    Raises:
        EntryError: as :func:`open_picture`.
    """
    return open_picture(frame, max_pixels).whole


def open_picture(
    frame: Frame, max_pixels: int = MAX_PIXELS, *, first: Scale | None = None
) -> FramePicture:
    """The picture of ``frame``, contiguous.

    Args:
        max_pixels: a larger one is not decoded.
        first: the scale at which a large JPEG is decoded now, the other one when it is asked for;
            None: it is needed whole.

    Raises:
        EntryError: the data is not of the encoding it claims or is broken (``corrupt``), its
            size is not what the frame says (``size-mismatch``), or it has more than
            ``max_pixels`` pixels (``too-large``).
    """
    if frame.encoding is Encoding.JPEG:
        width, height = jpeg_size(frame.data)
    else:
        width, height = frame.width, frame.height
        if len(frame.data) != width * height * 3 or not frame.data:
            raise EntryError(
                "size-mismatch",
                f"{len(frame.data)} bytes are not a {width}x{height} picture "
                f"in {frame.encoding.value}",
            )
    if width * height > max_pixels:
        raise EntryError(
            "too-large", f"a picture of {width}x{height} has more than {max_pixels} pixels"
        )
    if (frame.width or width, frame.height or height) != (width, height):
        raise EntryError(
            "size-mismatch",
            f"the frame says {frame.width}x{frame.height}, its picture is {width}x{height}",
        )
    if frame.encoding is Encoding.JPEG:
        if first is None or width * height < _WORTH_REDUCING:
            return FramePicture.of(_decode_jpeg(frame.data, 1))
        picture = FramePicture(height, width, decode=partial(_decode_jpeg, frame.data))
        picture.at(first)
        return picture
    image = np.frombuffer(frame.data, np.uint8).reshape(height, width, 3)
    if frame.encoding is Encoding.BGR24:
        image = np.ascontiguousarray(image[:, :, ::-1])
    return FramePicture.of(image)


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) from a JPEG's header.

    Raises:
        EntryError: ``corrupt``, there is no such header.
    """
    if data[:2] != b"\xff\xd8":
        raise EntryError("corrupt", "the data is not a JPEG picture")
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _STANDALONE:
            at += 2
        elif marker in _START_OF_FRAME:
            height = int.from_bytes(data[at + 5 : at + 7])
            width = int.from_bytes(data[at + 7 : at + 9])
            if width == 0 or height == 0:
                raise EntryError("corrupt", f"the JPEG picture is {width}x{height}")
            return width, height
        elif marker == _START_OF_SCAN:
            break
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    raise EntryError("corrupt", "the JPEG picture has no header that can be read")


def _decode_jpeg(data: bytes, scale: Scale) -> Image:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS[scale])
    except cv2.error as error:
        raise EntryError("corrupt", f"the JPEG picture cannot be decoded: {error.err}") from None
    if image is None:
        raise EntryError("corrupt", "the JPEG picture cannot be decoded")
    return image.astype(np.uint8, copy=False)
