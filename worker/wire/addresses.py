"""Addresses as users write them: which server is meant, and what of a URL may be shown.

    redis://[user:password@]host[:6379][/db]             one server
    unix://[user:password@]/path/to/socket               one server on this machine
    redis+sentinel://[user:password@]host[:26379],host.../service[/db]
                                                         the primary that Sentinels name
    redis+cluster://[user:password@]host[:6379],host...  a Cluster; any of its nodes will do

With ``rediss`` in the place of ``redis`` the connections are TLS. Its options after a ``?`` are
``ssl_ca_certs`` (file of the authorities to trust besides the system's), ``ssl_certfile`` and
``ssl_keyfile`` (our own certificate), ``ssl_cert_reqs=none`` and ``ssl_check_hostname=false``.
Sentinels that want a password take ``sentinel_username`` and ``sentinel_password``.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.connection import parse_url

from worker.config import DEFAULT_REDIS
from worker.errors import SettingsError

_TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}
)
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
_PORTS = {"sentinel": 26379, "cluster": 6379}

Kind = Literal["one", "sentinel", "cluster"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is. Only ``name`` may be shown."""

    kind: Kind
    name: str
    hosts: tuple[tuple[str, int], ...]
    """Sentinels, or nodes of a Cluster, to begin with; empty for one server."""
    service: str
    """What the Sentinels call the primary."""
    options: Mapping[str, Any]
    """For redis-py's client: user, password, database, TLS; for one server its host as well."""
    sentinel_options: Mapping[str, Any]


def server_url(given: str | None) -> str:
    """The server that is meant: the one ``given``, that of ``MIEN_REDIS``, or the default."""
    return given or os.environ.get("MIEN_REDIS") or DEFAULT_REDIS


def parse_address(url: str) -> Address:
    """A server's URL, checked as far as that goes without a connection.

    Raises:
        SettingsError: it has none of the forms above, its password breaks it, or a file that it
            names cannot be used.
    """
    name = server_name(url)
    parts = _split(url)
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss") + (() if kind else ("unix",)) or kind not in (
        "",
        *_PORTS,
    ):
        raise SettingsError(
            f"{name} is not a server's URL: it begins with redis://, rediss://, unix://, "
            "redis+sentinel:// or redis+cluster://"
        )
    user, at, hosts = parts.netloc.rpartition("@")
    path = parts.path.strip("/").split("/") if kind else []
    service = unquote(path.pop(0)) if kind == "sentinel" and path else ""
    if kind == "sentinel" and not service:
        raise SettingsError(f"{name} names no service: write it after the hosts, as in /mymaster")
    database = "/".join(path) if kind else parts.path
    if kind and database and not (kind == "sentinel" and database.isdecimal()):
        raise SettingsError(f"{name} has a path that means nothing: {database}")
    if not hosts and scheme != "unix":
        raise SettingsError(f"{name} names no host")
    plain = f"{scheme}://{user}{at}{hosts.split(',')[0]}/{database.lstrip('/')}?{parts.query}"
    try:
        options = parse_url(plain if kind else url)  # type: ignore[no-untyped-call]
        check_tls(options)
        for host in hosts.split(","):
            (host.rpartition(":")[0] or host).encode("idna")  # as the resolver will
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{name} is not a server's URL: {error}") from None
    sentinel = {
        option.removeprefix("sentinel_"): options.pop(option)
        for option in _SENTINEL_OPTIONS & options.keys()
    }
    return Address(
        kind=kind or "one",  # type: ignore[arg-type]
        name=name,
        hosts=_hosts(hosts, _PORTS[kind]) if kind else (),
        service=service,
        options=options,
        sentinel_options=sentinel,
    )


def server_name(url: str) -> str:
    """What may be shown of a server's URL.

    Raises:
        SettingsError: its password breaks it, or it has options that we do not know.
    """
    try:
        name = without_secrets(url)
    except ValueError as error:
        raise SettingsError(f"the server's URL {error}") from None
    parts = _split(url)
    scheme, _, kind = parts.scheme.partition("+")
    options = {option for option, _ in parse_qsl(parts.query, keep_blank_values=True)}
    known = _TLS_OPTIONS if scheme == "rediss" else frozenset[str]()
    if options - (known | _SENTINEL_OPTIONS if kind == "sentinel" else known):
        # They are not repeated: what follows a ? may be the rest of a password.
        raise SettingsError(
            "the server's URL may have no options after a ? but, with rediss, "
            f"{', '.join(sorted(_TLS_OPTIONS))}, and with Sentinels "
            f"{', '.join(sorted(_SENTINEL_OPTIONS))} (in a password, write ? as %3F)"
        )
    return name


def without_secrets(url: str) -> str:
    """The URL without user, password, query and fragment: cameras take passwords in queries too.

    Raises:
        ValueError: it is not valid, or a password cuts it short; nothing of it is repeated.
    """
    if "://" not in url:
        return url.rpartition("@")[2]
    try:
        parts = _split(url)
        # Refuses "user:a/b@host", whose password would be taken for a path.
        _hosts(parts.netloc.rpartition("@")[2], 0)
        cut = "@" in parts.path + parts.fragment and not {":", "@"}.isdisjoint(parts.netloc)
    except ValueError:
        cut = True
    if cut:
        raise ValueError("is not valid (in a password, write / as %2F, @ as %40, # as %23)")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def check_tls(options: Mapping[str, Any]) -> None:
    """Try the certificate files now: later, a wrong one would look like an outage.

    Raises:
        SettingsError: names the option and its file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authorities = options.get("ssl_ca_certs")
    certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
    if options.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise SettingsError("ssl_cert_reqs in the server's URL is neither none nor required")
    if key and not certificate:
        raise SettingsError("the server's URL has ssl_keyfile, but no ssl_certfile that goes to it")
    try:
        tried = f"ssl_ca_certs={authorities}"
        if authorities:
            context.load_verify_locations(authorities)
        tried = f"ssl_certfile={certificate}" + (f" with ssl_keyfile={key}" if key else "")
        if certificate:
            # Without a password of our own OpenSSL would ask for the key's at the terminal.
            context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is one
        why = "it is not what it should be" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"the server's URL has {tried}, which cannot be used: {why}") from None


def _split(url: str) -> SplitResult:
    """The parts of a URL that may name several hosts.

    Newer Pythons (and Debian's 3.11) refuse an IPv6 address that is not the first of them, so the
    rest of the URL is checked as if it named the first host alone.

    Raises:
        ValueError: it is not valid.
    """
    scheme, _, rest = url.partition("://")
    netloc = rest[: next((i for i, c in enumerate(rest) if c in "/?#"), len(rest))]
    user, at, hosts = netloc.rpartition("@")
    first = f"{scheme}://{user}{at}{hosts.split(',')[0]}{rest[len(netloc) :]}"
    return urlsplit(first if "," in hosts else url)._replace(netloc=netloc)


def _hosts(netloc: str, default_port: int) -> tuple[tuple[str, int], ...]:
    """``host:port,[::1]:port,host``, as pairs.

    Raises:
        ValueError: a port is not a number.
    """
    parts = [urlsplit(f"//{host}") for host in netloc.split(",")]
    return tuple((part.hostname or "", part.port or default_port) for part in parts)
