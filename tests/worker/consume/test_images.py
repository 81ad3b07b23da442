"""A frame's bytes -> its picture: what is taken, and what is refused before memory is."""

from __future__ import annotations

import dataclasses
import io
import struct
from datetime import UTC, datetime
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image as Pillow

from worker.consume.images import decode_picture, jpeg_size, open_picture
from worker.errors import EntryError
from worker.picture import Scale
from worker.records import Encoding, Frame


def frame(
    data: bytes, encoding: Encoding = Encoding.JPEG, width: int = 0, height: int = 0
) -> Frame:
    return Frame(
        "f", "s", 0, datetime(2026, 1, 1, tzinfo=UTC), 0, Fraction(1), width, height, encoding, data
    )


def orange(
    mode: str, kind: str = "JPEG", size: tuple[int, int] = (40, 30), **options: int
) -> bytes:
    """A picture that is orange on the left and dark blue on the right."""
    picture = Pillow.new("RGB", size, (250, 140, 20))
    picture.paste((10, 20, 90), (size[0] // 2, 0, *size))
    out = io.BytesIO()
    picture.convert(mode).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_colours_come_out_as_rgb(mode: str) -> None:
    image = decode_picture(frame(orange(mode, quality=95)))
    assert image.shape == (30, 40, 3)
    assert np.abs(image[15, 5].astype(int) - (250, 140, 20)).max() < 16
    assert np.abs(image[15, 35].astype(int) - (10, 20, 90)).max() < 16


def test_grey_becomes_three_equal_channels() -> None:
    image = decode_picture(frame(orange("L")))
    assert image.shape == (30, 40, 3)
    assert (image[..., 0] == image[..., 2]).all()


def test_progressive_and_one_pixel_pictures_are_pictures() -> None:
    assert decode_picture(frame(orange("RGB", progressive=1))).shape == (30, 40, 3)
    assert decode_picture(frame(orange("RGB", size=(1, 1)))).shape == (1, 1, 3)


def test_an_exif_orientation_is_the_writers_business() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Pillow.new("RGB", (40, 30)).save(out, "JPEG", exif=exif)
    assert decode_picture(frame(out.getvalue(), width=40, height=30)).shape == (30, 40, 3)


def test_raw_pixels_in_either_order() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    rgb = decode_picture(frame(pixels.tobytes(), Encoding.RGB24, 3, 2))
    bgr = decode_picture(frame(pixels.tobytes(), Encoding.BGR24, 3, 2))
    assert (rgb == pixels).all()
    assert (bgr == pixels[..., ::-1]).all()
    assert bgr.flags.c_contiguous


GOOD = orange("RGB", size=(400, 300))
HUGE = bytearray(GOOD)
HUGE[(at := GOOD.find(b"\xff\xc0") + 5) : at + 4] = struct.pack(">HH", 20_000, 20_000)
FLAT = bytearray(GOOD)
FLAT[at : at + 4] = struct.pack(">HH", 0, 400)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (frame(b"\x00"), "corrupt"),
        (frame(b"\xff\xd8"), "corrupt"),
        (frame(b"\xff\xd8" + b"\xff" * 50), "corrupt"),
        (frame(GOOD[: len(GOOD) // 3]), "corrupt"),
        (frame(GOOD[:200]), "corrupt"),
        (frame(orange("RGBA", "PNG")), "corrupt"),
        (frame(bytes(HUGE)), "too-large"),
        (frame(bytes(FLAT)), "corrupt"),
        (frame(GOOD, width=300, height=400), "size-mismatch"),
        (frame(bytes(10), Encoding.RGB24, 3, 2), "size-mismatch"),
        (frame(b"", Encoding.BGR24, 0, 0), "size-mismatch"),
    ],
)
def test_what_is_no_picture_is_refused(broken: Frame, reason: str) -> None:
    with pytest.raises(EntryError) as error:
        decode_picture(broken)
    assert error.value.reason == reason
    assert "\n" not in str(error.value)


def test_a_smaller_limit_may_be_set() -> None:
    good = dataclasses.replace(frame(GOOD), width=400, height=300)
    assert decode_picture(good, max_pixels=400 * 300).shape == (300, 400, 3)
    with pytest.raises(EntryError, match="400x300"):
        decode_picture(good, max_pixels=400 * 300 - 1)


@pytest.mark.parametrize("cut", range(0, 700, 7))
def test_no_cut_of_a_header_can_crash_the_parser(cut: int) -> None:
    """Whole up to the picture's size, or refused: nothing else."""
    if cut >= at + 4:
        assert jpeg_size(GOOD[:cut]) == (400, 300)
    else:
        with pytest.raises(EntryError, match="JPEG"):
            jpeg_size(GOOD[:cut])


SCALES: tuple[Scale, ...] = (1, 2)
LARGE = orange("RGB", size=(1281, 721), quality=95)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_a_large_jpeg_may_be_decoded_at_half_its_size(mode: str) -> None:
    data = orange(mode, size=(1281, 721), quality=95)
    picture = open_picture(frame(data), first=2)
    assert (picture.height, picture.width) == (721, 1281)
    assert picture.reducible
    assert picture.there is picture.half
    assert picture.half.shape == (361, 641, 3)
    whole = decode_picture(frame(data))
    assert (picture.whole == whole).all()
    # Also in its colours, which for half the size come by another way.
    for x in (100, 600):
        assert np.abs(picture.half[180, x].astype(int) - whole[360, 2 * x]).max() < 8


def test_it_can_be_whole_from_the_start_and_half_is_the_same_then() -> None:
    picture, other = (open_picture(frame(LARGE), first=k) for k in SCALES)
    assert picture.there is picture.whole
    assert (picture.half == other.half).all()


@pytest.mark.parametrize(
    ("entry", "first"),
    [
        (frame(LARGE), None),
        (frame(orange("RGB", size=(640, 360))), 2),
        (frame(bytes(1280 * 720 * 3), Encoding.RGB24, 1280, 720), 2),
        (frame(bytes(1280 * 720 * 3), Encoding.BGR24, 1280, 720), 2),
    ],
)
def test_what_is_small_or_there_already_is_whole(entry: Frame, first: Scale | None) -> None:
    picture = open_picture(entry, first=first)
    assert not picture.reducible
    assert picture.there is picture.whole
    assert picture.whole.shape == (picture.height, picture.width, 3)


def test_a_large_jpeg_that_is_broken_is_refused_at_once() -> None:
    with pytest.raises(EntryError) as error:
        open_picture(frame(LARGE[: len(LARGE) // 3]), first=2)
    assert error.value.reason == "corrupt"
