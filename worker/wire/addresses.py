"""Addresses as users write them: which server is meant, and what of a URL may be shown."""

from __future__ import annotations

import os
from urllib.parse import parse_qsl, urlsplit

from worker.config import DEFAULT_REDIS
from worker.errors import SettingsError

_TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}
)


def server_url(given: str | None) -> str:
    """The server that is meant: the one ``given``, that of ``MIEN_REDIS``, or the default."""
    return given or os.environ.get("MIEN_REDIS") or DEFAULT_REDIS


def server_name(url: str) -> str:
    """What may be shown of a server's URL.

    Raises:
        SettingsError: its password breaks it, or it has other options than those of TLS.
    """
    try:
        name = without_secrets(url)
    except ValueError as error:
        raise SettingsError(f"the server's URL {error}") from None
    parts = urlsplit(url)
    options = {option for option, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if options - (_TLS_OPTIONS if parts.scheme == "rediss" else frozenset()):
        # They are not repeated: what follows a ? may be the rest of a password.
        raise SettingsError(
            "the server's URL may have no options after a ? but, with rediss://, "
            f"{', '.join(sorted(_TLS_OPTIONS))} (in a password, write ? as %3F)"
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
        parts = urlsplit(url)
        _ = parts.port  # refuses "user:a/b@host", whose password would be taken for a path
        cut = "@" in parts.path + parts.fragment and not {":", "@"}.isdisjoint(parts.netloc)
    except ValueError:
        cut = True
    if cut:
        raise ValueError("is not valid (in a password, write / as %2F, @ as %40, # as %23)")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
