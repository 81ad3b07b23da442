"""``mien web``: the page and the HTTP API, and ``token``, which lets somebody in."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import structlog
import typer

from worker import logs
from worker.errors import SettingsError
from worker.logs import LogFormat, LogLevel
from worker.operate.durations import seconds
from worker.terminal import say

app = typer.Typer(rich_markup_mode=None)

Tokens = Annotated[
    Path | None, typer.Option(envvar="MIEN_TOKENS", help="File of tokens: who may read what.")
]


@app.callback(invoke_without_command=True)
def web(
    context: typer.Context,
    redis: Annotated[
        str | None,
        typer.Option(help="URL of the Redis or Valkey server; else MIEN_REDIS says it."),
    ] = None,
    host: Annotated[
        str, typer.Option(envvar="MIEN_WEB_HOST", help="Address to serve at.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="MIEN_WEB_PORT", min=0, max=65535, help="0: any that is free.")
    ] = 8080,
    tokens: Tokens = None,
    session_key: Annotated[
        Path | None,
        typer.Option(
            envvar="MIEN_SESSION_KEY",
            help="File of 32 bytes or more that signs browsers' sessions; else they end with us.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate (PEM): serve https. With --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM), without password.")] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Other site whose pages may read the API, as https://a.example."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name by which a proxy on this machine calls us, beside localhost."),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            envvar="MIEN_WEB_PROXY",
            help="Address or network of proxies whose X-Forwarded-For and -Proto are believed.",
        ),
    ] = None,
    max_live: Annotated[int, typer.Option(min=1, help="Live streams at once.")] = 500,
    max_live_each: Annotated[
        int, typer.Option(min=1, help="Of them for each token and address.")
    ] = 50,
    rate: Annotated[
        float, typer.Option(min=1, help="Requests a second for each token and address.")
    ] = 100.0,
    log_level: LogLevel = "info",
    log_format: LogFormat = "auto",
) -> None:
    """Serve the page and the HTTP API: live events, history, summaries, previews, books.

    Without --tokens everybody who reaches the address may read, so it is one of this machine's own
    (loopback). /api/openapi.json describes the API; /metrics, /healthz and /readyz are there too.

    Example: mien web --port 8080

    mien web token wall --feeds 'cam*' --tokens tokens.toml

    mien web --host 0.0.0.0 --tokens tokens.toml
    """
    if context.invoked_subcommand is not None:
        return
    # The web libraries load slowly: only this command pays for them.
    from prometheus_client import REGISTRY

    from worker.web.access import Access
    from worker.web.app import build
    from worker.web.guard import Rules, loopback_names
    from worker.web.limits import Places
    from worker.web.metrics import Metrics
    from worker.web.serve import WebServer, is_loopback, listen, url_of
    from worker.wire.server import Server

    _check_origins(allow_origin or [])
    if bool(tls_cert) != bool(tls_key):
        raise SettingsError("--tls-cert and --tls-key belong together")
    access = Access(tokens, _key_of(session_key))
    server = Server(redis)
    metrics = Metrics(REGISTRY)
    listening = listen(host, port)
    inside = is_loopback(listening)
    if not inside and access.open:
        raise SettingsError(
            f"everybody who reaches {host} could read all feeds: give --tokens FILE "
            "(mien web token NAME makes one), or serve at 127.0.0.1"
        )
    rules = Rules(
        hosts=loopback_names(allow_host or []) if inside else None,
        origins=tuple(allow_origin or []),
        per_s=rate,
        burst=3 * rate,
    )
    logs.configure(log_level, log_format, count=metrics.logged)
    web = build(server, access, rules, Places(max_live, max_live_each), metrics, REGISTRY)
    serving = WebServer(web, max_live=max_live, proxy=proxy, tls_cert=tls_cert, tls_key=tls_key)
    structlog.get_logger().info(
        "web ready",
        url=url_of(listening, tls=tls_cert is not None),
        server=server.name,
        tokens="none wanted" if access.open else str(tokens),
    )
    # uvicorn stops in order and then raises the signal again: that is no error.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    serving.run(sockets=[listening])


@app.command("token")
def token_command(
    name: Annotated[str, typer.Argument(help="Whose it is: a word for the file and the logs.")],
    feeds: Annotated[
        list[str] | None,
        typer.Option(help="Feeds that it is for, as a pattern; may be repeated. Default: none."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="For how long: 12h, 90d. Default: until it is taken out.")
    ] = None,
    tokens: Tokens = None,
) -> None:
    """Make a token, show it once, and append its hash to the file of tokens.

    Who runs takes the file up within a second. To revoke a token, delete its lines; a container
    sees that once it is made anew, as most editors put a new file in the old one's place.

    Example: mien web token wall --feeds 'cam*' --expires 90d --tokens tokens.toml
    """
    from worker.web.tokens import new_token

    if tokens is None:
        raise SettingsError("say which file: --tokens FILE, or MIEN_TOKENS")
    if not feeds:
        raise SettingsError("say for which feeds: --feeds 'cam*', or --feeds '*' for all")
    life_s = seconds("--expires", expires)
    try:
        until = None if life_s is None else datetime.now(UTC) + timedelta(seconds=life_s)
    except OverflowError:
        raise SettingsError(f"--expires {expires} is too far away") from None
    print(new_token(tokens, name, tuple(feeds), until))
    say(f"it is shown only now; {tokens} has its hash")


def _check_origins(origins: list[str]) -> None:
    for origin in origins:
        scheme, _, rest = origin.partition("://")
        if scheme not in ("http", "https") or not rest or "/" in rest:
            raise SettingsError(
                f"--allow-origin {origin} is no origin: write https://name, without a path"
            )


def _key_of(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        key = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read --session-key {path}: {error.strerror}") from None
    if len(key) < 32:
        raise SettingsError(f"--session-key {path} has {len(key)} bytes: it needs 32 or more")
    return key
