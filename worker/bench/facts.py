"""The conditions of a measurement: machine, versions, settings, models."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import cv2
import onnxruntime

from worker.bench.report import Facts
from worker.config import WorkerSettings, cores
from worker.embedded import embedded
from worker.records import FrameEvent, ModelInfo
from worker.wire.server import Server

# The bench says these itself; an address may hold a password.
_NOT_TOLD = frozenset({"MIEN_REDIS", "MIEN_FEEDS", "MIEN_METRICS_PORT", "MIEN_METRICS_HOST"})


class Conditions:
    """Made before the first measurement: the load tells what else ran here."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._threads = settings.threads
        self._load = os.getloadavg()[0]
        self._settings = {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("MIEN_") and name not in _NOT_TOLD
        }

    def facts(self, event: FrameEvent, libraries: Mapping[str, str] | None = None) -> Facts:
        """``event`` says which models spoke; ``libraries`` are those of others, with versions."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Facts(
            mien=version("mien"),
            cpu=_cpu(),
            cores=cores(),
            memory_bytes=memory,
            load_before=self._load,
            worker_threads=self._threads,
            system=f"{platform.platform()}, Python {platform.python_version()}",
            server=_server(),
            libraries={
                "onnxruntime": onnxruntime.__version__,
                "opencv": cv2.__version__,
                "numpy": version("numpy"),
                **(libraries or {}),
            },
            settings=self._settings,
            models={"detector": _words(event.detector), "classifier": _words(event.classifier)},
        )


def _words(model: ModelInfo) -> str:
    return f"{model.name} {model.version} {model.digest}"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _server() -> str:
    with embedded(save="") as process:
        server = Server(f"redis://127.0.0.1:{process.port}")
        info = server.command("INFO", "server")
        server.close()
    name = info.get("server_name", "redis")
    return f"{name} {info.get(f'{name}_version', info['redis_version'])}"
