"""What a process logs: one line for each thing worth saying, on standard error.

Every line has a time (UTC), a level and the event in a few constant words; what changes stands in
fields of its own, always by these names: ``feed``, ``frame_id``, ``worker`` (host:pid, as ``mien
feeds`` shows it), ``why``. A thread that has one feed binds it once, with structlog's
``bind_contextvars``. What the libraries log (uvicorn, redis, warnings) has the same form.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated, Literal

import structlog
import typer
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from worker.terminal import say

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "pretty", "logfmt", "json"]
"""``auto``: pretty on a terminal, else logfmt."""

LogLevel = Annotated[
    Level, typer.Option(envvar="MIEN_LOG_LEVEL", help="Log this and what is more important.")
]
LogFormat = Annotated[
    Format,
    typer.Option(envvar="MIEN_LOG_FORMAT", help="auto: pretty on a terminal, else logfmt."),
]
"""The options of every command that logs."""

_FIRST = ("timestamp", "level", "event", "worker", "feed", "frame_id")
_FIELDS = ("feed", "frame_id")
"""What a library's line may carry as ``extra``."""

_machine_reads = False


def configure(
    level: Level = "info",
    format: Format = "auto",
    *,
    count: Callable[[str], None] = lambda level: None,
    **always: str,
) -> None:
    """Send all logging of this process to standard error in one form. Call it once, early.

    Args:
        level: less important lines are not written. The libraries' debug lines never are.
        count: told the level of each line that is written.
        always: fields that every line has, such as ``worker``.
    """
    global _machine_reads
    _machine_reads = format in ("logfmt", "json")
    if format == "auto":
        format = "pretty" if sys.stderr.isatty() else "logfmt"

    def complete(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
        count(line["level"])
        line = {**line, **always}
        return {name: line[name] for name in (*_FIRST, *line) if name in line}

    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(allow=_FIELDS),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[ProcessorFormatter.remove_processors_meta, complete, *_renderer(format)],
        )
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(handlers=[handler], level=max(number, logging.INFO), force=True)
    logging.getLogger("mien").setLevel(number)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*common[:-1], ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: logging.getLogger("mien"),
    )


def for_machines() -> bool:
    """Whether a machine's format was asked for by name: then no line may have another form."""
    return _machine_reads


def tell(message: str, *, level: Level = "warning", **fields: str) -> None:
    """One sentence for the person who runs the command; where a machine reads it, a line like the
    others."""
    if _machine_reads:
        number = logging.getLevelNamesMapping()[level.upper()]
        structlog.get_logger().log(number, message, **fields)
    else:
        say(": ".join([*fields.values(), message]))


def _renderer(format: Format) -> list[Processor]:
    if format == "json":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    if format == "logfmt":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(),
        ]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]
