"""``mien doctor``: is all as it must be, and what is to be changed."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from worker.config import WorkerSettings
from worker.errors import ServerError
from worker.operate.doctor import Finding, Status, examine_server
from worker.records import Provider
from worker.terminal import plain_console
from worker.wire.server import Server

_STYLES: dict[Status, str] = {
    "good": "green", "change": "yellow", "bad": "red bold", "unknown": "cyan",
}  # fmt: skip


def doctor(
    redis: Annotated[
        str | None, typer.Option(help="URL of the server; else MIEN_REDIS says it.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="ONNX classifier, as of mien worker.")] = None,
    provider: Annotated[Provider | None, typer.Option(help="Where the networks run.")] = None,
    threads: Annotated[int | None, typer.Option(help="How many cores to use.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a finding.")] = False,
) -> None:
    """Look at the server, this machine and the models, and say what to change. Writes nothing.

    The exit status is 1 if something is bad: mien cannot work so, or loses what it promises.

    Example: mien doctor --redis rediss://operator:secret@db:6379
    """
    settings = WorkerSettings.load(redis=redis, model=model, provider=provider, threads=threads)
    console = plain_console()
    bad = changes = 0
    for finding in _all(settings):
        bad += finding.status == "bad"
        changes += finding.status in ("change", "unknown")
        if json:
            print(json_module.dumps(asdict(finding)), flush=True)
        else:
            console.print(*_lines(finding), sep="\n", soft_wrap=True)
    if not json:
        verdict = f"{bad} bad, {changes} to look at" if bad or changes else "all is well"
        console.print(Text(verdict, "bold"))
    if bad:
        raise typer.Exit(1)


def _all(settings: WorkerSettings) -> Iterator[Finding]:
    yield from _of_server(settings)
    from worker.operate.doctor_here import examine_here

    yield from examine_here(settings)


def _of_server(settings: WorkerSettings) -> Iterator[Finding]:
    """An absent server is a finding: the models are looked at all the same."""
    server = Server(settings.redis)
    try:
        yield from examine_server(server)
    except ServerError as error:
        yield Finding("server", "bad", str(error), "start it, or name another: --redis URL")
    finally:
        server.close()


def _lines(finding: Finding) -> Iterable[Text]:
    yield Text.assemble(
        (f"{finding.status:8}", _STYLES[finding.status]), (f"{finding.about:12}", "bold"),
        finding.said,
    )  # fmt: skip
    if finding.advice:
        yield Text(f"{'':20}-> {finding.advice}")
