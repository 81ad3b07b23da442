"""Folders of images: order, colour types, orientation, and files that are no pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pil

from tests.worker.capture.conftest import draw, read
from worker.capture.sources import open_source
from worker.capture.stills import read_image
from worker.errors import SettingsError, SourceError


@pytest.fixture
def picture() -> Pil.Image:
    return Pil.fromarray(draw(50))


def test_natural_order_times_and_what_is_left_out(tmp_path: Path, index_of) -> None:
    names = ["1.png", "2.png", "10.png", "frame2.PNG", "frame10.png"]
    for i, name in enumerate(names):
        Pil.fromarray(draw(i)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "._1.png").write_bytes(b"resource fork")
    (tmp_path / "sub.png").mkdir()
    with open_source(str(tmp_path), image_rate=2.5) as source:
        assert (source.name, source.live) == (tmp_path.name, False)
        assert (source.width, source.height, source.rate) == (160, 120, 2.5)
        assert (source.frames, source.duration_s) == (5, 2.0)
        pictures = list(source.pictures())
    assert [index_of(p.image) for p in pictures] == [0, 1, 2, 3, 4]
    assert [float(p.pts * p.time_base) for p in pictures] == [0, 0.4, 0.8, 1.2, 1.6]
    assert all(p.captured_at is None for p in pictures)


def test_colour_types_become_rgb(tmp_path: Path, picture: Pil.Image) -> None:
    rgb = np.asarray(picture)
    grey = np.asarray(picture.convert("L"))
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("L").save(tmp_path / "grey.jpg", quality=95)
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    picture.quantize(256).save(tmp_path / "palette.png")
    picture.save(tmp_path / "plain.webp", lossless=True)
    picture.save(tmp_path / "plain.bmp")
    cv2.imwrite(str(tmp_path / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "deepgrey.tif"), grey.astype(np.uint16) * 257)
    for path in sorted(tmp_path.iterdir()):
        image = read_image(path)
        assert (image.shape, image.dtype) == ((120, 160, 3), np.uint8), path.name
        assert image.flags.c_contiguous
        expected = np.dstack([grey] * 3) if "grey" in path.name else rgb
        assert np.abs(image.astype(int) - expected).mean() < 3, path.name


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_transparency_is_flattened_on_white(name, tmp_path: Path, picture: Pil.Image) -> None:
    opacity = np.full((120, 160), 255, np.uint8)
    opacity[:20], opacity[20:40] = 0, 128
    picture.putalpha(Pil.fromarray(opacity))
    picture.save(tmp_path / name, **({"lossless": True} if "webp" in name else {}))
    image = read_image(tmp_path / name).astype(int)
    assert image[10, 20].tolist() == [255, 255, 255]
    assert np.abs(image[30, 20] - [237, 147, 147]).max() <= 2
    assert image[50, 20].tolist() == [220, 40, 40]


def test_transparency_in_grey_and_in_a_palette(tmp_path: Path, picture: Pil.Image) -> None:
    grey = picture.convert("LA")
    grey.putalpha(0)
    grey.save(tmp_path / "grey.png")
    palette = picture.quantize(8)
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    assert read_image(tmp_path / "grey.png").min() == 255
    image = read_image(tmp_path / "palette.png")
    assert image[10, 10].tolist() == [255, 255, 255]
    assert image[110, 10].tolist() == [40, 40, 220]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, tmp_path: Path, picture: Pil.Image, corners) -> None:
    exif = Pil.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    expected = {
        1: [0, 1, 2, 3],
        2: [1, 0, 3, 2],
        3: [3, 2, 1, 0],
        4: [2, 3, 0, 1],
        5: [0, 2, 1, 3],
        6: [2, 0, 3, 1],
        7: [3, 1, 2, 0],
        8: [1, 3, 0, 2],
    }
    with open_source(str(tmp_path)) as source:
        assert (source.width, source.height) == ((160, 120) if orientation < 5 else (120, 160))
        assert corners(next(source.pictures()).image) == expected[orientation]


def test_one_image_is_a_source_of_one_picture(tmp_path: Path, picture: Pil.Image) -> None:
    picture.save(tmp_path / "portrait.PNG")
    with open_source(str(tmp_path / "portrait.PNG")) as source:
        assert (source.name, source.frames) == ("portrait.PNG", 1)
        assert len(list(source.pictures())) == 1


def test_an_unreadable_image_is_named_after_the_others_were_given(
    tmp_path: Path, picture: Pil.Image
) -> None:
    picture.save(tmp_path / "1.jpg")
    picture.save(tmp_path / "2.jpg")
    (tmp_path / "3.jpg").write_text("not a picture")
    picture.save(tmp_path / "4.jpg")
    pictures, end = read(tmp_path)
    assert len(pictures) == 2
    assert end.startswith("3.jpg is not an image that can be decoded")


def test_bad_folders_and_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match="holds no images"):
        open_source(str(tmp_path))
    (tmp_path / "empty.png").touch()
    with pytest.raises(SourceError, match=r"^empty\.png is not an image"):
        open_source(str(tmp_path))
    with pytest.raises(SettingsError, match="image rate"):
        open_source(str(tmp_path), image_rate=0)
    Pil.fromarray(draw(0)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    with pytest.raises(SourceError, match=r"^cut\.jpg is not an image"):
        open_source(str(tmp_path / "cut.jpg"))
    assert capfd.readouterr() == ("", "")


def test_a_small_file_of_very_many_pixels_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    Pil.new("L", (7680, 4321)).save(bomb)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(SourceError, match=r"bomb.png .* more than 33177600 pixels"):
        open_source(str(bomb))
    Pil.new("L", (7680, 4320)).save(bomb)
    open_source(str(bomb)).close()


def test_a_file_that_is_very_large_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.bmp"
    with large.open("wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(SourceError, match=r"large\.bmp has more than 256 MiB"):
        open_source(str(large))
