"""What of this machine and its settings is not as a worker needs it, and what to change."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from worker.config import WorkerSettings, cores
from worker.errors import MienError
from worker.operate.doctor import Finding


def examine_here(settings: WorkerSettings) -> Iterator[Finding]:
    """Look at the runtime, the threads, and the models as a worker with ``settings`` uses them."""
    yield _runtime()
    yield _threads(settings)
    yield from _models(settings)


def _runtime() -> Finding:
    import onnxruntime as ort

    offered = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version_of(name) is not None]
    said = f"Python {platform.python_version()}, onnxruntime {ort.__version__}: " + ", ".join(
        offered
    )
    if len(both) > 1:
        return Finding(
            "runtime",
            "bad",
            "onnxruntime and onnxruntime-gpu are both installed: one hides the other",
            "pip uninstall onnxruntime onnxruntime-gpu, then install the one that you want",
        )
    return Finding("runtime", "good", said)


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _threads(settings: WorkerSettings) -> Finding:
    usable = cores()
    said = f"{settings.threads} threads on {usable} usable cores"
    if settings.threads > usable:
        return Finding(
            "threads",
            "change",
            f"{said}: they will wait for each other",
            f"MIEN_THREADS={usable}, or give the container more",
        )
    return Finding("threads", "good", said)


def _models(settings: WorkerSettings) -> Iterator[Finding]:
    # The models' libraries load slowly: only who looks at models pays for them.
    from prometheus_client import CollectorRegistry

    from worker.analysis import Analyst, load_models
    from worker.cores import Cores
    from worker.metrics import Metrics

    try:
        detector, classifier = load_models(settings, Cores(min(settings.threads, cores())))
        Analyst(detector, classifier, settings, Metrics(CollectorRegistry())).try_models()
    except MienError as error:
        yield Finding("models", "bad", str(error), "see MIEN_MODEL and MIEN_PROVIDER")
        return
    for role, info in (("detector", detector.info), ("classifier", classifier.info)):
        yield Finding(role, "good", f"{info.name} {info.version}, digest {info.digest}")
    provider = classifier.network.session.get_providers()[0].removesuffix("ExecutionProvider")
    yield Finding("provider", "good", f"the models run on {provider}, tried on a portrait")
