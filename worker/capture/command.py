"""``mien push`` as a person sees it: progress of one feed, or a table of many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from structlog.contextvars import bound_contextvars

from worker import logs
from worker.capture.base import Source
from worker.capture.many import FeedPush, State, push_many
from worker.capture.options import PushOptions, read_feeds
from worker.capture.push import PushReport, push_feed
from worker.errors import MienError, SettingsError

log = structlog.get_logger()

_LINES_EVERY_S = 60.0
"""How often each feed's figures become a line of the log, where there is no table."""
_INTERRUPTED = 130


def run_push(
    source: str | None,
    feed: str | None,
    config: Path | None,
    given: dict[str, Any],
    *,
    redis: str,
    stop: threading.Event,
    screen: Console,
    say: Callable[[str], None],
) -> None:
    """Push ``source`` to ``feed``, or all feeds of the file ``config``.

    Args:
        given: the options that stand on the command line, by the names of PushOptions.

    Raises:
        SettingsError: both or neither are given, or an option cannot be used.
        MienError: what the push, or some of the feeds, failed of.
        SystemExit: it was interrupted within something that has an end.
    """
    if config is None:
        if source is None or feed is None:
            raise SettingsError("say what to push: a SOURCE and --feed NAME, or --config FILE")
        options = PushOptions.checked(name=feed, source=source, **given)
        finished = _push_one(options, redis, stop, screen, say)
    else:
        if source is not None or feed is not None or given:
            raise SettingsError(
                f"with --config, sources, feeds and their options stand in the file {config}"
            )
        finished = _push_many(read_feeds(config), redis, stop, screen, say)
    if not finished:
        raise SystemExit(_INTERRUPTED)


def _push_one(
    options: PushOptions,
    redis: str,
    stop: threading.Event,
    screen: Console,
    say: Callable[[str], None],
) -> bool:
    last, live = PushReport(), False
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeRemainingColumn(),
    )
    try:
        with (
            bound_contextvars(feed=options.name),
            Progress(*columns, console=screen, disable=not _draws(screen)) as bar,
        ):
            task = bar.add_task(options.name, total=None)

            def show(report: PushReport, opened: Source) -> None:
                nonlocal last, live
                last, live = report, opened.live
                known = opened.frames if not (options.loop or options.fps) else None
                bar.update(task, completed=report.read, total=known)

            push_feed(options, redis=redis, stop=stop, progress=show, say=say)
    finally:
        if last.read or stop.is_set():
            _sum_up(screen, options.name, last, "stopped" if stop.is_set() else "ended")
    return live or options.loop or not stop.is_set()


def _push_many(
    feeds: Sequence[PushOptions],
    redis: str,
    stop: threading.Event,
    screen: Console,
    say: Callable[[str], None],
) -> bool:
    with Live(console=screen, auto_refresh=False) as live:
        next_lines = time.monotonic() + _LINES_EVERY_S

        def show(pushes: Sequence[FeedPush]) -> None:
            nonlocal next_lines
            if _draws(screen):
                live.update(_table(pushes), refresh=True)
            elif time.monotonic() > next_lines:
                next_lines += _LINES_EVERY_S
                for push in pushes:
                    _sum_up(screen, push.options.name, push.report, push.state, push.rate())

        pushes = push_many(feeds, redis=redis, stop=stop, say=say, show=show)
    for push in pushes:
        _sum_up(screen, push.options.name, push.report, push.state)
    failed = [push.options.name for push in pushes if push.state == "failed"]
    if failed:
        raise MienError(f"{len(failed)} of {len(pushes)} feeds failed: {', '.join(failed)}")
    return not any(push.state == "stopped" and push.unfinished for push in pushes)


def _draws(screen: Console) -> bool:
    """Whether progress may be drawn there."""
    return screen.is_terminal and not logs.for_machines()


def _sum_up(
    screen: Console, name: str, report: PushReport, state: State, rate: float | None = None
) -> None:
    """One line on a feed: words for a person, fields for a machine."""
    if logs.for_machines():
        log.info("pushed", feed=name, state=state, rate=rate, **asdict(report))
        return
    words = [_summary(name, report)]
    if rate is not None:
        words += [state, f"{rate:.1f} pictures/s"]
    elif state == "failed":
        words.append(state)
    screen.print(", ".join(words), soft_wrap=True)


def _summary(name: str, report: PushReport) -> str:
    words = f"{name}: {report.accepted} frames accepted, to {report.pts_seconds:.2f} s"
    if report.displaced:
        words += f", {report.displaced} older ones dropped"
    if report.refused:
        words += f", {report.refused} refused"
    if report.missed:
        words += f", {report.missed} passed over"
    return words


def _table(pushes: Sequence[FeedPush]) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("feed")
    table.add_column("state")
    for heading in ("accepted", "dropped", "refused", "passed over", "pictures/s"):
        table.add_column(heading, justify="right")
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for push in pushes:
        report = push.report
        counts = (report.accepted, report.displaced, report.refused, report.missed)
        table.add_row(
            push.options.name,
            push.state,
            *(str(count) for count in counts),
            f"{push.rate():.1f}",
            push.note,
        )
    return table
