"""Detection in processes of their own: the same faces, and an end together with the worker."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from skimage import data

from tests.astronauts import assert_same
from tests.feeds import wait_until
from worker.config import cores
from worker.cores import Cores
from worker.detect.cascade import Cascade
from worker.detect.mtcnn import FaceDetector, load_detector
from worker.detect.pool import DetectionPool
from worker.errors import ModelError
from worker.records import Detections, Image
from worker.usage import family

OPEN = Path("/dev/fd")
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux")


class Shapes:
    """Says of each picture its size, its sum and who looked; some it does not get over."""

    def detect(self, images: Sequence[Image], likely: float) -> list[Detections]:
        if likely == 0:
            raise ValueError("nothing is likely")
        if likely == 1:
            os._exit(3)
        none = np.zeros((1, 5, 2), np.float32)
        return [
            Detections(
                np.array([[*image.shape[:2], image.sum(), os.getpid()]], np.float32),
                np.array([likely], np.float32),
                none,
            )
            for image in images
        ]


@contextmanager
def pool(count: int = 2) -> Iterator[DetectionPool]:
    made = DetectionPool(Cores(count), Shapes)
    try:
        yield made
    finally:
        made.close()


def picture(height: int, width: int) -> Image:
    return np.full((height, width, 3), 2, np.uint8)


def looked(pool: DetectionPool, *images: Image) -> list[list[float]]:
    return [found.boxes[0, :3].tolist() for found in pool.detect(images, 0.5)]


def ended(pid: int) -> bool:
    """Soon: waited for, as it ends by itself. Nobody may have asked how it did."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_pictures_of_any_size_come_whole_and_in_their_order() -> None:
    with pool(1) as one:
        for sides in ([], [(3, 5)], [(40, 30), (1, 1), (300, 200)], [(2, 2), (200, 300)], []):
            images = [picture(*side) for side in sides]
            assert looked(one, *images) == [[h, w, 6 * h * w] for h, w in sides]
        part = picture(30, 40)[5:, 10:20]  # not contiguous
        assert looked(one, part) == [[25, 10, 1500]]


def test_threads_that_call_at_once_get_what_they_asked_for() -> None:
    with pool(3) as three, ThreadPoolExecutor(3) as threads:
        asked = [(side, 2 * side) for side in range(1, 60)]
        found = threads.map(lambda side: looked(three, picture(*side)), asked)
        assert list(found) == [[[h, w, 6 * h * w]] for h, w in asked]


def test_what_fails_there_is_told_here_and_the_next_one_passes() -> None:
    with pool() as two:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="nothing is likely") as failed:
                two.detect([picture(3, 3)], 0)
            assert "Traceback" in failed.value.__notes__[0]
        assert looked(two, picture(3, 5)) == [[3, 5, 90]]


def test_when_one_has_ended_the_pool_serves_no_more() -> None:
    files = len(list(OPEN.iterdir()))
    with pool() as two:
        with pytest.raises(ModelError, match="has ended: exit status 3"):
            two.detect([picture(3, 3)], 1)
        for _ in range(3):  # the other one is not asked
            with pytest.raises(ModelError, match="has ended: exit status 3"):
                two.detect([picture(3, 3)], 0.5)
    assert len(list(OPEN.iterdir())) <= files, "something is still open"


def test_an_answer_that_was_not_waited_for_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    with pool(1) as one:
        with monkeypatch.context() as patch:
            patch.setattr(Connection, "recv", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                one.detect([picture(3, 3)], 0.5)
        with pytest.raises(ModelError, match="has ended: exit status 0"):
            one.detect([picture(7, 9)], 0.5)


def test_one_that_was_killed_is_told_by_its_signal() -> None:
    with pool(1) as one:
        (found,) = one.detect([picture(3, 3)], 0.5)
        os.kill(int(found.boxes[0, 3]), signal.SIGKILL)
        with pytest.raises(ModelError, match="has ended: signal 9"):
            one.detect([picture(3, 3)], 0.5)


def test_what_tells_the_worker_to_end_ends_none_of_them() -> None:
    with pool(1) as one:
        (found,) = one.detect([picture(3, 3)], 0.5)
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(int(found.boxes[0, 3]), each)
        assert looked(one, picture(3, 5)) == [[3, 5, 90]]


def test_they_end_with_the_worker_without_a_word() -> None:
    code = (
        "from tests.worker.detect.test_pool import *\n"
        "one = DetectionPool(Cores(1), Shapes)\n"
        "print(int(one.detect([picture(3, 3)], 0.5)[0].boxes[0, 3]), flush=True)\n"
        "os._exit(0)\n"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stderr == ""
        assert ended(int(done.stdout))


class Hanging:
    def detect(self, images: Sequence[Image], likely: float) -> list[Detections]:
        Path(os.environ["TOLD"]).write_text(str(os.getpid()))
        time.sleep(60)
        return []


_HANGS = """
import numpy, threading, os, time, sys
from tests.worker.detect.test_pool import Hanging
from worker.config import cores
from worker.cores import Cores
from worker.detect.pool import DetectionPool
pool = DetectionPool(Cores(1), Hanging)
ask = lambda: pool.detect([numpy.zeros((3, 3, 3), numpy.uint8)], 0.5)
threading.Thread(target=ask, daemon=True).start()
input()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_they_end_with_the_worker_even_in_the_middle_of_a_search(
    tmp_path: Path, killed: bool
) -> None:
    told = tmp_path / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", _HANGS], stdin=subprocess.PIPE, env={**os.environ, "TOLD": str(told)}
    ) as worker:
        wait_until(lambda: told.exists() and bool(told.read_text()))
        if killed:
            worker.kill()
        worker.communicate(b"\n")
    assert ended(int(told.read_text()))


def broken() -> Cascade:
    raise ValueError("the file is gone")


def slow() -> Cascade:
    time.sleep(60)
    raise AssertionError


def test_one_that_does_not_start_is_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = len(list(OPEN.iterdir()))
    with pytest.raises(ModelError, match="has ended: exit status 1"):
        DetectionPool(Cores(2), broken)
    assert "the file is gone" in capfd.readouterr().err
    monkeypatch.setattr("worker.detect.pool._START_S", 0.1)
    with pytest.raises(ModelError, match=r"did not start in 0\.1 s"):
        DetectionPool(Cores(2), slow)
    real, started = subprocess.Popen, []

    def start(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(real(*words, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(ModelError, match=r"can be started: .*temporarily unavailable"):
        DetectionPool(Cores(2), Shapes)
    assert started[0].returncode == 0
    assert len(list(OPEN.iterdir())) <= files, "something is still open"


def test_a_detector_with_a_pool_finds_the_same_faces() -> None:
    before = set(family(os.getpid()))
    alone = load_detector(provider="cpu", min_face=30)
    pooled = load_detector(provider="cpu", min_face=30, cores=Cores(2), pooled=True)
    assert isinstance(pooled, FaceDetector)
    assert pooled.info == alone.info
    pictures = [data.astronaut(), picture(5, 7), data.astronaut()[:300, 100:]]
    for look in ("detect", "glance"):
        for faces in zip(*(getattr(each, look)(pictures) for each in (alone, pooled)), strict=True):
            assert_same(*faces, atol=0)
    assert len(pooled.detect(pictures)[0]) > 0
    ours = set(family(os.getpid())) - before
    assert len(ours) == min(2, cores())
    del pooled
    gc.collect()
    assert not ours & set(family(os.getpid())), "they are not needed any more"
