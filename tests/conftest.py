"""A real embedded server for every test that talks to one; feeds of its own for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.config import cores
from worker.embedded import embedded
from worker.wire.server import Server

ROOT = Path(__file__).resolve().parents[1]
LONGEST = (
    "worker/bench/test_command.py",
    "worker/web/test_page.py",
    "delivery/test_chaos.py",
    "deploy/test_images.py",
    "deploy/test_grafana.py",
    "delivery/test_cluster.py",
)
"""Files of tests that take longest. They begin first: one that began last would be waited for."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {ROOT / "tests" / path: rank for rank, path in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for a while.

    None of its own where all would have one server, which each test empties.
    """
    return 0 if "MIEN_TEST_REDIS" in os.environ else cores() + 1


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """URL of an embedded Valkey that lives as long as the test session.

    MIEN_TEST_REDIS names another server to test against; its data is flushed again and again.
    """
    if given := os.environ.get("MIEN_TEST_REDIS"):
        yield given
        return
    with embedded() as server:
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
