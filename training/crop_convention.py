"""How FER2013 cuts its faces, in terms of the boxes of the detector that the workers run.

A classifier sees what it was trained on only if the crop around a detected box shows as much of
the head as FER2013's pictures do. So MTCNN is run on the pictures themselves, enlarged and set into
a larger canvas, and the side of the picture is compared with the side of the box.

Measured over 1000 pictures spread evenly over the Training split: in 847 a face was found, and the
picture's side was 0.94 of the box's longer side (quartiles 0.86 and 1.03): a margin of -0.06. The
centres lie within 1 % of the side of each other. With a grey canvas instead of a replicated edge:
871 faces, 0.945. Hence CROP_MARGIN = -0.06 in ``training.data``. To repeat it:

    python -m training.crop_convention --data fer2013.csv.zip --pictures 1000
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from training.data import SIZE, read_data

_ENLARGED = 5 * SIZE
_BORDER = _ENLARGED // 2


@dataclass(frozen=True, slots=True)
class Convention:
    """Medians over the faces that were found; the quartiles tell how much they scatter."""

    faces: int
    pictures: int
    margin: float
    """Picture's side / max(box width, box height) - 1."""
    margin_quartiles: tuple[float, float]
    offset: tuple[float, float]
    """Picture's centre less the box's centre, x to the right, y down, in parts of box side."""


def measure(images: npt.NDArray[np.uint8], *, border: str = "replicate") -> Convention:
    """Run facenet-pytorch's MTCNN over (N, 48, 48) grey pictures and compare sides and centres.

    ``border`` fills the canvas around the picture: ``replicate`` or ``grey`` (128). Pictures
    without a face of a score of at least 0.95 are left out.
    """
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True, min_face_size=80, device="cpu")
    margins: list[float] = []
    offsets: list[npt.NDArray[np.float64]] = []
    for image in images:
        boxes, scores = detector.detect(_canvas(image, border))
        if boxes is None or scores[0] < 0.95:
            continue
        left, top, right, bottom = boxes[0]
        side = max(right - left, bottom - top)
        margins.append(_ENLARGED / side - 1)
        middle = _BORDER + _ENLARGED / 2
        offsets.append((middle - np.array([left + right, top + bottom]) / 2) / side)
    low, median, high = np.quantile(margins, [0.25, 0.5, 0.75])
    x, y = np.median(offsets, axis=0)
    return Convention(
        faces=len(margins),
        pictures=len(images),
        margin=float(median),
        margin_quartiles=(float(low), float(high)),
        offset=(float(x), float(y)),
    )


def _canvas(image: npt.NDArray[np.uint8], border: str) -> npt.NDArray[np.uint8]:
    """(48, 48) grey -> (480, 480, 3) RGB with the picture, enlarged five times, in the middle."""
    large = cv2.resize(image, (_ENLARGED, _ENLARGED), interpolation=cv2.INTER_CUBIC)
    around = (_BORDER,) * 4
    if border == "grey":
        large = cv2.copyMakeBorder(large, *around, cv2.BORDER_CONSTANT, value=128)
    else:
        large = cv2.copyMakeBorder(large, *around, cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(np.repeat(large[:, :, None], 3, axis=2))


def main() -> None:
    parser = argparse.ArgumentParser(description="measure FER2013's crop convention with MTCNN")
    parser.add_argument("--data", type=Path, required=True, help="fer2013.csv or a zip with it")
    parser.add_argument("--pictures", type=int, default=1000)
    chosen = parser.parse_args()
    images = read_data(chosen.data).split("Training").images
    some = images[np.linspace(0, len(images) - 1, chosen.pictures).astype(int)]
    for border in ("replicate", "grey"):
        print(border, measure(some, border=border))


if __name__ == "__main__":
    main()
