"""Forks the processes of a chaos run, so that each begins with everything imported.

It runs as a process of its own, in a session of its own (Ctrl-C does not reach it), and obeys lines
on its standard input; when that ends, whatever ended the run, it kills all its children and ends.
Signals are sent from here, where the dead are buried: a number that is signalled is still theirs.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
_ROLES = "tests.delivery.chaos.roles"


class Child:
    """One process of the run."""

    def __init__(self, nursery: Nursery, name: str, pid: int) -> None:
        self.name, self.pid = name, pid
        self.code: int | None = None
        """How it ended: its exit code, or minus the signal; None while it lives."""
        self._nursery = nursery

    def send(self, number: int) -> None:
        """Signal it, if it lives."""
        self._nursery.say({"pid": self.pid, "signal": number})


class Nursery:
    """Starts processes and hears of their ends. Close it: then none is left."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, bufsize=1, cwd=ROOT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._born: queue.Queue[int] = queue.Queue()
        self._children: dict[int, Child] = {}
        self._early: dict[int, int] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._hear, name="nursery", daemon=True)
        self._thread.start()

    def start(self, name: str, role: str, *arguments: object) -> Child:
        """Run the function ``role`` of roles.py in a process; its output goes to ``name``.log.

        The arguments are such as JSON can carry.
        """
        log = str(self._logs / f"{name}.log")
        self.say({"role": role, "arguments": arguments, "log": log})
        pid = self._born.get(timeout=60)
        with self._lock:
            child = Child(self, name, pid)
            if pid in self._early:
                child.code = self._early.pop(pid)
            else:
                self._children[pid] = child
        return child

    def say(self, order: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._thread.join()
        self._process.stdout.close()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, *numbers = line.split()
            if word == "born":
                self._born.put(int(numbers[0]))
                continue
            pid, code = map(int, numbers)
            with self._lock:
                if child := self._children.pop(pid, None):
                    child.code = code
                else:
                    self._early[pid] = code


def _main() -> None:
    importlib.import_module(_ROLES)  # once, for all children
    ring, bell = os.pipe()
    os.set_blocking(bell, False)
    signal.set_wakeup_fd(bell)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    living: set[int] = set()
    try:
        _obey(living, ring)
    finally:
        for pid in living:
            os.kill(pid, signal.SIGKILL)
        for pid in living:
            os.waitpid(pid, 0)


def _obey(living: set[int], ring: int) -> None:
    """Do what the lines on the standard input say, until it ends. ``ring``: a child has ended."""
    unread = b""
    with selectors.DefaultSelector() as ready, suppress(BrokenPipeError):
        ready.register(0, selectors.EVENT_READ)
        ready.register(ring, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                data = os.read(key.fd, 65536)
                if key.fd == ring:
                    _bury(living)
                    continue
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    order = json.loads(line)
                    if "pid" not in order:
                        _fork(order, living)
                    elif order["pid"] in living:
                        os.kill(order["pid"], order["signal"])


def _bury(living: set[int]) -> None:
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            living.discard(pid)
            print("gone", pid, os.waitstatus_to_exitcode(status), flush=True)


def _fork(order: dict[str, Any], living: set[int]) -> None:
    if pid := os.fork():
        living.add(pid)
        print("born", pid, flush=True)
        return
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(ours, theirs)
        role = getattr(importlib.import_module(_ROLES), order["role"])
        code = role(*order["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    _main()
