"""Clips made on the spot: every picture shows where is up, and which picture it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from worker.capture.sources import open_source
from worker.errors import SourceError
from worker.records import Image, Picture

QUADRANTS = ((220, 40, 40), (40, 200, 40), (40, 40, 220), (230, 230, 230))
"""RGB, top left, top right, bottom left, bottom right."""


def draw(index: int, width: int = 160, height: int = 120) -> Image:
    image = np.zeros((height, width, 3), np.uint8)
    y, x = height // 2, width // 2
    image[:y, :x], image[:y, x:], image[y:, :x], image[y:, x:] = QUADRANTS
    # In the middle a grey square, the brighter the later the picture.
    image[y - 20 : y + 20, x - 20 : x + 20] = 20 + 4 * index
    return image


class Clips:
    """Writes clips into a test's folder and reads their pictures back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(
        self,
        name: str,
        *,
        count: int = 50,
        rate: int = 25,
        pts: Sequence[int] | None = None,
        time_base: Fraction | None = None,
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        mux: dict[str, str] | None = None,
        prepare: Callable[[Any], None] = lambda stream: None,
        noise: bool = False,
        audio: bool = False,
    ) -> Path:
        """A clip of ``count`` pictures, 160x120, with B-frames unless ``options`` says else."""
        path = self.folder / name
        grain = np.random.default_rng(0)
        if options is None:
            options = {"bf": "2", "g": "10", "crf": "12"} if codec == "libx264" else {}
        with av.open(str(path), "w", options=mux or {}) as container:
            stream: Any = container.add_stream(codec, rate=rate, options=options)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            if time_base:
                stream.codec_context.time_base = time_base
            prepare(stream)
            sound: Any = container.add_stream("aac", rate=8000) if audio else None
            for i in range(count):
                image = draw(i)
                if noise:
                    image[:30] = grain.integers(0, 255, (30, 160, 3))
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = pts[i] if pts else i
                frame.time_base = time_base or Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound:
                container.mux(sound.encode(silence(8000 * count // rate)))
                container.mux(sound.encode(None))
        return path

    def cut(self, path: Path, share: float) -> Path:
        """A copy that ends after ``share`` of the bytes."""
        data = path.read_bytes()
        out = path.with_name(f"cut-{path.name}")
        out.write_bytes(data[: int(len(data) * share)])
        return out


def read(source: str | Path) -> tuple[list[Picture], str]:
    """All pictures of a source, and the sentence with which it ended ("" for none)."""
    pictures: list[Picture] = []
    with open_source(str(source)) as opened:
        try:
            pictures.extend(opened.pictures())  # keeps what comes before an error
        except SourceError as error:
            return pictures, str(error)
    return pictures, ""


def silence(samples: int) -> av.AudioFrame:
    frame = av.AudioFrame(format="fltp", layout="mono", samples=samples)
    frame.planes[0].update(bytes(4 * samples))
    frame.rate, frame.pts = 8000, 0
    return frame


@pytest.fixture
def clips(tmp_path: Path) -> Clips:
    return Clips(tmp_path)


@pytest.fixture
def index_of() -> Callable[[Image], int]:
    """Which picture of a clip this is, read from the square in its middle."""

    def read(image: Image) -> int:
        y, x = image.shape[0] // 2, image.shape[1] // 2
        return round((float(image[y - 8 : y + 8, x - 8 : x + 8].mean()) - 20) / 4)

    return read


@pytest.fixture
def corners() -> Callable[[Image], list[int]]:
    """Which of the four colours is in each corner: top left, top right, bottom left, right."""

    def read(image: Image) -> list[int]:
        h, w = image.shape[:2]
        near = [image[y, x].astype(int) for y in (h // 8, h - h // 8) for x in (w // 8, w - w // 8)]
        distances = np.abs(np.array(near)[:, None] - np.array(QUADRANTS)[None]).sum(2)
        return [int(i) for i in distances.argmin(1)]

    return read
