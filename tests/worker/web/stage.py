"""A running set-up for the page: embedded server, worker, pushed sample clip, ``mien web``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_port
from worker.capture.push import push
from worker.embedded import embedded
from worker.records import Policy

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "worker" / "sample" / "faces.mp4"
_START_S = 60.0


class Process:
    """A ``mien`` command in a process of its own; its log is in ``log``."""

    def __init__(self, log: Path, *words: str) -> None:
        self.log = log
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with log.open("w") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.app", *words],
                stdout=out, stderr=out, env=environment, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()


class Stage:
    """What stands on it; each part can be taken away. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._closing = ExitStack()
        self._redis = embedded()
        self._redis.start()
        self._closing.callback(self._redis.stop)
        self.redis = f"redis://127.0.0.1:{self._redis.port}"
        self._port = free_port()
        self.page = f"http://127.0.0.1:{self._port}/"
        self.web: Process | None = None
        self.workers: list[Process] = []
        self._pushes: list[_Pushing] = []

    def start_web(self, *words: str) -> None:
        words = ("--redis", self.redis, "--port", str(self._port), *words)
        self.web = self._start("web", *words)
        _wait_for(self.page + "healthz", self.web)

    def start_worker(self, *words: str) -> None:
        """A worker that publishes previews, unless ``words`` say otherwise."""
        words = ("--redis", self.redis, "--preview", "clear", *words)
        self.workers.append(self._start("worker", *words))

    def push(
        self,
        feed: str,
        source: Path = SAMPLE,
        *,
        fps: float = 8,
        policy: Policy = "live",
        loop: bool = True,
    ) -> None:
        """Push ``source`` at its own pace."""
        options = {"fps": fps, "policy": policy, "loop": loop}
        pushing = _Pushing(self.redis, feed, source, options)
        self._pushes.append(pushing)
        self._closing.callback(pushing.close)

    def end_pushes(self) -> None:
        for pushing in self._pushes:
            pushing.close()

    def kill_redis(self) -> None:
        process = self._redis._process
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_pushes()
        self._closing.close()

    def _start(self, name: str, *words: str) -> Process:
        process = Process(self._folder / f"{name}.log", name, *words)
        self._closing.callback(process.close)
        return process


class _Pushing:
    """A push in a thread."""

    def __init__(self, url: str, feed: str, source: Path, options: dict[str, Any]) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._push, args=(url, feed, source, options))
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=20)

    def _push(self, url: str, feed: str, source: Path, options: dict[str, Any]) -> None:
        push(
            str(source), feed, redis=url, realtime=True, stop=self._stop,
            say=lambda message: None, **options,
        )  # fmt: skip


def _wait_for(url: str, process: Process) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline, process.log.read_text()
            time.sleep(0.1)


@contextmanager
def staged(folder: Path, feeds: Sequence[str] = (), *, worker: bool = True) -> Iterator[Stage]:
    """The set-up with these feeds pushed; everything ends with the block."""
    with Stage(folder) as stage:
        if worker:
            stage.start_worker()
        stage.start_web()
        for feed in feeds:
            stage.push(feed)
        yield stage
