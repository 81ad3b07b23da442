"""The application behind uvicorn: on a socket of ours, and stopped in order."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from worker.errors import CANNOT_BIND, SettingsError, reason
from worker.web.app import Web

_UNREAD_MS = 60_000
"""Who takes nothing for so long has gone; else a stalled viewer would keep its place for ever."""
_SEND_BYTES = 1 << 18
"""What the system keeps for one connection; left to itself it may be megabytes."""
_STOP_S = 5
_OTHERS = 1_000
"""Connections beside those that are live."""
_REQUEST_S = 10.0
"""A connection on which no whole request comes for so long is closed: it would hold a place."""
_LARGEST_HEAD = 1 << 16
"""Of a request, in bytes: URL and Last-Event-ID may both name many feeds."""


class Prompt(H11Protocol):
    """HTTP for clients who say what they want: silent connections and dripping heads end."""

    _look: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _look_later(self) -> None:
        self._look = self.loop.call_later(_REQUEST_S, self._end_if_silent, self.cycle)

    def _end_if_silent(self, before: RequestResponseCycle | None) -> None:
        """``before``: the request of the last look."""
        if self.cycle is before and (before is None or before.response_complete):
            self.transport.close()
        else:
            self._look_later()


class WebServer(uvicorn.Server):
    """Ends live streams before it waits for what is open: they do not end by themselves."""

    def __init__(
        self,
        web: Web,
        *,
        max_live: int,
        proxy: str | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
    ) -> None:
        """
        Args:
            max_live: how many live streams there may be; other connections are bounded as well.
            proxy: address whose X-Forwarded-For and -Proto are believed; None: nobody's are.
            tls_cert, tls_key: PEM files, to serve https.

        Raises:
            SettingsError: the certificate and its key cannot be used.
        """
        config = uvicorn.Config(
            web.app,
            log_config=None,
            http=Prompt,
            h11_max_incomplete_event_size=_LARGEST_HEAD,
            ws="none",
            access_log=False,
            server_header=False,
            proxy_headers=proxy is not None,
            forwarded_allow_ips=proxy,
            limit_concurrency=max_live + _OTHERS,
            timeout_graceful_shutdown=_STOP_S,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
        )
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            raise SettingsError(
                f"--tls-cert {tls_cert} with --tls-key {tls_key} cannot be used: "
                f"{error.strerror or error}"
            ) from None
        super().__init__(config)
        self._web = web

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._web.hub.stop()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host`` and ``port`` (0: any that is free), for uvicorn.

    Raises:
        SettingsError: it cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit these.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
        listening.bind(address)
        listening.listen()
    except CANNOT_BIND as error:
        raise SettingsError(f"cannot serve at {host}:{port}: {reason(error)}") from None
    return listening


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def url_of(listening: socket.socket, *, tls: bool = False) -> str:
    """Where the page is."""
    address, port = listening.getsockname()[:2]
    name = f"[{address}]" if ":" in address else address
    return f"http{'s' if tls else ''}://{name}:{port}/"
