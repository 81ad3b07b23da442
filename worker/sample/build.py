"""Builds the demo's sample clip, faces.mp4, from one public-domain portrait.

    python -m worker.sample.build [--out FILE]

Needs scikit-image (the extra ``dev``), which carries the portrait. The pictures are computed
without any chance; the file's bytes may differ between versions of the encoder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from worker.records import Image
from worker.sample.scenes import SCENE_S, SCENES, Figure, Scene

WIDTH, HEIGHT, FPS = 640, 360, 25
OUT = Path(__file__).with_name("faces.mp4")

Pixels = npt.NDArray[np.float32]


_FACE = (222, 125)
"""Centre of the face in the portrait."""


def _ellipse(x: int, y: int, a: int, b: int, angle: int = 0) -> list[tuple[int, int]]:
    return [(int(px), int(py)) for px, py in cv2.ellipse2Poly((x, y), (a, b), angle, 0, 360, 6)]


# What is figure and what is background in the portrait; the outline between is found by colour.
_SEEDS: tuple[tuple[list[tuple[int, int]], int], ...] = (
    (_ellipse(222, 120, 75, 105), cv2.GC_PR_FGD),  # head
    (_ellipse(222, 110, 36, 60), cv2.GC_FGD),  # face
    ([(50, 512), (38, 330), (110, 240), (200, 235), (330, 280), (390, 512)], cv2.GC_FGD),  # suit
    (_ellipse(211, 222, 84, 74, 18), cv2.GC_FGD),  # collar
    ([(0, 0), (511, 0), (511, 60), (300, 60), (300, 8), (0, 8)], cv2.GC_BGD),
    ([(0, 0), (110, 0), (110, 150), (20, 150), (20, 511), (0, 511)], cv2.GC_BGD),  # flag
    (_ellipse(388, 455, 105, 107), cv2.GC_FGD),  # helmet
    (
        [
            (350, 60),
            (511, 60),
            (511, 511),
            (500, 511),
            (500, 430),
            (478, 380),
            (440, 348),
            (400, 340),
            (368, 345),
            (362, 300),
        ],
        cv2.GC_BGD,
    ),  # rocket and table
    # Between hair and collar, left and right of the neck.
    (
        [(100, 120), (163, 118), (175, 131), (180, 138), (181, 145), (140, 149), (112, 175)],
        cv2.GC_BGD,
    ),
    (
        [
            (345, 120),
            (280, 132),
            (262, 143),
            (257, 165),
            (273, 177),
            (293, 199),
            (308, 228),
            (345, 240),
        ],
        cv2.GC_BGD,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the demo's sample clip.")
    parser.add_argument("--out", type=Path, default=OUT, help="default: %(default)s")
    out = parser.parse_args().out
    count = write_clip(out)
    print(f"{out}: {count} pictures, {out.stat().st_size / 1000:.0f} kB")


def write_clip(out: Path) -> int:
    """Encode the clip as H.264 and return its number of pictures."""
    count = 0
    with av.open(str(out), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # One thread: x264 decides differently with others.
        stream.options = {"crf": "23", "preset": "veryslow", "threads": "1", "g": "100"}
        for count, image in enumerate(pictures(), start=1):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = count - 1, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return count


def pictures() -> Iterator[Image]:
    """The clip's pictures, (HEIGHT, WIDTH, 3), RGB."""
    portrait = cut_out()
    for scene in SCENES:
        backdrop = draw_backdrop(scene)
        cast = [(figure, prepare(figure, portrait)) for figure in scene.figures]
        for i in range(round(SCENE_S * FPS)):
            canvas = backdrop.copy()
            for figure, sprite in cast:
                place(canvas, figure, sprite, i / FPS)
            yield np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)


def cut_out() -> Pixels:
    """The portrait without its background: (512, 512, 4), RGB 0-255 and opacity 0-1."""
    from skimage import data  # not a dependency of the worker

    portrait: Image = data.astronaut()  # type: ignore[no-untyped-call]
    mask = np.full(portrait.shape[:2], cv2.GC_PR_BGD, np.uint8)
    for points, kind in _SEEDS:
        cv2.fillPoly(mask, [np.array(points, np.int32)], kind)

    cv2.setRNGSeed(1)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = cv2.cvtColor(portrait, cv2.COLOR_RGB2BGR)
    cv2.grabCut(bgr, mask, (0, 0, 1, 1), *models, 8, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    # A little smaller than the figure, then feathered: no halo of the old background.
    opacity = cv2.GaussianBlur(cv2.erode(inside, np.ones((3, 3))), (0, 0), 1.6)
    return np.dstack([portrait.astype(np.float32), opacity]).astype(np.float32)


def prepare(figure: Figure, portrait: Pixels) -> Pixels:
    """The portrait for one figure: recoloured, scaled, mirrored; colours times opacity."""
    image = portrait.copy()
    # The suit begins under the chin. Grey parts have no hue to turn.
    suit = cv2.cvtColor(image[200:, :, :3].astype(np.uint8), cv2.COLOR_RGB2HSV)
    suit[..., 0] = (suit[..., 0].astype(np.int32) + figure.hue) % 180
    if figure.hue:
        suit[..., 1:] = np.rint(suit[..., 1:] * (0.72, 0.9))  # the orange's strength is too much
    image[200:, :, :3] = cv2.cvtColor(suit, cv2.COLOR_HSV2RGB)
    image[..., :3] *= image[..., 3:]
    size = round(512 * figure.scale)
    method = cv2.INTER_AREA if figure.scale < 1 else cv2.INTER_CUBIC
    image = np.asarray(cv2.resize(image, (size, size), interpolation=method), np.float32)
    return np.ascontiguousarray(image[:, ::-1]) if figure.flipped else image


def place(canvas: Pixels, figure: Figure, sprite: Pixels, t: float) -> None:
    """Blend a figure into ``canvas`` where it is at second ``t`` of its scene, if it is there."""
    start, end = figure.path[0][0], figure.path[-1][0]
    if t < start:
        return
    x, y = position(figure, t)
    face_x, face_y = _FACE[0] * figure.scale, _FACE[1] * figure.scale
    if figure.flipped:
        face_x = sprite.shape[1] - face_x
    # A shift by parts of a pixel keeps slow motion smooth.
    shift = np.array([[1, 0, x - face_x], [0, 1, y - face_y]], np.float32)
    layer: npt.NDArray[Any] = cv2.warpAffine(sprite, shift, (WIDTH, HEIGHT))
    first, last = figure.light
    light = first + (last - first) * min(1.0, (t - start) / (end - start))
    canvas *= 1 - layer[..., 3:]
    canvas += layer[..., :3] * light


def position(figure: Figure, t: float) -> tuple[float, float]:
    """Where the face's centre is: along the path, slowing at its points, with a slight sway."""
    times, xs, ys = (np.array(column) for column in zip(*figure.path, strict=True))
    i = int(np.clip(np.searchsorted(times, t, "right") - 1, 0, len(times) - 2))
    part = float(np.clip((t - times[i]) / (times[i + 1] - times[i]), 0, 1))
    eased = part * part * (3 - 2 * part)
    sway = figure.scale * 4
    x = xs[i] + (xs[i + 1] - xs[i]) * eased + sway * np.sin(t * 1.7 + figure.hue)
    y = ys[i] + (ys[i + 1] - ys[i]) * eased + sway / 2 * np.sin(t * 2.3 + figure.hue)
    return float(x), float(y)


def draw_backdrop(scene: Scene) -> Pixels:
    """A room out of focus: a gradient with soft discs of light, (HEIGHT, WIDTH, 3)."""
    down = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None, None]
    top, bottom = np.array(scene.top, np.float32), np.array(scene.bottom, np.float32)
    canvas = np.repeat(top + (bottom - top) * down, WIDTH, axis=1)
    chance = np.random.default_rng(scene.seed)
    for _ in range(26):
        disc = np.zeros((HEIGHT, WIDTH), np.float32)
        centre = int(chance.integers(0, WIDTH)), int(chance.integers(0, HEIGHT * 3 // 4))
        radius = int(chance.integers(14, 52))
        cv2.circle(disc, centre, radius, 1.0, -1, cv2.LINE_AA)
        disc = np.asarray(cv2.GaussianBlur(disc, (0, 0), radius / 7), np.float32)
        colour = bottom * 0.6 + chance.uniform(40, 150, 3).astype(np.float32)
        canvas += disc[..., None] * (colour - canvas) * np.float32(chance.uniform(0.08, 0.3))
    # Grain, or the gradient shows bands after encoding.
    canvas += chance.normal(0, 1.2, canvas.shape).astype(np.float32)
    return canvas.astype(np.float32)


if __name__ == "__main__":
    main()
