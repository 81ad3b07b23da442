"""A real Prometheus that scrapes a real worker on an embedded server, to which a clip is pushed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.ports import free_port
from worker.embedded import embedded

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
SAMPLE = str(ROOT / "worker" / "sample" / "faces.mp4")

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
MISSING = "prometheus and promtool (Debian: prometheus) are not installed"

Series = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one."""

    port: int

    def ask(self, path: str, **arguments: str | float) -> Any:
        """The ``data`` of an answer of its HTTP API."""
        query = urllib.parse.urlencode(arguments)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{arguments}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[Series]:
        """An instant vector: each series with its ``metric`` and ``value``."""
        found: list[Series] = self.ask("query", query=expression)["result"]
        return found

    def metrics(self) -> set[str]:
        return set(self.ask("label/__name__/values"))


@contextmanager
def mien(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A command of ours, until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.app", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def prometheus(
    folder: Path, jobs: list[dict[str, Any]], *, every: str = "1s"
) -> Iterator[Prometheus]:
    """Our rules and these scrape ``jobs``, looked at more often than in earnest."""
    assert PROMETHEUS is not None, MISSING
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": every, "evaluation_interval": every}
    config["rule_files"] = [str(FOLDER / path) for path in config["rule_files"]]
    config["scrape_configs"] = jobs
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for(port, "/-/ready")
        yield Prometheus(port)
    finally:
        process.kill()
        process.wait()


def wait_for(port: int, path: str, timeout_s: float = 60.0) -> None:
    """Until there is an answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"no answer at port {port}"
            time.sleep(0.1)


def job(name: str, *ports: int) -> dict[str, Any]:
    """A scrape job of processes of this machine."""
    targets = [f"127.0.0.1:{port}" for port in ports]
    return {"job_name": name, "static_configs": [{"targets": targets}]}


def pushed(
    redis: str, feed: str, *, fps: float, width: int = 480
) -> AbstractContextManager[subprocess.Popen[str]]:
    """The sample clip as a live feed that does not end, until the end of the block."""
    return mien(
        "push", SAMPLE, "--feed", feed, "--redis", redis, "--loop", "--realtime",
        "--policy", "live", "--fps", str(fps), "--width", str(width),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs."""

    prometheus: Prometheus
    redis: str
    workers: list[subprocess.Popen[str]]


@contextmanager
def monitored(folder: Path, *, feeds: int = 1, workers: int = 1, fps: float = 4) -> Iterator[Stage]:
    """Everything: server, ``workers``, the sample clip pushed to ``feeds``, books, Prometheus."""
    with ExitStack() as stack:
        redis = f"redis://127.0.0.1:{stack.enter_context(embedded()).port}"
        ports = [free_port() for _ in range(workers + 1)]
        processes = [
            stack.enter_context(
                mien("worker", "--redis", redis, "--metrics-port", str(port), "--threads", "1")
            )
            for port in ports[1:]
        ]
        stack.enter_context(mien("feeds", "--redis", redis, "--metrics-port", str(ports[0])))
        for number in range(feeds):
            stack.enter_context(pushed(redis, f"cam-{number + 1}", fps=fps))
        for port in ports:
            wait_for(port, "/metrics")
        jobs = [job("mien-worker", *ports[1:]), job("mien-feeds", ports[0])]
        yield Stage(stack.enter_context(prometheus(folder, jobs)), redis, processes)


def filled(expression: str, over: str = "10s") -> str:
    """A dashboard's query for all feeds and workers, with rates over so long."""
    expression = expression.replace("$__rate_interval", over)
    return re.sub(r"\$(server|feed|worker)\b", ".*", expression)


def metrics_named(expression: str) -> set[str]:
    """Names of metrics in a PromQL expression; ``ALERTS`` is Prometheus' own."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b(?:\w+:mien_[\w:]+|mien_\w+|process_\w+|up)\b", bare))
