"""How well our detector agrees with facenet-pytorch's, and how much faster it is.

    python -m tests.agreement [--images DIR ...] [--videos FILE ...] [--frames 60] [--speed 10]

Prints one row for each set of pictures, then times on the same pictures, interleaved. A face of
facenet-pytorch is found when one of ours overlaps it by an IoU of 0.5 or more; a face of ours that
is no such partner is extra. "equal" counts the faces whose box and landmarks lie within 0.01 px and
whose score lies within 0.0001, once the O-Net looks at each candidate: with our resampling, and
with the original's. Needs the training extra.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from rich.console import Console
from rich.table import Table

from worker.cores import Cores
from worker.detect.mtcnn import FaceDetector, load_detector
from worker.detect.resample import Ints
from worker.records import Detections, Floats, Image

FOUND_IOU = 0.5
EQUAL_PIXELS = 0.01
EQUAL_SCORE = 1e-4


class OriginalSampler:
    """Pictures resampled by the very call that facenet-pytorch makes."""

    def __init__(self, images: Sequence[Image]) -> None:
        self._images = [torch.tensor(image).permute(2, 0, 1)[None].float() for image in images]

    def prepare(self, picture: int) -> None:
        pass

    def level(self, pictures: Sequence[int], height: int, width: int) -> Floats:
        return self._shrink([self._images[i] for i in pictures], height, width)

    def crops(self, pictures: Ints, windows: Ints, size: int) -> Floats:
        cut = [
            self._images[picture][:, :, top:bottom, left:right]
            for picture, (left, top, right, bottom) in zip(
                pictures.tolist(), windows.tolist(), strict=True
            )
        ]
        return self._shrink(cut, size, size)

    @staticmethod
    def _shrink(images: Sequence[torch.Tensor], height: int, width: int) -> Floats:
        shrink = torch.nn.functional.interpolate
        return torch.cat([shrink(i, size=(height, width), mode="area") for i in images]).numpy()


class Reference:
    """facenet-pytorch's MTCNN behind our interface, one picture at a time.

    ``threads`` are torch's. On a busy machine they wait for each other, and two of them can take
    many times as long as one.
    """

    def __init__(
        self,
        *,
        min_face: float = 40,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
        factor: float = 0.709,
        threads: int = 1,
    ) -> None:
        self._threads = threads
        self._mtcnn = MTCNN(
            keep_all=True, min_face_size=min_face, thresholds=list(thresholds), factor=factor
        )

    def detect(self, image: Image) -> Detections:
        torch.set_num_threads(self._threads)
        boxes, scores, landmarks = self._mtcnn.detect(image, landmarks=True)
        if boxes is None:
            return Detections.none()
        as_floats = (np.asarray(a, np.float32) for a in (boxes, scores, landmarks))
        return Detections(*as_floats)


def iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union of each box of ``a`` (A, 4) with each of ``b`` (B, 4): (A, B)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b))
    return shared / (area_a[:, None] + area_b[None] - shared)


def partners(reference: Detections, ours: Detections) -> list[tuple[int, int, float]]:
    """Pairs (face of the reference, face of ours, IoU), best first, each face once."""
    overlap = iou(reference.boxes, ours.boxes)
    pairs = []
    while overlap.size and overlap.max() >= FOUND_IOU:
        i, k = np.unravel_index(overlap.argmax(), overlap.shape)
        pairs.append((int(i), int(k), float(overlap[i, k])))
        overlap[i, :] = overlap[:, k] = -1
    return pairs


@dataclass
class Agreement:
    """What was counted over a set of pictures."""

    pictures: int = 0
    faces: int = 0
    found: int = 0
    extra: int = 0
    equal: int = 0
    ious: list[float] = field(default_factory=list)
    box_difference: float = 0.0
    landmark_difference: float = 0.0
    score_difference: float = 0.0
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, reference: Detections, ours: Detections) -> None:
        pairs = partners(reference, ours)
        self.pictures += 1
        self.faces += len(reference)
        self.found += len(pairs)
        self.extra += len(ours) - len(pairs)
        for i, k, overlap in pairs:
            box = float(np.abs(reference.boxes[i] - ours.boxes[k]).max())
            marks = float(np.abs(reference.landmarks[i] - ours.landmarks[k]).max())
            score = float(np.abs(reference.scores[i] - ours.scores[k]))
            self.ious.append(overlap)
            self.box_difference = max(self.box_difference, box)
            self.landmark_difference = max(self.landmark_difference, marks)
            self.score_difference = max(self.score_difference, score)
            if max(box, marks) <= EQUAL_PIXELS and score <= EQUAL_SCORE:
                self.equal += 1
            else:
                self.notes.append(
                    f"{name}: differs by {box:.3f} px (landmarks {marks:.3f} px), "
                    f"scores {reference.scores[i]:.7f} and {ours.scores[k]:.7f}"
                )
        for label, detections, used in (
            ("missed", reference, {i for i, _, _ in pairs}),
            ("extra", ours, {k for _, k, _ in pairs}),
        ):
            for i in set(range(len(detections))) - used:
                self.notes.append(
                    f"{name}: {label} {detections.boxes[i].round(1).tolist()}, "
                    f"score {detections.scores[i]:.6f}"
                )

    @property
    def found_share(self) -> float:
        return self.found / self.faces if self.faces else 1.0

    @property
    def extra_share(self) -> float:
        return self.extra / self.faces if self.faces else float(self.extra)

    @property
    def mean_iou(self) -> float:
        return statistics.fmean(self.ious) if self.ious else 1.0


def compare(
    pictures: Iterable[tuple[str, Image]],
    reference: Reference,
    detectors: Sequence[FaceDetector],
) -> list[Agreement]:
    """Count the agreement of each detector with the reference over the same pictures."""
    counts = [Agreement() for _ in detectors]
    for name, image in pictures:
        expected = reference.detect(image)
        for count, detector in zip(counts, detectors, strict=True):
            count.add(name, expected, detector.detect([image])[0])
    return counts


def pictures_of(folder: Path) -> Iterator[tuple[str, Image]]:
    """The JPEG and PNG pictures of a folder and its subfolders, in the order of their names."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            if image is not None:
                yield path.name, image


def frames_of(video: Path, count: int) -> Iterator[tuple[str, Image]]:
    """About ``count`` frames, evenly spread over the video."""
    with av.open(str(video)) as container:
        length = sum(1 for _ in container.decode(video=0))
    step = max(1, length // count)
    with av.open(str(video)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i % step == 0:
                yield f"{video.name} frame {i}", frame.to_ndarray(format="rgb24")


def _milliseconds(work: FaceDetector | Reference, image: Image) -> tuple[float, float]:
    """Time on the wall, and of all the process's threads on the processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    if isinstance(work, FaceDetector):
        work.detect([image])
    else:
        work.detect(image)
    return (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000


def speed_table(pictures: Sequence[Image], rounds: int) -> Table:
    """Times of ours and facenet-pytorch's, one after the other on each picture.

    The ratios are against facenet-pytorch with the number of threads that is better for it.
    """
    original = {f"facenet-pytorch, threads {n}": Reference(threads=n) for n in (1, 2)}
    ours = {f"ours, threads {n}": load_detector(cores=Cores(n), provider="cpu") for n in (1, 2)}
    contenders: dict[str, FaceDetector | Reference] = {**original, **ours}
    table = Table("size", "faces", "detector", "median ms", "best ms", "median CPU ms")
    for column in ("faster: median", "best", "CPU"):
        table.add_column(column)
    table.title = f"{len(pictures)} pictures, {rounds} rounds, interleaved, min face 40"
    for size in ((640, 360), (1280, 720)):
        scaled = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pictures]
        faces = sum(len(ours["ours, threads 1"].detect([image])[0]) for image in scaled)
        wall: dict[str, list[float]] = {name: [] for name in contenders}
        cpu: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(rounds + 1):
            for image in scaled:
                for name, work in contenders.items():
                    on_wall, on_cpu = _milliseconds(work, image)
                    if turn:  # the first round warms up
                        wall[name].append(on_wall)
                        cpu[name].append(on_cpu)
        figures = {
            name: (
                statistics.median(wall[name]),
                # The mean of each picture's least time: what it takes on an idle machine.
                statistics.fmean(min(wall[name][i :: len(scaled)]) for i in range(len(scaled))),
                statistics.median(cpu[name]),
            )
            for name in contenders
        }
        to_beat = [min(figures[name][i] for name in original) for i in range(3)]
        for name, taken in figures.items():
            table.add_row(
                f"{size[0]}x{size[1]}",
                f"{faces / len(scaled):.1f}",
                name,
                *(f"{figure:.1f}" for figure in taken),
                *(f"{beat / figure:.2f}" for beat, figure in zip(to_beat, taken, strict=True)),
            )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.agreement",
        description="Compare our detector with facenet-pytorch's: faces, then time.",
    )
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of pictures")
    parser.add_argument("--videos", type=Path, nargs="*", default=[], help="video files")
    parser.add_argument("--frames", type=int, default=60, help="frames of each video, about")
    parser.add_argument("--speed", type=int, default=5, help="rounds of the time measurement")
    options = parser.parse_args(arguments)
    if not options.images and not options.videos:
        parser.error("give --images or --videos")

    reference, ours = Reference(), load_detector(provider="cpu")
    exact = load_detector(provider="cpu", exact=True)
    with_original = load_detector(provider="cpu", exact=True, sampler=OriginalSampler)
    sets = [(folder.name, pictures_of(folder)) for folder in options.images]
    sets += [(video.name, frames_of(video, options.frames)) for video in options.videos]
    table = Table("set", "pictures", "faces", "found", "mean IoU", "extra", title="agreement")
    for column in (
        "box px",
        "landmark px",
        "score",
        "equal, each looked at",
        "and original resampling",
    ):
        table.add_column(column)
    notes: list[str] = []
    total = [Agreement() for _ in range(3)]
    for name, pictures in sets:
        counts = compare(pictures, reference, [ours, exact, with_original])
        _add_row(table, name, counts)
        notes += [f"each looked at: {note}" for note in counts[1].notes]
        notes += [f"with the original's resampling: {note}" for note in counts[2].notes]
        for sum_, count in zip(total, counts, strict=True):
            _add(sum_, count)
    _add_row(table, "all", total)
    console = Console(width=160)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    if options.speed:
        sample = [image for folder in options.images for _, image in pictures_of(folder)][:6]
        sample += [image for video in options.videos for _, image in frames_of(video, 1)]
        console.print(speed_table(sample, options.speed))


def _add(total: Agreement, part: Agreement) -> None:
    for name in ("pictures", "faces", "found", "extra", "equal", "ious"):
        setattr(total, name, getattr(total, name) + getattr(part, name))
    for name in ("box_difference", "landmark_difference", "score_difference"):
        setattr(total, name, max(getattr(total, name), getattr(part, name)))


def _add_row(table: Table, name: str, counts: Sequence[Agreement]) -> None:
    ours, exact, with_original = counts
    table.add_row(
        name,
        str(ours.pictures),
        str(ours.faces),
        f"{ours.found_share:.2%}",
        f"{ours.mean_iou:.6f}",
        f"{ours.extra_share:.2%}",
        f"{ours.box_difference:.4f}",
        f"{ours.landmark_difference:.4f}",
        f"{ours.score_difference:.1e}",
        f"{exact.equal}/{exact.faces}",
        f"{with_original.equal}/{with_original.faces}",
    )


if __name__ == "__main__":
    main()
