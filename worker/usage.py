"""What processes take, as Linux tells it (proc_pid_stat(5), proc_pid_status(5))."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")

TOLD = (_PROC / "self" / "status").exists()
"""Whether this system tells it."""


def family(pid: int) -> list[int]:
    """The process, and those that it has started and that live."""
    found = [pid]
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has ended meanwhile
                if _stat(int(entry.name))[1] == str(pid):
                    found.append(int(entry.name))
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """CPU time that they have taken so far, in seconds."""
    ticks = sum(int(ticks) for pid in pids for ticks in _stat(pid)[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(pids: Iterable[int]) -> int:
    """The memory that they have now, added; what they share counts in each."""
    return sum(_status(pid, "VmRSS") for pid in pids)


def peak_bytes(pids: Iterable[int]) -> int:
    """The most memory that each has had, added; what they share counts in each."""
    return sum(_status(pid, "VmHWM") for pid in pids)


def _stat(pid: int) -> list[str]:
    """From the state on: a name may hold anything."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _status(pid: int, name: str) -> int:
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0  # one that has just ended has none
