"""The colours of the expressions: seen on their surface, told apart by colour-blind people."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

CSS = Path(__file__).resolve().parents[3] / "worker" / "web" / "static" / "css" / "base.css"
LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
Colour = npt.NDArray[np.float64]

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SIGHT = {
    "all cones": np.eye(3),
    "no red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# Björn Ottosson 2020: linear RGB -> cones, and their cube roots -> OKLab.
CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def scheme(name: str) -> dict[str, Colour]:
    """Custom properties of :root in one scheme, those that are colours, as linear RGB."""
    css = CSS.read_text()
    dark, light = re.findall(r":root \{(.*?)\}", css, re.S)
    stage = re.search(r"\.stage \{(.*?)\}", css, re.S)
    assert stage
    block = {"dark": dark, "light": light, "stage": dark + stage[1] + "--surface: #07090b;"}[name]
    return {key: linear(value) for key, value in re.findall(r"--([\w-]+): (#\w{6});", block)}


def linear(colour: str) -> Colour:
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: Colour, other: Colour) -> float:
    """Of WCAG 2: 1 to 21."""
    high, low = sorted((float(c @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def oklab(colour: Colour) -> Colour:
    lab: Colour = np.array(LAB) @ np.cbrt(np.array(CONES) @ np.clip(colour, 0, 1))
    return lab


@pytest.mark.parametrize("name", ["dark", "light", "stage"])
def test_each_is_seen_on_its_surface(name: str) -> None:
    found = scheme(name)
    for index, label in enumerate(LABELS):
        assert contrast(found[f"expr-{index}"], found["surface"]) >= 3, label  # WCAG 1.4.11


@pytest.mark.parametrize("name", ["dark", "light"])
@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_are_told_apart(name: str, sight: str) -> None:
    """Further apart for everybody than some of Okabe and Ito's are for the colour-blind (0.06)."""
    found = scheme(name)
    seen = [oklab(np.array(SIGHT[sight]) @ found[f"expr-{i}"]) for i in range(len(LABELS))]
    for (one, a), (other, b) in combinations(zip(LABELS, seen, strict=True), 2):
        assert np.linalg.norm(a - b) > 0.1, f"{one} and {other}"


@pytest.mark.parametrize("name", ["dark", "light"])
@pytest.mark.parametrize("text", ["ink", "dim", "warn", "bad", "accent"])
def test_words_are_read(name: str, text: str) -> None:
    found = scheme(name)
    for surface in ("page", "surface"):
        assert contrast(found[text], found[surface]) >= 4.5, surface  # WCAG 1.4.3
