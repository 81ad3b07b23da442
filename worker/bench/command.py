"""``mien bench``, as the command line finds it."""

from __future__ import annotations

import json as json_module
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from worker.config import WorkerSettings
from worker.errors import SettingsError
from worker.terminal import plain_console

_RIVAL = "facenet-pytorch"
_SIZES = ("1280x720", "640x360")
"""Of the sample clip, unless --size says otherwise; the first one where one is measured."""


def bench(
    video: Annotated[
        str | None, typer.Option(help="Video file or folder of images; else the sample clip.")
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="Scale to fit; may be repeated. Default: 1280x720 and 640x360 for the sample clip "
            "(1280x720 with --feeds and --growth), a video's own size."
        ),
    ] = None,
    frames: Annotated[
        int,
        typer.Option(
            min=16, max=10_000, help="At most so many, shown again until a stream has 1,000."
        ),
    ] = 300,
    rounds: Annotated[
        int, typer.Option(min=1, max=100, help="Interleaved; medians are shown.")
    ] = 3,
    against: Annotated[
        str | None,
        typer.Option(help="facenet-pytorch: also the naive loop. Needs the training extra."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Cores that the worker uses.")
    ] = None,
    feeds: Annotated[
        bool, typer.Option("--feeds", help="Find how many feeds one worker takes instead.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, max=1000, help="With --feeds: frames/s of each feed (5)."),
    ] = None,
    target_ms: Annotated[
        float | None,
        typer.Option(min=1, help="With --feeds: p95 of ingest to event that is wanted (200)."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, max=3600, help="With --feeds: of each level (6).")
    ] = None,
    grow: Annotated[
        bool,
        typer.Option("--growth", help="Measure what more feeds and more faces cost instead."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on one line.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of --json, and end.")
    ] = False,
) -> None:
    """Measure this machine: decoding alone, the worker with full detection, the worker by default.

    Rates through a real stream, CPU time, memory, stages, latency, agreement, steadiness of
    labels; interleaved over the rounds, on an embedded server. MIEN_ variables of the environment
    hold for the workers. Let nothing else run beside it.

    Example: mien bench --against facenet-pytorch

    How many cameras: mien bench --feeds --rate 5 --target-ms 200
    """
    # Loaded here, so that no other command waits for them.
    from pydantic import TypeAdapter

    from worker.bench.capacity import capacity
    from worker.bench.compare import check_training_extra, compare
    from worker.bench.growth import growth
    from worker.bench.pictures import Clip, load_clip, size_of
    from worker.bench.processes import check_system
    from worker.bench.progress import Progress
    from worker.bench.report import Report
    from worker.bench.show import shown

    if schema:
        print(json_module.dumps(TypeAdapter(Report).json_schema(), indent=2))
        return
    _check(against, feeds, grow, {"--rate": rate, "--target-ms": target_ms, "--seconds": seconds})
    check_system()
    if against:
        check_training_extra()
    settings = WorkerSettings.load(threads=threads)
    sizes = [
        None if text is None else size_of(text) for text in _sizes(video, size, one=feeds or grow)
    ]
    signal.signal(signal.SIGTERM, _end)
    with Progress() as say:
        say("preparing the pictures")
        clips: list[Clip] = [load_clip(video, one, frames) for one in sizes]
        if feeds:
            report: Report = capacity(
                clips[0], settings, rate=rate or 5.0, target_ms=target_ms or 200.0,
                seconds=seconds or 6.0, say=say,
            )  # fmt: skip
        elif grow:
            report = growth(clips[0], settings, rounds=rounds, say=say)
        else:
            report = compare(clips, settings, rounds=rounds, against=bool(against), say=say)
    if json:
        print(report.model_dump_json())
    else:
        # A pipe has no width: nothing is cut short for it.
        plain_console(width=None if sys.stdout.isatty() else 160).print(shown(report))


def _check(against: str | None, feeds: bool, grow: bool, of_feeds: dict[str, float | None]) -> None:
    """Refuse what does not go together before anything is measured."""
    if against not in (None, _RIVAL):
        raise SettingsError(f"--against {against} is not known here: only {_RIVAL} is")
    if feeds and grow:
        raise SettingsError("give --feeds or --growth, not both")
    if against and (feeds or grow):
        raise SettingsError("--against belongs to the comparison, not to --feeds or --growth")
    for name, value in of_feeds.items():
        if value is not None and not feeds:
            raise SettingsError(f"{name} belongs to --feeds")


def _sizes(video: str | None, given: list[str] | None, *, one: bool) -> Sequence[str | None]:
    """What --size says or stands for; None is a video's own size."""
    if one and given and len(given) > 1:
        raise SettingsError("give one --size with --feeds or --growth")
    if given:
        return given
    if video is not None:
        return [None]
    return _SIZES[:1] if one else _SIZES


def _end(number: int, _: object) -> NoReturn:
    """As an exception, so that the processes that we have started end with us."""
    raise SystemExit(128 + number)
