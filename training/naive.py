"""The loop that one would write today, for ``mien bench --against facenet-pytorch``.

    python -m training.naive FOLDER PLAN

Each JPEG of FOLDER is decoded, facenet-pytorch's MTCNN finds its faces with their landmarks, and
the classifier is called once for each of them. PLAN is a JSON object: ``min_face``, ``thresholds``,
``factor``, ``model`` (an ONNX file, or null for the one that ships) and ``gpu`` (whether torch and
the classifier may use one). It prints a JSON object with the versions of torch and facenet-pytorch
and torch's device, then answers each line ``THREADS FRAMES`` with another one: the seconds that the
first FRAMES frames took, the CPU seconds, and what was seen on each frame, a list of [box, label].
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN

from worker.emotion.align import crop_faces
from worker.emotion.classifier import Classifier, load_classifier
from worker.records import Image

Faces = list[tuple[list[float], str]]
"""Box (left, top, right, bottom in pixels) and label of each face of a frame."""

_WARM_UP = 3
"""Frames before those that are timed."""


def look(image: Image, mtcnn: Any, classifier: Classifier) -> Faces:
    """The faces of one picture, each classified by a call of its own."""
    boxes, _, _ = mtcnn.detect(image, landmarks=True)
    faces: Faces = []
    for box in [] if boxes is None else boxes.astype(np.float32):
        crop = crop_faces(
            image, box[None], size=classifier.size, margin=classifier.margin,
            colour=classifier.colour,
        )  # fmt: skip
        (probabilities,) = classifier.classify(crop)
        faces.append((box.tolist(), classifier.labels[int(probabilities.argmax())]))
    return faces


def run(jpegs: Sequence[bytes], mtcnn: Any, classifier: Classifier) -> list[Faces]:
    """The faces of each frame."""
    found = []
    for data in jpegs:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        found.append(look(np.asarray(image, np.uint8), mtcnn, classifier))
    return found


def main() -> None:
    folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
    jpegs = [path.read_bytes() for path in sorted(folder.iterdir())]
    model = Path(plan["model"]) if plan["model"] else None
    device = "cuda" if plan["gpu"] and torch.cuda.is_available() else "cpu"
    mtcnn = MTCNN(
        keep_all=True, min_face_size=plan["min_face"], thresholds=plan["thresholds"],
        factor=plan["factor"], device=device,
    )  # fmt: skip
    versions = {name: version(name) for name in ("torch", "facenet-pytorch")}
    print(json.dumps({"device": device, "versions": versions}), flush=True)
    for line in sys.stdin:
        threads, count = map(int, line.split())
        torch.set_num_threads(threads)
        classifier = load_classifier(
            model, provider="auto" if plan["gpu"] else "cpu", threads=threads
        )
        run(jpegs[:_WARM_UP], mtcnn, classifier)
        began, cpu_began = time.perf_counter(), time.process_time()
        faces = run(jpegs[:count], mtcnn, classifier)
        taken = {
            "seconds": time.perf_counter() - began,
            "cpu_s": time.process_time() - cpu_began,
            "faces": faces,
        }
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
