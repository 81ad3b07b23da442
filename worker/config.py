"""Settings, typed and rejected early. Each can be given as MIEN_<NAME> in the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.errors import SettingsError
from worker.records import PreviewMode, Provider

DEFAULT_REDIS = "redis://127.0.0.1:6379"
MAX_PIXELS = 7680 * 4320

_FromCommas = BeforeValidator(
    lambda value: [part.strip() for part in value.split(",")] if isinstance(value, str) else value
)
"""In the environment a list is written with commas: MIEN_FEEDS=hall,door."""


def cores(control: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many cores' time this process gets; ``control``: where a container's limit is written."""
    there = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = control.read_text().split()
        return min(there, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or its quota is "max"
        return there


def secrets_from_files() -> None:
    """Take MIEN_REDIS from the file that MIEN_REDIS_FILE names, if that is set.

    Containers get passwords as files: an environment is shown to whoever may inspect them.

    Raises:
        SettingsError: the file cannot be read or is empty.
    """
    name = os.environ.get("MIEN_REDIS_FILE")
    if not name:
        return
    try:
        url = Path(name).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(f"cannot read MIEN_REDIS_FILE = {name}: {why}") from None
    if not url:
        raise SettingsError(f"MIEN_REDIS_FILE = {name} is empty: it holds the server's URL")
    os.environ["MIEN_REDIS"] = url


class WorkerSettings(BaseSettings):
    """What one worker process does."""

    model_config = SettingsConfigDict(env_prefix="MIEN_", extra="ignore")

    redis: str = DEFAULT_REDIS
    feeds: Annotated[tuple[str, ...] | None, NoDecode, _FromCommas] = None
    """Only these feeds; None for all that are registered."""

    model: Path | None = None
    """ONNX classifier; None for the one that ships with mien."""
    provider: Provider = "auto"
    """Where the networks run: cpu, cuda, tensorrt; auto is cuda where it can be had, else cpu."""
    engine_cache: Path | None = None
    """Where TensorRT keeps the engines that it builds; None: in the user's cache folder."""
    threads: int = Field(default_factory=cores, ge=1, le=256)
    """So many cores are used at once. If there are several, and no GPU, faces are detected by as
    many processes beside the worker's own; and if they are all that it may use, each thread that
    computes keeps to one of them."""
    min_face: int = Field(default=40, ge=12)
    """Side of the smallest face that is looked for, in pixels."""
    face_thresholds: Annotated[tuple[float, float, float], NoDecode, _FromCommas] = (0.6, 0.7, 0.7)
    """Probability that a face needs to pass each of MTCNN's three networks."""
    pyramid_factor: float = Field(default=0.709, ge=0.1, le=0.95)
    """Size of each level of the detector's pyramid in parts of the one before."""

    detect_every: int = Field(default=8, ge=1, le=1000)
    """Full detection on every so many frames of a feed, or after 1.4 s where frames are fewer;
    between, known faces are followed, and on every fourth frame large new ones are looked for. 1:
    on every frame. In live feeds all this grows, up to twice each, while nothing moves and while
    the worker is busy."""
    smooth_s: float = Field(default=0.5, ge=0, le=60)
    """Time constant, in seconds, of the average of each track's probabilities; 0: no average."""
    classify_every: int = Field(default=1, ge=1, le=1000)
    """Each face is classified on every so many frames; between, what was said last holds."""

    batch_size: int = Field(default=32, ge=1, le=256)
    """Frames of one feed analysed together at the most. Where a second feed had frames within half
    a minute, 8 are, or one of each feed up to 16: feeds with frames at the same time share that."""
    batch_wait_ms: float = Field(default=5.0, ge=0, le=1000)
    """How long the first frame of a batch waits for others."""
    lease_ttl_s: float = Field(default=5.0, ge=0.5, le=300)
    grace_s: float = Field(default=10.0, gt=0, le=3600)
    """How long a worker that is told to stop may take to settle what it has in hand."""
    max_attempts: int = Field(default=3, ge=1)
    """A frame that was in hand alone when so many workers ended becomes a dead letter."""
    max_pixels: int = Field(default=MAX_PIXELS, ge=1)
    """A larger picture becomes a dead letter before it is decoded."""
    preview: PreviewMode = "off"
    """Small pictures for the web page, kept on the server for seconds: none, with everything so
    blurred that nobody can be recognised, or as they are."""
    # For feeds that do not set it themselves (mien feeds set).
    events_kept: int = Field(default=10_000, ge=1)
    """About how many events the server keeps for each feed."""
    events_age_s: float = Field(default=0.0, ge=0, le=3.2e9)
    """Events that are older are trimmed; 0: they may grow old."""
    dead_kept: int = Field(default=1_000, ge=1)
    """About how many dead letters the server keeps for each feed."""
    dead_age_s: float = Field(default=0.0, ge=0, le=3.2e9)

    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Where /metrics, /healthz and /readyz are served; 0 for any free port, None for nowhere."""

    @classmethod
    def load(cls, **given: Any) -> WorkerSettings:
        """Settings from the environment, overridden by what is ``given`` and not None.

        Raises:
            SettingsError: names the field that cannot be used, and why.
        """
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise SettingsError(
                f"setting {name} = {first.get('input')!r} cannot be used: {first['msg']}"
            ) from None
