"""Full detection in processes of their own, so that it shares Python's lock with nobody.

Its steps between the networks are many short calls, and each waits for the lock as long as the rest
of the worker has it: on two cores that cost one frame of sixteen, one of ten with full detection of
every frame.

A pool's processes live and die with the worker. They end when it does, however it does; and when
one of them has ended, the pool serves no more, so that the worker ends as well: a picture at which
it crashes is then found by who had it in hand, as if it had crashed itself.
"""

from __future__ import annotations

import math
import mmap
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from worker.cores import Cores
from worker.errors import ModelError
from worker.records import Detections, Image

# As we were started, so are they: from the same folders, whatever the working directory holds.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from worker.detect.pool import serve; serve()"


class Searching(Protocol):
    """Finds faces, as ``worker.detect.cascade.Cascade`` does."""

    def detect(self, images: Sequence[Image], likely: float) -> list[Detections]: ...


class DetectionPool:
    """As many processes as there are cores, each with networks of its own.

    Any thread may call; one call has one process.
    """

    def __init__(self, cores: Cores, load: Callable[[], Searching]) -> None:
        """
        Args:
            cores: a calling thread should have one; its process has it meanwhile.
            load: what each process begins with. It goes there by its name.

        Raises:
            ModelError: a process does not start.
        """
        self._cores = cores
        self._lost = ""
        # All at once: each takes a while.
        self._processes = [_Process(load) for _ in range(cores.count)]
        # The last one used comes first: its memory is in the caches.
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        for process in self._processes:
            process.started()
            self._idle.put(process)

    def detect(self, images: Sequence[Image], likely: float) -> list[Detections]:
        """As what was loaded does it.

        Raises:
            ModelError: a process of the pool has ended, now or before.
            RuntimeError: detection failed there; in the words of what it raised.
        """
        process = self._idle.get()
        try:
            if self._lost:
                raise ModelError(self._lost)
            self._cores.lend(process.pid)
            return process.detect(images, likely)
        except ModelError as error:
            self._lost = str(error)
            raise
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the processes; nobody may be calling."""
        for process in self._processes:
            process.end()


class _Process:
    """One of the processes, seen from ours. Pictures go through memory that both map."""

    def __init__(self, load: Callable[[], Searching]) -> None:
        self._connection, theirs = Pipe()
        self._memory = _Memory()
        self._process = subprocess.Popen(
            [
                sys.executable, "-c", _PROGRAM.format(path=sys.path),
                str(theirs.fileno()), str(self._memory.file),
            ],
            # It reads this to its end, which is ours.
            stdin=subprocess.PIPE,
            pass_fds=(theirs.fileno(), self._memory.file),
            # In a group of its own: Ctrl-C is for us, who end it when all is settled.
            process_group=0,
        )  # fmt: skip
        theirs.close()
        with suppress(ConnectionError):  # it has ended: it will not answer
            self._connection.send(load)

    @property
    def pid(self) -> int:
        return self._process.pid

    def started(self) -> None:
        """Wait until it has loaded what it needs, or raise ModelError."""
        self._answer()

    def detect(self, images: Sequence[Image], likely: float) -> list[Detections]:
        shapes = [image.shape for image in images]
        self._memory.hold(sum(image.nbytes for image in images))
        for place, image in zip(self._memory.pictures(shapes), images, strict=True):
            place[:] = image
        return [Detections(*arrays) for arrays in self._answer((shapes, likely))]

    def end(self) -> str:
        """Make sure that it has ended; how it did."""
        if self._process.returncode is None:
            self._connection.close()
            self._memory.close()
            with self._process as process:  # closes its input
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
        code = self._process.returncode
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def _answer(self, *questions: Any) -> Any:
        try:
            for question in questions:
                self._connection.send(question)
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise ModelError(f"a process that detects faces has ended: {self.end()}") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


class _Memory:
    """Memory for pictures, in a file without a name that two processes map."""

    def __init__(self, file: int | None = None) -> None:
        """``file``: the descriptor of the other process's; None: a new one."""
        self.file = _nameless_file() if file is None else file
        self._map: mmap.mmap | None = None

    def hold(self, size: int) -> None:
        """See to it that it has so many bytes at least."""
        size = max(size, 1)  # nothing cannot be mapped
        if self._map is None or len(self._map) < size:
            if os.fstat(self.file).st_size < size:
                os.ftruncate(self.file, size)
            self._map = mmap.mmap(self.file, 0)

    def pictures(self, shapes: Sequence[tuple[int, ...]]) -> list[Image]:
        """Pictures of these shapes, one behind the other; it holds as much."""
        assert self._map is not None
        pictures, at = [], 0
        for shape in shapes:
            count = math.prod(shape)
            pictures.append(np.frombuffer(self._map, np.uint8, count, at).reshape(shape))
            at += count
        return pictures

    def close(self) -> None:
        os.close(self.file)
        self._map = None


def serve() -> None:
    """What a process of the pool does: answer, until the one that started it ends."""
    # The worker is told to end, and we by it.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_input, daemon=True).start()
    with suppress(EOFError, ConnectionError):  # our end
        _answer_all(Connection(int(sys.argv[1])), _Memory(int(sys.argv[2])))


def _answer_all(connection: Connection, memory: _Memory) -> None:
    search = connection.recv()().detect
    connection.send(None)
    while True:
        shapes, likely = connection.recv()
        memory.hold(sum(map(math.prod, shapes)))
        try:
            found = search(memory.pictures(shapes), likely)
        except Exception as error:
            connection.send(repr(error))
        else:
            connection.send([(each.boxes, each.scores, each.landmarks) for each in found])


def _end_with_input() -> None:
    """End this process when its input does, even in the middle of a call that never returns."""
    # Not by sys.stdin: a thread that waits in there keeps the interpreter from ending by itself.
    while os.read(0, 1):
        pass
    os._exit(0)


def _nameless_file() -> int:
    """Its descriptor. In memory, where the system can have it there."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pictures")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
