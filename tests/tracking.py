"""How faithful tracking is to full detection on every frame, and how steady its labels are.

    python -m tests.tracking [--videos FILE ...] [--every 5] [--smooth 0.5] [--classify-every 1]
                             [--frames 500] [--fps 5] [--live] [--annotate DIR]

Each video (default: the sample clip at two sizes) goes through the worker's own analysis twice, as
the JPEGs that a stream would hold: with full detection on every frame, and as asked for. Printed:

- found, extra: faces of full detection that tracking has too (IoU >= 0.5), and others, in parts of
  full detection's;
- equal: of those found, how many have the same raw top label;
- itself: found and equal, of full detection on the same pictures without their first row and
  column: more than it agrees with itself, nothing can agree with it;
- detections: what the full detector saw, windows around lost faces included, in parts of all
  pixels;
- switches: how often the id of a face changes while strict association of full detection's faces
  (IoU >= 0.5 with its own last box, best on both sides) says that it is the same face;
- changes of the label, raw and steady, in all tracks together, and for each minute of a track;
- lag: from where a label settles in hindsight (the most frequent raw one within half a second
  either way) to where the steady one follows, median of those that do within three seconds.

``--annotate`` writes each tracked frame as a PNG with its boxes, ids and labels.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from worker.analysis import Analyst, Shot
from worker.capture.encode import encode_jpeg
from worker.capture.sources import open_source
from worker.config import WorkerSettings
from worker.consume.images import decode_picture, open_picture
from worker.demo import sample_clip
from worker.detect.mtcnn import FaceDetector, load_detector
from worker.emotion.classifier import load_classifier
from worker.memory import Memory
from worker.metrics import Metrics
from worker.picture import FramePicture
from worker.records import Detections, Encoding, Face, Floats, Frame, FrameEvent, Image
from worker.subscribe.annotate import draw

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SAME_FACE = 0.5
HALF_WINDOW_S = 0.5
LONGEST_LAG_S = 3.0

Track = list[tuple[float, Face]]
"""A track's faces, each with its frame's seconds."""


def frames_of(
    path: str, size: tuple[int, int] | None, most: int, fps: float = 1000.0
) -> list[Frame]:
    """The video's frames, at most ``fps`` a second, as a stream would hold them."""
    frames: list[Frame] = []
    with open_source(path) as source:
        for picture in source.pictures():
            seconds = float(picture.pts * picture.time_base)
            if frames and seconds < float(frames[-1].pts * frames[-1].time_base) + 0.99 / fps:
                continue
            image = picture.image
            if size is not None:
                image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)  # type: ignore[assignment]
            at = START + timedelta(seconds=seconds)
            frames.append(
                Frame("clip", "session", len(frames), at, picture.pts, picture.time_base,
                      image.shape[1], image.shape[0], Encoding.JPEG, encode_jpeg(image))
            )  # fmt: skip
            if len(frames) == most:
                break
    return frames


class Counting:
    """The detector, counting the pixels that it is to detect on."""

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector
        self.info, self.follow, self.glance = detector.info, detector.follow, detector.glance
        self.pixels = 0

    def detect(self, images: Sequence[Image]) -> list[Detections]:
        self.pixels += sum(image.shape[0] * image.shape[1] for image in images)
        return self._detector.detect(images)


def analysed(
    analyst: Analyst, frames: Sequence[Frame], *, live: bool, reduce: bool, cut: int = 0
) -> list[FrameEvent]:
    """The events of one feed, analysed in batches of eight.

    Args:
        reduce: decode as a worker does that follows faces.
        cut: rows and columns that are left out of each picture, at the top and the left.
    """

    def picture(frame: Frame) -> FramePicture:
        if cut:
            return FramePicture.of(decode_picture(frame)[cut:, cut:])
        return open_picture(frame, first=2 if reduce else None)

    memory = Memory()
    found: list[FrameEvent] = []
    for start in range(0, len(frames), 8):
        shots = [
            Shot(frame, f"{frame.sequence + 1}-0", picture(frame), memory, live)
            for frame in frames[start : start + 8]
        ]
        found += [event for event, _ in analyst.analyse(shots, analyst.detect(shots))]
    return found


def overlaps(a: Sequence[Face], b: Sequence[Face]) -> Floats:
    """Intersection over union of each face of ``a`` with each of ``b``: (A, B)."""
    first, second = (np.array([f.box for f in some], np.float32).reshape(-1, 4) for some in (a, b))
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(-1) for x in (first, second))
    return np.asarray(shared / (area_a[:, None] + area_b[None] - shared))


def partners(a: Sequence[Face], b: Sequence[Face]) -> Iterator[tuple[int, int]]:
    """Pairs that are best on both sides and overlap enough."""
    overlap = overlaps(a, b)
    for i in range(len(a)):
        if len(b):
            k = int(overlap[i].argmax())
            if overlap[i, k] >= SAME_FACE and overlap[:, k].argmax() == i:
                yield i, k


def best(face: Face) -> str:
    return max(face.raw, key=face.raw.__getitem__)


@dataclass
class Fidelity:
    faces: int = 0
    found: int = 0
    extra: int = 0
    equal: int = 0
    switches: int = 0


def fidelity(full: Sequence[FrameEvent], tracked: Sequence[FrameEvent]) -> Fidelity:
    """Tracking beside full detection on the same frames."""
    told = Fidelity()
    people: list[int] = []
    """Of the frame before: who each face of full detection is, by strict association."""
    earlier: Sequence[Face] = ()
    ids: dict[int, int] = {}
    count = 0
    for one, other in zip(full, tracked, strict=True):
        same = {i: people[k] for i, k in partners(one.faces, earlier)}
        people = []
        for i in range(len(one.faces)):
            if i not in same:
                count += 1
            people.append(same.get(i, count))
        earlier = one.faces
        pairs = list(partners(one.faces, other.faces))
        told.faces += len(one.faces)
        told.found += len(pairs)
        told.extra += len(other.faces) - len(pairs)
        for i, k in pairs:
            told.equal += best(one.faces[i]) == best(other.faces[k])
            track = other.faces[k].track_id
            told.switches += ids.get(people[i], track) != track
            ids[people[i]] = track
    return told


def tracks_of(events: Sequence[FrameEvent]) -> list[Track]:
    tracks: dict[int, Track] = defaultdict(list)
    for event in events:
        for face in event.faces:
            tracks[face.track_id].append((event.pts_seconds, face))
    return list(tracks.values())


def changes(labels: Sequence[str]) -> int:
    return sum(a != b for a, b in pairwise(labels))


def lags(track: Track) -> list[float]:
    """How much later than in hindsight the steady label changes, in seconds."""
    times = [seconds for seconds, _ in track]
    settled = []
    for now in times:
        near = [best(face) for at, face in track if abs(at - now) <= HALF_WINDOW_S]
        settled.append(Counter(near).most_common(1)[0][0])
    found = []
    for i in range(1, len(track)):
        if settled[i] != settled[i - 1]:
            until = times[i] + LONGEST_LAG_S
            later = [at for at, f in track[i:] if f.label == settled[i] and at <= until]
            found += [later[0] - times[i]] if later else []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--videos", nargs="+", default=[])
    defaults = WorkerSettings()
    parser.add_argument("--every", type=int, nargs="+", default=[defaults.detect_every])
    parser.add_argument("--smooth", type=float, default=defaults.smooth_s)
    parser.add_argument("--classify-every", type=int, default=defaults.classify_every)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--fps", type=float, default=1000.0)
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--annotate", type=Path)
    options = parser.parse_args()

    detector, classifier = load_detector(), load_classifier(None)
    table = Table(title=f"tracking, {'live' if options.live else 'lossless'}")
    for heading in (
        "video", "every", "faces", "found", "extra", "equal", "itself", "detections", "tracks",
        "switches", "a minute", "changes raw/steady", "a minute of a track", "lag s",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    clips: list[tuple[str, tuple[int, int] | None]] = [(path, None) for path in options.videos]
    for path, size in clips or [(str(sample_clip()), None), (str(sample_clip()), (1280, 720))]:
        frames = frames_of(path, size, options.frames, options.fps)
        base = {"smooth_s": options.smooth}

        def run(
            frames: Sequence[Frame] = frames, cut: int = 0, **settings: float
        ) -> tuple[list[FrameEvent], float]:
            chosen, counting = WorkerSettings.load(**settings), Counting(detector)
            seeing = cast(FaceDetector, counting)
            analyst = Analyst(seeing, classifier, chosen, Metrics(CollectorRegistry()))
            reduce = chosen.detect_every > 1
            events = analysed(analyst, frames, live=options.live, reduce=reduce, cut=cut)
            return events, counting.pixels / sum(f.width * f.height for f in frames)

        full, _ = run(detect_every=1, **base)
        again = fidelity(full, run(cut=1, detect_every=1, **base)[0])
        for every in options.every:
            tracked, detected = run(
                detect_every=every, classify_every=options.classify_every, **base
            )
            told = fidelity(full, tracked)
            tracks = tracks_of(tracked)
            minutes = sum(track[-1][0] - track[0][0] for track in tracks) / 60 or 1e-9
            length = (tracked[-1].pts_seconds - tracked[0].pts_seconds) / 60
            raw = sum(changes([best(face) for _, face in track]) for track in tracks)
            steady = sum(changes([face.label for _, face in track]) for track in tracks)
            lag = [one for track in tracks for one in lags(track)]
            share = 1 / max(1, told.faces)
            table.add_row(
                f"{Path(path).stem} {frames[0].width}x{frames[0].height}",
                str(every), str(told.faces), f"{told.found * share:.4f}",
                f"{told.extra * share:.4f}", f"{told.equal / max(1, told.found):.4f}",
                f"{again.found * share:.3f}, {again.equal / max(1, again.found):.3f}",
                f"{detected:.2f}", str(len(tracks)), str(told.switches),
                f"{told.switches / length:.1f}", f"{raw}/{steady}",
                f"{raw / minutes:.0f}/{steady / minutes:.1f}",
                f"{statistics.median(lag):.2f} ({len(lag)})" if lag else "-",
            )  # fmt: skip
            if options.annotate:
                annotate(options.annotate / f"{Path(path).stem}-{every}", frames, tracked)
    Console(width=185).print(table)


def annotate(folder: Path, frames: Sequence[Frame], events: Sequence[FrameEvent]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for frame, event in zip(frames, events, strict=True):
        image: Image = draw(decode_picture(frame), event)
        name = folder / f"{frame.sequence:05d}.png"
        cv2.imwrite(str(name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
