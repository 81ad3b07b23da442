"""What ``mien bench --json`` prints; ``--schema`` prints it as a JSON Schema.

Rates are frames a second, times say their unit in their name, memory is bytes, shares and ratios
are parts of 1. A :class:`Spread` has one value of each round behind it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Spread(_Record):
    """Median and range over the rounds."""

    median: float
    low: float
    high: float


class Percentiles(_Record):
    p50: float
    p95: float
    p99: float


class Facts(_Record):
    """Under what conditions the figures came about."""

    mien: str
    cpu: str
    cores: int
    """That this process may use."""
    memory_bytes: int
    load_before: float
    """Of the last minute, before the first measurement: what else ran here."""
    worker_threads: int
    system: str
    server: str
    """The embedded server and its version."""
    libraries: dict[str, str]
    """Name -> version of the libraries that do the work."""
    settings: dict[str, str]
    """MIEN_ variables of the environment, which hold for the workers; secrets are left out."""
    models: dict[str, str]
    """detector and classifier -> name, version and digest, as the events say."""


class Decode(_Record):
    """(a) Full-size decode of the stream's JPEGs, one thread, nothing else."""

    frames_per_s: Spread


class Stage(_Record):
    """One step of the worker's pipeline, over all rounds without their warm-up."""

    stage: str
    batches: int
    ms_per_frame: float
    """Wall time of the step, shared out over the frames. Of ``decode`` that of all its threads,
    and of each picture's first size only: another one is decoded in the step that asks for it."""
    batch_ms: Percentiles
    """Of a batch; interpolated within the worker's histogram, so only as fine as its buckets."""


class LabelChanges(_Record):
    """How often the label of a track changes, per minute of track (the video's own time)."""

    raw_per_minute: float
    """The label of the greatest raw probability."""
    steady_per_minute: float
    """The event's label."""
    track_minutes: float
    """All tracks added up: what the two rates rest on."""


class Contender(_Record):
    """A whole loop over the frames: (b) naive, (c) full detection, (d) default."""

    frames_per_s: Spread
    """Ours: by the server's clock, from the end of the first batches (warm-up) to the last event of
    a stream that was filled beforehand. Naive: over all frames, after a warm-up of three."""
    cpu_s_per_1000_frames: Spread
    """Of the worker or the naive loop's process."""
    peak_memory_bytes: Spread
    """Greatest resident size (VmHWM) of that process."""
    faces_per_frame: float


class Naive(Contender):
    """(b) facenet-pytorch's MTCNN with landmarks on each frame, one classifier call a face.

    Its JPEGs lie in memory; no stream, no tracks.
    """

    threads: int
    """The number of torch's threads that was fastest here."""
    device: str
    """torch's: cpu or cuda."""
    tried: dict[int, float]
    """Threads -> frames/s when they were tried."""


class Latency(_Record):
    """Ingest to event in a second part: a live feed at half the rate that was found."""

    offered_per_s: float
    ms: Percentiles
    lost_frames: int
    """Dropped or skipped."""


class Ours(Contender):
    """(c) or (d): a worker process on a real stream."""

    server_cpu_s_per_1000_frames: Spread
    stages: list[Stage]
    latency: Latency
    label_changes: LabelChanges


class Agreement(_Record):
    """How well the faces of one loop are those of another, the reference."""

    of: Literal["full", "default"]
    reference: Literal["naive", "full"]
    reference_faces: int
    found: float
    """Share of the reference's faces that overlap one of these by an IoU of 0.5 or more."""
    extra: float
    """Share of these faces that are no such partner."""
    equal_labels: float
    """Share of the partners whose labels of the greatest raw probability are equal."""


class SizeResult(_Record):
    """Everything about one size of pictures."""

    source: str
    width: int
    height: int
    frames: int
    stream_frames: int
    """In the streams of (c) and (d), which repeat the clip's."""
    jpeg_bytes: int
    """Of a frame, on average."""
    decode: Decode
    naive: Naive | None
    """None without --against."""
    full: Ours
    """Full detection on every frame."""
    default: Ours
    agreement: list[Agreement]
    ratios: dict[str, Spread]
    """full/naive, default/naive, default/decode, default/full: of each round's frames/s."""


class Comparison(_Record):
    """Of ``mien bench``."""

    kind: Literal["comparison"] = "comparison"
    facts: Facts
    rounds: int
    sizes: list[SizeResult]


class Level(_Record):
    """One number of feeds and what became of their frames, after a warm-up."""

    feeds: int
    offered_per_s: float
    frames_per_s: float
    ms: Percentiles
    """Ingest to event, by the server's clock."""
    dropped: int
    skipped: int
    dead: int
    worker_cores: float
    """CPU seconds of the worker in each second."""
    server_cores: float
    push_late_ms: float
    """95th percentile of how much later than planned a frame was pushed."""
    verdict: Literal["met", "late", "lost", "behind", "pusher late"]
    """met: the target was; late: p95 above it; lost: frames were dropped, skipped or dead;
    pusher late: the pushes themselves fell behind, so the level says nothing of the worker."""


class Capacity(_Record):
    """Of ``mien bench --feeds``."""

    kind: Literal["capacity"] = "capacity"
    facts: Facts
    source: str
    width: int
    height: int
    rate: float
    """Frames a second of each feed."""
    target_ms: float
    seconds: float
    """For which each level was measured."""
    feeds: int
    """The greatest number that met the target; 0 if one feed did not."""
    levels: list[Level]
    """The latency curve, by number of feeds."""


class ManyFeeds(_Record):
    """One feed against many: the same frames, at the same total rate."""

    feeds: int
    frames_per_s: float
    """In all, of either."""
    cpu_ms_per_frame_of_one: Spread
    cpu_ms_per_frame_of_many: Spread
    growth: Spread
    """The second over the first, round by round."""


class ManyFaces(_Record):
    """Few faces in a frame against many: what one more costs."""

    of: Literal["full", "default"]
    faces_of_few: float
    """Found in a frame, on average."""
    faces_of_many: float
    ms_per_frame_of_few: Spread
    ms_per_frame_of_many: Spread
    ms_per_extra_face: Spread
    """On the wall, all of the worker's cores at work."""
    cpu_ms_per_extra_face: Spread


class Held(_Record):
    """Memory of a worker that holds many feeds, each with frames that wait."""

    feeds: int
    frames: int
    """Analysed, of all feeds."""
    peak_memory_bytes: int
    """Greatest resident size (VmHWM) of the worker."""


class Growth(_Record):
    """Of ``mien bench --growth``."""

    kind: Literal["growth"] = "growth"
    facts: Facts
    rounds: int
    width: int
    height: int
    many_feeds: ManyFeeds
    many_faces: list[ManyFaces]
    held: Held


Report = Comparison | Capacity | Growth
