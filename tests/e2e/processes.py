"""The commands as processes, and what they owe a person who makes a mistake."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = str(ROOT / "worker" / "sample" / "faces.mp4")
_COMMAND = (sys.executable, "-m", "worker.app")


def mien(
    *words: str | bytes, timeout: float = 120, **options: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_COMMAND, *words],
        check=False, capture_output=True, text=True, timeout=timeout,
        **options,  # type: ignore[call-overload]
    )  # fmt: skip


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a group of processes of its own, as a terminal starts it."""
    with subprocess.Popen(
        [*_COMMAND, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """What ``process`` came to, which must end by itself in some seconds."""
    out, err = process.communicate(timeout=40)
    assert "Traceback" not in err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def one_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """It failed with one sentence on stderr that names each of ``parts``, and no traceback."""
    assert done.returncode not in (0, -signal.SIGSEGV), done.stderr
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("mien: ")]
    assert len(said) == 1, done.stderr
    for part in parts:
        assert part in said[0]


def summary_of(stdout: str) -> dict[str, str]:
    """The demo's summary: heading -> figure."""
    lines = stdout.partition("summary")[2].splitlines()
    pairs = (re.split(r"\s{2,}", line.strip()) for line in lines)
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
