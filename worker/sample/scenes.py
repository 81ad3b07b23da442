"""The sample clip's two scenes: who is where, when, and in what light."""

from __future__ import annotations

from dataclasses import dataclass

SCENE_S = 7.0
"""How long each scene lasts."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One appearance of the portrait in a scene."""

    scale: float
    """1 gives a face about 75 pixels wide."""
    path: tuple[tuple[float, float, float], ...]
    """(seconds into the scene, x of the face's centre, y of it); eased between."""
    flipped: bool = False
    hue: int = 0
    """Turn of the suit's hue, in OpenCV's units of 2 degrees."""
    light: tuple[float, float] = (1.0, 1.0)
    """Brightness at the first and at the last point of the path."""


@dataclass(frozen=True, slots=True)
class Scene:
    top: tuple[int, int, int]
    """RGB at the top of the backdrop."""
    bottom: tuple[int, int, int]
    seed: int
    figures: tuple[Figure, ...]
    """Back to front."""


SCENES = (
    Scene(
        top=(38, 52, 84),
        bottom=(120, 138, 158),
        seed=3,
        figures=(
            Figure(
                scale=0.6,
                path=((2.6, 372, 470), (4.0, 352, 176), (7.0, 336, 172)),
                flipped=True,
                hue=62,
                light=(0.8, 0.95),
            ),
            Figure(
                scale=0.78,
                path=((1.0, 760, 158), (3.0, 520, 150), (5.6, 500, 146), (7.0, 510, 148)),
                flipped=True,
                hue=95,
                light=(0.72, 1.0),
            ),
            Figure(
                scale=1.05,
                path=((0.0, 40, 132), (1.8, 168, 124), (4.6, 190, 128), (6.8, -170, 140)),
            ),
        ),
    ),
    Scene(
        top=(92, 62, 48),
        bottom=(206, 170, 130),
        seed=8,
        figures=(
            Figure(
                scale=0.62,
                path=((1.6, -90, 176), (3.6, 128, 166), (7.0, 150, 168)),
                hue=110,
                light=(0.9, 0.9),
            ),
            Figure(
                scale=0.85,
                path=((2.8, 770, 150), (4.6, 516, 144), (7.0, 498, 140)),
                flipped=True,
                hue=48,
                light=(1.08, 0.8),
            ),
            Figure(
                scale=1.6,
                path=((0.0, 330, 150), (2.2, 352, 156), (4.4, 320, 700)),
                light=(0.9, 1.05),
            ),
            Figure(
                scale=1.0,
                path=((4.2, 322, 560), (5.6, 322, 132), (7.0, 326, 128)),
                flipped=True,
            ),
        ),
    ),
)
