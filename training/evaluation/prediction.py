"""Ask a model file about pictures, by the same path that serves it; and averages over views."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from training.data import FER2013, FERPLUS, SIZE, LabelSet
from worker.emotion.align import crop_faces
from worker.emotion.classifier import Classifier
from worker.errors import ModelError
from worker.records import Floats

Pictures = npt.NDArray[np.uint8]
Track = Callable[[range], Iterable[int]]
"""Passes on what it is given, and may show progress meanwhile."""

_CHUNK = 256


def label_set_of(classifier: Classifier) -> LabelSet:
    """Whose labels the model knows.

    Raises:
        ModelError: they are neither FER2013's nor FER+'s.
    """
    for label_set in (FER2013, FERPLUS):
        if set(classifier.labels) == set(label_set.labels):
            return label_set
    raise ModelError(
        f"the model {classifier.info.name} knows the labels {', '.join(classifier.labels)}; "
        f"FER2013 has {', '.join(FER2013.labels)}, FER+ has {', '.join(FERPLUS.labels)}"
    )


def predict(classifier: Classifier, images: Pictures, track: Track = iter) -> Floats:
    """Grey faces (N, 48, 48) -> probabilities (N, L) in the order of the model's label set.

    The pictures go through ``crop_faces`` with a box around the whole, so that a model of another
    size or colour is fed as the workers would feed it.

    Raises:
        ModelError: the model's labels belong to no label set that is known here.
    """
    whole = np.array([[0, 0, SIZE, SIZE]], np.float32)

    def crop(index: int) -> Pictures:
        return crop_faces(
            rgb(images[index]),
            whole,
            size=classifier.size,
            margin=0.0,
            colour=classifier.colour,
        )

    return predict_crops(classifier, len(images), crop, track)


def predict_crops(
    classifier: Classifier, n: int, crop: Callable[[int], Pictures], track: Track
) -> Floats:
    """Probabilities (n, L) of the crops (1, size, size, C) that ``crop`` makes of 0..n-1."""
    label_set = label_set_of(classifier)
    columns = [classifier.labels.index(label) for label in label_set.labels]
    parts = [np.zeros((0, len(columns)), np.float32)]
    for start in track(range(0, n, _CHUNK)):
        crops = np.concatenate([crop(index) for index in range(start, min(start + _CHUNK, n))])
        parts.append(classifier.classify(crops)[:, columns])
    return np.concatenate(parts)


def predict_averaged(
    classifier: Classifier, images: Pictures, crop: int, track: Track = iter
) -> dict[str, Floats]:
    """Mean probabilities (N, L) by kind of test-time averaging; ``none`` is what workers publish.

    ``flip`` averages the picture and its mirror image; ``ten-crop`` the centre and the four corners
    with theirs. The model cuts its own centre crop of side ``crop`` from a picture of SIZE, so it
    is shown a corner by shifting the picture, the edge repeated. A model that looks at the
    whole picture is shown shifts of two pixels.
    """
    reach = (SIZE - crop) // 2 or 2
    shifts = [(0, 0), *((down, right) for down in (-reach, reach) for right in (-reach, reach))]
    pairs = []
    for down, right in shifts:
        view = _shifted(images, down, right)
        pairs += [
            predict(classifier, view, track),
            predict(classifier, np.ascontiguousarray(view[:, :, ::-1]), track),
        ]
    views = np.stack(pairs)
    return {"none": views[0], "flip": views[:2].mean(axis=0), "ten-crop": views.mean(axis=0)}


def rgb(image: Pictures) -> Pictures:
    """Grey (H, W) -> (H, W, 3)."""
    return np.repeat(image[:, :, None], 3, axis=2)


def _shifted(images: Pictures, down: int, right: int) -> Pictures:
    """(N, H, W) moved by whole pixels, the edge repeated."""
    rows = (np.arange(images.shape[1]) - down).clip(0, images.shape[1] - 1)
    columns = (np.arange(images.shape[2]) - right).clip(0, images.shape[2] - 1)
    moved: Pictures = images[:, rows][:, :, columns]
    return moved
