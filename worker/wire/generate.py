"""Make the generated modules from ``proto/``: ``python -m worker.wire.generate [--check]``.

With ``--check`` nothing is written; the exit status is 1 when a committed module is stale. Needs
grpcio-tools (the dev extra).
"""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "worker" / "wire"


def generate() -> dict[str, str]:
    """Run protoc over proto/mien/v1; file name -> content of each module and type stub."""
    from grpc_tools import protoc

    sources = sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as out:
        status = protoc.main(
            [
                "protoc",
                f"-I{ROOT / 'proto'}",
                f"-I{files('grpc_tools') / '_proto'}",
                f"--python_out={out}",
                f"--pyi_out={out}",
                *sources,
            ]
        )
        if status != 0:
            raise SystemExit(status)
        # The descriptors keep their path mien/v1/..., so a client that generates its own modules
        # from the same files can live in one process with these.
        return {p.name: p.read_text() for p in sorted(Path(out).rglob("*_pb2.py*"))}


def main() -> int:
    modules = generate()
    stale = [
        name
        for name, content in modules.items()
        if not (TARGET / name).exists() or (TARGET / name).read_text() != content
    ]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"worker/wire/{name} is stale: run python -m worker.wire.generate")
        return 1 if stale else 0
    for name, content in modules.items():
        (TARGET / name).write_text(content)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
