"""Ports for servers that a test starts."""

from __future__ import annotations

import os
import random
import socket

_LOWEST = 20_000
"""All are below 32768, where those begin that the kernel hands out to connections: a client that
tries again and again while a server is away would in the end be given the very port that it tries
to reach, and be connected with itself."""
_EACH = 1_000
"""How many each of the test processes that run side by side has for itself."""
_PROCESSES = 12
_random = random.SystemRandom()  # of its own: Hypothesis seeds the one of the module
_given = set[int]()


def free_port() -> int:
    """A port on which nobody listens; never the same again in this process."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES
    lowest = _LOWEST + process * _EACH
    while True:
        port = _random.randrange(lowest, lowest + _EACH)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
