"""The figures of a benchmark as tables; each row names its unit."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from worker.bench.report import (
    Capacity,
    Comparison,
    Contender,
    Facts,
    Growth,
    ManyFaces,
    Ours,
    Percentiles,
    Report,
    SizeResult,
    Spread,
)

_NAMES = {
    "decode": "(a) decode, 1 thread",
    "naive": "(b) naive loop",
    "full": "(c) full detection",
    "default": "(d) default",
}
_MB = 1e6


def shown(report: Report) -> RenderableType:
    """Everything that the report says, for a terminal."""
    if isinstance(report, Comparison):
        parts = list(_comparison(report))
    elif isinstance(report, Capacity):
        parts = list(_capacity(report))
    else:
        parts = list(_growth(report))
    return Group(_facts(report.facts), *parts)


def _facts(facts: Facts) -> Text:
    versions = ", ".join(f"{name} {version}" for name, version in facts.libraries.items())
    models = ", ".join(f"{role} {model}" for role, model in facts.models.items())
    settings = ", ".join(f"{name}={value}" for name, value in facts.settings.items())
    lines = [
        f"{facts.cpu}, {facts.cores} cores, {facts.memory_bytes / 1e9:.1f} GB; "
        f"worker threads {facts.worker_threads}; load before {facts.load_before:.1f}",
        f"mien {facts.mien}, {facts.server}, {versions}",
        f"{facts.system}",
        f"models: {models}",
        *([f"settings: {settings}"] if settings else []),
    ]
    return Text("\n".join(lines), style="dim")


def _comparison(report: Comparison) -> Iterator[RenderableType]:
    for size in report.sizes:
        yield _rates(size, report.rounds)
        yield _ratios(size)
        yield _agreement(size)
        yield _latency(size)
        yield _stages(size)
        yield _labels(size)
    yield _note(
        "Rates: medians over the rounds (least - greatest), warm-up excluded. (c), (d): through "
        "the stream, filled beforehand, from the end of the first batches to the last event, by "
        "the server's clock. Latency: a live feed at half that rate. Stages: wall time of a batch, "
        "interpolated within the buckets of the worker's histogram; stages overlap."
    )


def _rates(size: SizeResult, rounds: int) -> Table:
    table = _table(
        f"{size.source}, {size.width}x{size.height}, {size.frames} frames of "
        f"{size.jpeg_bytes / 1000:.0f} kB ({size.stream_frames} in a stream), rounds {rounds}, "
        "interleaved",
        "loop",
        "frames/s",
        "CPU s / 1000 frames",
        "server's",
        "peak MB",
        "faces a frame",
    )
    table.add_row(_NAMES["decode"], _range(size.decode.frames_per_s))
    if size.naive:
        words = f"{_NAMES['naive']}, {size.naive.device}, threads {size.naive.threads}"
        table.add_row(words, *_contender(size.naive))
    for name, ours in (("full", size.full), ("default", size.default)):
        table.add_row(_NAMES[name], *_contender(ours))
    return table


def _contender(one: Contender) -> list[str]:
    server = _range(one.server_cpu_s_per_1000_frames, 2) if isinstance(one, Ours) else ""
    return [
        _range(one.frames_per_s),
        _range(one.cpu_s_per_1000_frames),
        server,
        f"{one.peak_memory_bytes.median / _MB:.0f}",
        f"{one.faces_per_frame:.2f}",
    ]


def _latency(size: SizeResult) -> Table:
    table = _table(
        "ingest to event, live feed at half the rate",
        "loop",
        "offered/s",
        "p50 / p95 / p99 ms",
        "lost frames",
    )
    for name, ours in (("full", size.full), ("default", size.default)):
        latency = ours.latency
        table.add_row(
            _NAMES[name],
            f"{latency.offered_per_s:.1f}",
            _three(latency.ms),
            str(latency.lost_frames),
        )
    return table


def _ratios(size: SizeResult) -> Table:
    table = _table("ratios of frames/s, round by round", "of", "to", "ratio")
    for pair, ratio in size.ratios.items():
        one, _, other = pair.partition("/")
        table.add_row(_NAMES[one], _NAMES[other], _range(ratio, 2))
    return table


def _agreement(size: SizeResult) -> Table:
    table = _table(
        "agreement (IoU of 0.5 or more)",
        "of",
        "with",
        "its faces",
        "found",
        "extra",
        "equal raw top labels",
    )
    for one in size.agreement:
        table.add_row(
            _NAMES[one.of],
            _NAMES[one.reference],
            str(one.reference_faces),
            f"{one.found:.2%}",
            f"{one.extra:.2%}",
            f"{one.equal_labels:.2%}",
        )
    return table


def _stages(size: SizeResult) -> Table:
    table = _table(
        "stages of the worker", "loop", "stage", "batches", "ms a frame", "batch p50 / p95 / p99 ms"
    )
    for name, ours in (("full", size.full), ("default", size.default)):
        for one in ours.stages:
            table.add_row(
                _NAMES[name],
                one.stage,
                str(one.batches),
                f"{one.ms_per_frame:.2f}",
                _three(one.batch_ms),
            )
    return table


def _labels(size: SizeResult) -> Table:
    table = _table("label changes per minute of a track", "loop", "raw", "steady", "track minutes")
    for name, ours in (("full", size.full), ("default", size.default)):
        changes = ours.label_changes
        table.add_row(
            _NAMES[name],
            f"{changes.raw_per_minute:.1f}",
            f"{changes.steady_per_minute:.1f}",
            f"{changes.track_minutes:.2f}",
        )
    return table


def _capacity(report: Capacity) -> Iterator[RenderableType]:
    table = _table(
        f"{report.source}, {report.width}x{report.height}: live feeds at {report.rate:g} "
        f"frames/s each, {report.seconds:g} s a level after a warm-up",
        "feeds",
        "offered/s",
        "frames/s",
        "p50 / p95 / p99 ms",
        "dropped",
        "skipped",
        "dead",
        "worker's cores",
        "server's",
        "pushed late p95 ms",
        "verdict",
    )
    for one in report.levels:
        table.add_row(
            str(one.feeds),
            f"{one.offered_per_s:.1f}",
            f"{one.frames_per_s:.1f}",
            _three(one.ms),
            str(one.dropped),
            str(one.skipped),
            str(one.dead),
            f"{one.worker_cores:.2f}",
            f"{one.server_cores:.2f}",
            f"{one.push_late_ms:.1f}",
            one.verdict,
        )
    yield table
    yield Text(
        f"{report.feeds} feeds at {report.rate:g} frames/s have a p95 of ingest to event of at "
        f"most {report.target_ms:g} ms and lose no frame.",
        style="bold",
    )
    if any(one.verdict == "pusher late" for one in report.levels):
        yield _note(
            "Where the pusher was late the machine could not even push in time: it had no time "
            "left beside the worker, and the level says nothing of it."
        )


def _growth(report: Growth) -> Iterator[RenderableType]:
    table = _table(
        f"{report.width}x{report.height}, rounds {report.rounds}, interleaved", "what", "figure"
    )
    many = report.many_feeds
    pace = f"{many.frames_per_s:.0f} frames/s in all"
    table.add_row(f"1 feed, {pace}: CPU ms a frame", _range(many.cpu_ms_per_frame_of_one))
    table.add_row(
        f"{many.feeds} feeds, {pace}: CPU ms a frame", _range(many.cpu_ms_per_frame_of_many)
    )
    table.add_row(f"growth, 1 to {many.feeds} feeds", f"{_range(many.growth, 2)} times")
    for faces in report.many_faces:
        _add_faces(table, faces)
    held = report.held
    table.add_row(
        f"greatest memory of a worker that holds {held.feeds} feeds and drains "
        f"{held.frames} frames: MB",
        f"{held.peak_memory_bytes / _MB:.0f}",
    )
    yield table


def _add_faces(table: Table, faces: ManyFaces) -> None:
    name = _NAMES[faces.of]
    for count, ms in (
        (faces.faces_of_few, faces.ms_per_frame_of_few),
        (faces.faces_of_many, faces.ms_per_frame_of_many),
    ):
        table.add_row(f"{name}, {count:.1f} faces: ms a frame", _range(ms, 2))
    table.add_row(f"{name}: ms for each extra face", _range(faces.ms_per_extra_face, 2))
    table.add_row(f"{name}: CPU ms for each extra face", _range(faces.cpu_ms_per_extra_face, 2))


def _table(title: str, first: str, *rest: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column(first)
    for heading in rest:
        table.add_column(heading, justify="right")
    return table


def _note(words: str) -> Text:
    return Text(words, style="dim")


def _range(one: Spread, digits: int = 1) -> str:
    """Median and range; of one round the one value."""
    if one.low == one.high:
        return f"{one.median:.{digits}f}"
    return f"{one.median:.{digits}f} ({one.low:.{digits}f} - {one.high:.{digits}f})"


def _three(one: Percentiles) -> str:
    return " / ".join(f"{value:.1f}" for value in (one.p50, one.p95, one.p99))
