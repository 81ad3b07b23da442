"""``mien feeds``: the books of all feeds, and ``set`` and ``rm`` for one of them."""

from __future__ import annotations

import json as json_module
import signal
import sys
import time
from contextlib import suppress
from typing import Annotated, Literal

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker.errors import CANNOT_BIND, ServerUnavailable, SettingsError, reason
from worker.operate.durations import seconds
from worker.operate.feeds import RATE_OVER_S, Look, Looks, Status, as_json
from worker.operate.remove import remove
from worker.records import Policy
from worker.terminal import plain_console, say
from worker.wire.registry import MAX_DEPTH, FeedSettings, change, register
from worker.wire.server import Server

app = typer.Typer(rich_markup_mode=None)

# MIEN_REDIS is read by Server: here it would hide a --redis that stands before the sub-command.
Redis = Annotated[
    str | None, typer.Option(help="URL of the Redis or Valkey server; else MIEN_REDIS says it.")
]
_COUNTS = ("offered", "published", "dropped", "skipped", "dead", "in flight")


@app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    redis: Redis = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until stopped.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a look.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Show nothing, but serve /metrics of all feeds here."),
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for --metrics-port.")] = "127.0.0.1",
) -> None:
    """Show each feed's books: what was offered, and what became of it.

    The rates are frames a second, in (offered) and out (published), over one second; with
    --watch over the last ten. With --metrics-port Prometheus gets the books, until stopped;
    mien web serves them as well.

    Example: mien feeds --watch

    mien feeds --metrics-port 9101
    """
    context.obj = redis
    if context.invoked_subcommand is not None:
        if watch or json or metrics_port is not None:
            raise SettingsError("--watch, --json and --metrics-port belong to mien feeds alone")
        return
    if metrics_port is not None:
        with suppress(KeyboardInterrupt):
            _serve(Server(redis), metrics_host, metrics_port)
        return
    looks = Looks(Server(redis))
    looks.again()
    time.sleep(RATE_OVER_S)
    if not watch:
        _print(looks.again(), json)
        return
    with suppress(KeyboardInterrupt):
        _watch(looks, json)


@app.command("set")
def set_command(
    context: typer.Context,
    feed: Annotated[str, typer.Argument(help="Name of the feed.")],
    policy: Annotated[
        Policy | None, typer.Option(help="live: fresh frames; lossless: every frame.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, max=MAX_DEPTH, help="Frames that may wait to be read.")
    ] = None,
    staleness: Annotated[
        str | None, typer.Option(help="Skip live frames that have waited longer: 2, 0.5 or 1m.")
    ] = None,
    events_kept: Annotated[
        int | None, typer.Option(min=0, help="About so many events; 0: as the workers say.")
    ] = None,
    events_age: Annotated[
        str | None, typer.Option(help="Trim older events: 90, 15m, 12h, 7d; 0: as the workers say.")
    ] = None,
    dead_kept: Annotated[
        int | None, typer.Option(min=0, help="About so many dead letters; 0: as the workers say.")
    ] = None,
    dead_age: Annotated[
        str | None, typer.Option(help="Trim older dead letters; 0: as the workers say.")
    ] = None,
    dead_pixels: Annotated[
        Literal["on", "off"] | None,
        typer.Option(help="Whether dead letters keep their frames' pixels, to be redriven."),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Enter it, for writers that may not do so themselves.")
    ] = False,
    redis: Redis = None,
) -> None:
    """Change settings of a feed that exists; what runs takes them up within about a second.

    Example: mien feeds set cam1 --depth 16 --staleness 3 --events-age 7d --dead-pixels on

    mien feeds set cam-2 --new
    """
    given = {
        "policy": policy, "depth": depth, "staleness_s": seconds("--staleness", staleness),
        "events_kept": events_kept, "events_age_s": seconds("--events-age", events_age),
        "dead_kept": dead_kept, "dead_age_s": seconds("--dead-age", dead_age),
        "dead_pixels": None if dead_pixels is None else dead_pixels == "on",
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes and not new:
        raise SettingsError(
            f"say what to change of feed {feed}: --policy, --depth, --staleness ..."
        )
    server = Server(redis or context.obj)
    if new:
        # Who may not enter a feed may not bring the script with which it pushes, either.
        server.load_scripts()
    settings = (register if new else change)(server, feed, **changes)
    plain_console().print(f"{feed}: {_words(settings)}", soft_wrap=True)


@app.command("rm")
def rm_command(
    context: typer.Context,
    feed: Annotated[str, typer.Argument(help="Name of the feed.")],
    force: Annotated[
        bool, typer.Option("--force", help="Even if it is in use; frames in flight are lost.")
    ] = False,
    redis: Redis = None,
) -> None:
    """Remove a feed with its frames, events, dead letters and books.

    Refused while frames are in flight, a writer pushes or a worker does not let go of it. A writer
    that still runs enters its feed again.

    Example: mien feeds rm cam1
    """
    gone = remove(Server(redis or context.obj), feed, force=force)
    words = f"{feed} removed, with {gone.events} events and {gone.letters} dead letters"
    if gone.waiting or gone.in_hand:
        words += f"; lost: {gone.waiting} frames that waited and {gone.in_hand} in hand"
    plain_console().print(words, soft_wrap=True)


def _serve(server: Server, host: str, port: int) -> None:
    """Answer scrapes until stopped."""
    from prometheus_client import REGISTRY, start_http_server

    from worker.operate.exporter import FeedCollector

    try:
        server.now_us()
    except ServerUnavailable as error:
        say(f"{error}; each scrape asks again")  # an outage is what is to be told
    REGISTRY.register(FeedCollector(server))
    try:
        http, thread = start_http_server(port, host)
    except CANNOT_BIND as error:
        raise SettingsError(f"cannot serve metrics on {host}:{port}: {reason(error)}") from None
    say(f"metrics of the feeds at {server.name} are served on {host}:{http.server_port}")
    # As the first process of a container it would not be heard otherwise.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    thread.join()


def _watch(looks: Looks, json: bool) -> None:
    if json or not sys.stdout.isatty():
        while True:
            _print(looks.again(), json)
            time.sleep(RATE_OVER_S)
    with Live(console=plain_console(), auto_refresh=False) as live:
        while True:
            try:
                look = looks.again()
                said = [f"{feed!a}: {what}" for feed, what in look.complaints.items()]
                live.update(Group(table(look), *map(Text, said)), refresh=True)
            except ServerUnavailable as error:
                live.update(Text(f"{error}; trying again"), refresh=True)
            time.sleep(RATE_OVER_S)


def _print(look: Look, json: bool) -> None:
    if json:
        feeds = {feed: as_json(status) for feed, status in look.feeds.items()}
        print(json_module.dumps({"feeds": feeds, "complaints": dict(look.complaints)}), flush=True)
        return
    # A pipe has no width: nothing is cut short for it.
    out = plain_console(width=None if sys.stdout.isatty() else 500)
    out.print(table(look) if look.feeds else "no feeds yet")
    for feed, what in look.complaints.items():
        say(f"{feed!a}: {what}")


def table(look: Look) -> Table:
    """The books as a table, a feed a row."""
    made = Table(box=None, header_style="bold")
    made.add_column("feed")
    made.add_column("policy")
    for heading in (*_COUNTS, "oldest", "in/s", "out/s"):
        made.add_column(heading, justify="right")
    made.add_column("worker")
    for feed, status in look.feeds.items():
        made.add_row(feed, *_cells(status))
    return made


def _cells(status: Status) -> list[str]:
    books = status.books
    rates = (status.offered_per_s, status.published_per_s)
    return [
        status.settings.policy,
        *(str(getattr(books, heading.replace(" ", "_"))) for heading in _COUNTS),
        f"{books.oldest_age_s:.1f} s",
        *("-" if rate is None else f"{rate:.1f}" for rate in rates),
        status.owner or "none",
    ]


def _words(settings: FeedSettings) -> str:
    def kept(count: int, age_s: float) -> str:
        words = f"about {count}" if count else "as many as the workers say"
        return f"{words}, for {age_s:.15g} s" if age_s else words

    return (
        f"{settings.policy}, depth {settings.depth}, staleness {settings.staleness_s:g} s; "
        f"events kept: {kept(settings.events_kept, settings.events_age_s)}; "
        f"dead letters kept: {kept(settings.dead_kept, settings.dead_age_s)}, "
        f"{'with' if settings.dead_pixels else 'without'} pixels"
    )
