"""A worker as a process of its own, and other children that live as long as they are needed."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from worker import usage
from worker.bench.figures import Buckets
from worker.errors import MienError

_START_S = 120.0
# What we say ourselves to each worker; the rest of the environment holds as it is.
_OURS = (
    "MIEN_REDIS", "MIEN_FEEDS", "MIEN_METRICS_PORT", "MIEN_METRICS_HOST",
    "MIEN_EVENTS_KEPT", "MIEN_EVENTS_AGE_S",
)  # fmt: skip


def check_system() -> None:
    """Raises MienError where the kernel does not tell what a process takes."""
    if not usage.TOLD:
        raise MienError(f"mien bench reads /proc, which {platform.system()} does not have")


@dataclass(frozen=True, slots=True)
class Timing:
    """What the worker's histogram says of one stage."""

    buckets: Buckets
    seconds: float
    """All observations added up."""

    def since(self, before: Timing) -> Timing:
        gone = {bound: count - before.buckets[bound] for bound, count in self.buckets.items()}
        return Timing(gone, self.seconds - before.seconds)

    def plus(self, other: Timing) -> Timing:
        added = {bound: count + other.buckets[bound] for bound, count in self.buckets.items()}
        return Timing(added, self.seconds + other.seconds)


@dataclass(frozen=True, slots=True)
class Child:
    """A process of ours that must live as long as we need it."""

    process: subprocess.Popen[str]
    name: str
    log: IO[str]

    def check(self) -> None:
        """Raise MienError with its last words if it has ended."""
        if self.process.poll() is None:
            return
        self.log.seek(0)
        lines = [line.strip() for line in self.log if line.strip()]
        said = [line for line in lines if line.startswith("mien: ")] or lines
        last_words = said[-1].removeprefix("mien: ") if said else "it left no word"
        raise MienError(f"the {self.name} could not go on: {last_words}")

    def line(self) -> str:
        """The next line that it prints, waited for; MienError if it ends instead."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said:
            self.process.wait()
            self.check()
        return said

    def tell(self, line: str) -> None:
        """A line for its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@contextmanager
def child(
    name: str, module: str, *words: str, environment: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """``python -m module words...`` with pipes; it ends with the block at the latest."""
    with tempfile.TemporaryFile("w+") as log:
        # In a group of its own: Ctrl-C reaches us alone, and we end it. Not in a session: where the
        # kernel schedules by session, it would not have the priority that we were given.
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=environment, process_group=0,
        )  # fmt: skip
        made = Child(process, name, log)
        try:
            yield made
        except OSError:
            # Its end, perhaps, on the other side of a pipe or connection: that is what to tell.
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
            made.check()
            raise
        except BaseException:
            process.kill()
            raise
        finally:
            process.terminate()
            try:
                process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process, ready to analyse."""

    child: Child
    metrics: str
    """URL of its /metrics."""

    @property
    def pids(self) -> list[int]:
        """The worker's, and those of the processes that detect faces for it."""
        return usage.family(self.child.process.pid)

    def stages(self) -> dict[str, Timing]:
        """Stage -> what ``mien_stage_seconds`` says of it up to now."""
        buckets: dict[str, dict[float, float]] = {}
        seconds: dict[str, float] = {}
        with urlopen(self.metrics, timeout=10) as reply:
            page = reply.read().decode()
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                stage = sample.labels.get("stage", "")
                if sample.name == "mien_stage_seconds_bucket":
                    buckets.setdefault(stage, {})[float(sample.labels["le"])] = sample.value
                elif sample.name == "mien_stage_seconds_sum":
                    seconds[stage] = sample.value
        return {stage: Timing(found, seconds[stage]) for stage, found in buckets.items()}


@contextmanager
def worker_process(
    url: str, *, threads: int | None, settings: Mapping[str, str]
) -> Iterator[Worker]:
    """A worker on all feeds of the server at ``url``, yielded once it is ready.

    ``settings`` go into its environment (``MIEN_...``), over those that are there.

    Raises:
        MienError: it does not start; with its own last words.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
    port = _free_port()
    words = ["worker", "--redis", url, "--metrics-port", str(port)]
    if threads is not None:
        words += ["--threads", str(threads)]
    with child("worker", "worker.app", *words, environment={**environment, **settings}) as started:
        base = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + _START_S
        while not _answers(f"{base}/readyz"):
            started.check()
            if time.monotonic() > deadline:
                raise MienError("the worker did not start in time")
            time.sleep(0.02)
        yield Worker(started, f"{base}/metrics")


def merged(rounds: Sequence[Mapping[str, Timing]]) -> dict[str, Timing]:
    """The stages of several rounds, added."""
    total: dict[str, Timing] = {}
    for stages in rounds:
        for name, timing in stages.items():
            total[name] = total[name].plus(timing) if name in total else timing
    return total


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
