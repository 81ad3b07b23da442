"""Accuracy behind a detector that errs: other margins, boxes beside the face, tilted heads, blur,
faces of few pixels. All on PublicTest, through the very function that cuts faces for the workers.

A picture of the data is the crop that the detector's box would have given, so the box is known:
its middle is the picture's, and its side the picture's over 1 + the model's margin. What lies
around the picture is not known: wherever a crop reaches beyond it, the picture's edge is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.data import SIZE
from training.evaluation.figures import Labels, wilson
from training.evaluation.prediction import Pictures, Track, predict_crops, rgb
from worker.emotion.align import crop_faces
from worker.emotion.classifier import Classifier

Box = npt.NDArray[np.float64]
Scene = tuple[Pictures, Box, float]
"""A grey picture (H, W), the box (4,) that a detector gives of its face, and the crop's margin."""

MARGINS = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4)
"""Added to the model's own."""
JITTERS = (0.0, 0.05, 0.1, 0.15, 0.2)
"""Centre and side off by up to so much of the side, either way, each uniformly."""
ROLLS = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0)
"""Degrees; half of the pictures turned either way."""
BLURS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Standard deviation of a Gaussian, in pixels of the picture's 48."""
SIZES = (48.0, 40.0, 32.0, 24.0, 20.0, 16.0)
"""Side of the face in pixels of the video's frame."""

# Each pixel becomes a block, so that boxes need not fall on whole pixels of 48, while the crop at
# the exact box gives the picture itself back, to the last bit.
_BLOCK = 4


@dataclass(frozen=True, slots=True)
class Point:
    """Accuracy under one distortion."""

    value: float
    accuracy: float
    interval: tuple[float, float]
    """95 % Wilson score interval."""


@dataclass(frozen=True, slots=True)
class Robustness:
    """Curves over the same pictures."""

    n: int
    seed: int
    margin: list[Point]
    jitter: list[Point]
    roll: list[Point]
    blur: list[Point]
    size: list[Point]


def measure_robustness(
    classifier: Classifier,
    images: Pictures,
    labels: Labels,
    *,
    sample: int | None = None,
    seed: int = 0,
    track: Track = iter,
) -> Robustness:
    """Distort grey faces (N, 48, 48) of the model's label set, and count what is still right.

    ``sample`` takes so many of them at most, drawn by ``seed``, as do box jitter and the direction
    of roll: equal arguments give equal figures. ``track`` is called for each point of each curve.
    """
    random = np.random.default_rng(seed)
    if sample is not None and sample < len(labels):
        chosen = np.sort(random.choice(len(labels), sample, replace=False))
        images, labels = images[chosen], labels[chosen]
    # Drawn once, so that a curve shows one error that grows, rather than the luck of each draw.
    offsets = random.uniform(-1, 1, (len(labels), 3))
    turns = random.choice((-1.0, 1.0), len(labels))
    margin = classifier.margin

    def curve(values: tuple[float, ...], scene: Callable[[int, float], Scene]) -> list[Point]:
        points = []
        for value in values:

            def crop(index: int, value: float = value) -> Pictures:
                picture, box, around = scene(index, value)
                return crop_faces(
                    rgb(picture),
                    box[None],
                    size=classifier.size,
                    margin=around,
                    colour=classifier.colour,
                )

            told = predict_crops(classifier, len(labels), crop, track).argmax(axis=1)
            correct = int((told == labels).sum())
            points.append(Point(value, correct / len(labels), wilson(correct, len(labels))))
        return points

    def wider(index: int, value: float) -> Scene:
        picture = _blocks(images[index])
        return picture, _box(len(picture), margin), margin + value

    def beside(index: int, value: float) -> Scene:
        picture = _blocks(images[index])
        return picture, _box(len(picture), margin, value * offsets[index]), margin

    def tilted(index: int, value: float) -> Scene:
        picture = _turned(_blocks(images[index]), value * turns[index])
        return picture, _box(len(picture), margin), margin

    def blurred(index: int, value: float) -> Scene:
        return _blurred(images[index], value), _box(SIZE, margin), margin

    def small(index: int, value: float) -> Scene:
        side = int(value)
        picture = cv2.resize(images[index], (side, side), interpolation=cv2.INTER_AREA)
        return np.asarray(picture, np.uint8), _box(side, margin), margin

    return Robustness(
        n=len(labels),
        seed=seed,
        margin=curve(MARGINS, wider),
        jitter=curve(JITTERS, beside),
        roll=curve(ROLLS, tilted),
        blur=curve(BLURS, blurred),
        size=curve(SIZES, small),
    )


def _box(side: int, margin: float, off: npt.NDArray[np.float64] | None = None) -> Box:
    """Left, top, right, bottom of the box whose crop at ``margin`` is the whole picture.

    ``off``: how far its centre (x, y) and its side are wrong, in parts of its side.
    """
    x, y, wrong = (0.0, 0.0, 0.0) if off is None else off
    exact = side / (1 + margin)
    centre = side / 2 + exact * np.array([x, y])
    half = exact * (1 + wrong) / 2
    return np.concatenate([centre - half, centre + half])


def _blocks(image: Pictures) -> Pictures:
    return np.repeat(np.repeat(image, _BLOCK, axis=0), _BLOCK, axis=1)


def _turned(image: Pictures, degrees: float) -> Pictures:
    middle = (len(image) - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), degrees, 1.0)
    turned = cv2.warpAffine(
        image, matrix, image.shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(turned, np.uint8)


def _blurred(image: Pictures, sigma: float) -> Pictures:
    if sigma == 0:
        return image
    return np.asarray(
        cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.uint8
    )
