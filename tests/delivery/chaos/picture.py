"""A frame's own number and its mischief, drawn into its picture and read back from it."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np

from worker.records import Image

_SQUARES = 8
_SIDE = 8
"""A bit is one block of a JPEG: black or white, it survives the encoding."""


class Kind(IntEnum):
    PLAIN = 0
    SLOW = 1
    """Keeps the models busy for a while."""
    HANG = 2
    """The first worker that looks at it never returns; later ones pass."""
    POISON = 3
    """Ends every process that looks at it."""
    FAULTY = 4
    """The models raise an error."""
    CORRUPT = 5
    """Is no picture."""
    MISMATCH = 6
    """Its frame claims another size."""


REASONS = {
    Kind.POISON: "poison",
    Kind.FAULTY: "analysis-failed",
    Kind.CORRUPT: "corrupt",
    Kind.MISMATCH: "size-mismatch",
}
"""The bad frames, and what their dead letters say."""

_SHARES = {
    Kind.SLOW: 0.01,
    Kind.CORRUPT: 0.005,
    Kind.MISMATCH: 0.005,
    Kind.FAULTY: 0.005,
    Kind.HANG: 0.0003,
    Kind.POISON: 0.0003,
}
_SOON = (Kind.POISON, Kind.CORRUPT, Kind.HANG, Kind.FAULTY, Kind.MISMATCH, Kind.SLOW)
"""Shared out to the feeds' first frames, so that a short run meets them all."""
_FIRST, _STEP = 10, 15


@dataclass(frozen=True, slots=True)
class Mark:
    """What a picture says of itself."""

    feed: int
    writer: int
    """The how manieth writer process of its feed pushed it, from 1."""
    sequence: int
    kind: Kind


def kind_of(seed: int, feeds: int, feed: int, writer: int, sequence: int) -> Kind:
    """What the frame is to be: the same in every run with the same seed."""
    planned = _SOON[feed::feeds]
    place, rest = divmod(sequence - _FIRST, _STEP)
    if writer == 1 and rest == 0 and 0 <= place < len(planned):
        return planned[place]
    kinds: Sequence[Kind] = (Kind.PLAIN, *_SHARES)
    weights = (1 - sum(_SHARES.values()), *_SHARES.values())
    return random.Random(f"{seed} {feed} {writer} {sequence}").choices(kinds, weights)[0]


def draw(mark: Mark) -> bytes:
    """The JPEG picture, 64x64; no picture for :attr:`Kind.CORRUPT`."""
    if mark.kind is Kind.CORRUPT:
        return b"\xff\xd8 once a picture"
    bits = np.unpackbits(np.frombuffer(_packed(mark), np.uint8)).reshape(_SQUARES, _SQUARES)
    image = np.kron(bits * np.uint8(255), np.ones((_SIDE, _SIDE), np.uint8))
    return cv2.imencode(".jpg", image)[1].tobytes()


def read(image: Image) -> Mark | None:
    """What was drawn; None for another picture."""
    if image.shape != (_SQUARES * _SIDE, _SQUARES * _SIDE, 3):
        return None
    bits = image[_SIDE // 2 :: _SIDE, _SIDE // 2 :: _SIDE, 0] > 127
    packed = np.packbits(bits).tobytes()
    if packed[0] not in list(Kind):
        return None
    mark = Mark(
        kind=Kind(packed[0]),
        feed=packed[1],
        writer=int.from_bytes(packed[2:4]),
        sequence=int.from_bytes(packed[4:7]),
    )
    return mark if packed == _packed(mark) else None


def _packed(mark: Mark) -> bytes:
    """Eight bytes, the last one a checksum."""
    body = bytes([mark.kind, mark.feed])
    body += mark.writer.to_bytes(2) + mark.sequence.to_bytes(3)
    return body + (zlib.crc32(body) & 0xFF).to_bytes()
