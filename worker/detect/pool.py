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
import traceback
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from worker.config import cores as usable_cores
from worker.cores import Cores
from worker.errors import ModelError
from worker.records import Detections, Image

# Their code is from where ours is, whatever the working directory holds.
_PROGRAM = "import sys; sys.path[:] = {path!r}; from worker.detect.pool import serve; serve()"

_FOR_THE_WORKER = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""Signals that a worker obeys. Its processes are not to: they serve it until it has settled all."""

_START_S = 60.0
"""How long a process may take until it has loaded what it needs."""


class Searching(Protocol):
    """Finds faces, as ``worker.detect.cascade.Cascade`` does."""

    def detect(self, images: Sequence[Image], likely: float) -> list[Detections]: ...


class DetectionPool:
    """A process for each core, each with networks of its own.

    Any thread may call; one call has one process.
    """

    def __init__(self, cores: Cores, load: Callable[[], Searching]) -> None:
        """
        Args:
            cores: a calling thread should have one; its process has it meanwhile. From now on
                they are kept apart.
            load: what each process begins with. It goes there by its name.

        Raises:
            ModelError: a process does not start.
        """
        cores.keep_apart()
        self._cores = cores
        self._processes: list[_Process] = []
        # The last one used comes first: its memory is in the caches.
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        try:
            # All at once: each takes a while.
            for _ in range(min(cores.count, usable_cores())):
                self._processes.append(_Process(load))
            for process in self._processes:
                process.started()
                self._idle.put(process)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise ModelError(f"no process to detect faces can be started: {error}") from None
            raise

    def detect(self, images: Sequence[Image], likely: float) -> list[Detections]:
        """As what was loaded does it.

        Raises:
            ModelError: a process of the pool has ended, now or before.
            RuntimeError: detection failed there; in the words of what it raised.
        """
        process = self._idle.get()
        try:
            for each in self._processes:
                each.check()
            self._cores.lend(process.pid)
            return process.detect(images, likely)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the processes; nobody may be calling."""
        for process in self._processes:
            process.end()


class _Process:
    """One of the processes, seen from ours. Pictures go through memory that both map."""

    def __init__(self, load: Callable[[], Searching]) -> None:
        """
        Raises:
            OSError: there is no room for another process.
        """
        self._connection, theirs = Pipe()
        self._memory = _Memory(_nameless_file())
        command = [sys.executable, "-I", "-c", _PROGRAM.format(path=sys.path)]
        command += [str(theirs.fileno()), str(self._memory.file.fileno())]
        # It inherits that they are blocked.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_WORKER)
        try:
            self._process = subprocess.Popen(
                command,
                # It reads this to its end, which is ours.
                stdin=subprocess.PIPE,
                pass_fds=(theirs.fileno(), self._memory.file.fileno()),
            )
        except BaseException:
            self._connection.close()
            self._memory.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        # Once, when it is asked for, or when nobody has us any more.
        self._ending = weakref.finalize(self, _end, self._process, self._connection, self._memory)
        with suppress(ConnectionError):  # it has ended: it will not answer
            self._connection.send(load)

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise ModelError if it is known to have ended."""
        if self._process.returncode is not None:
            raise self._gone()

    def started(self) -> None:
        """Wait until it has loaded what it needs.

        Raises:
            ModelError: it has ended instead, or takes too long.
        """
        if not self._connection.poll(_START_S):
            raise ModelError(f"a process that detects faces did not start in {_START_S:g} s")
        self._answer()

    def detect(self, images: Sequence[Image], likely: float) -> list[Detections]:
        shapes = [image.shape for image in images]
        self._memory.hold(sum(image.nbytes for image in images))
        for place, image in zip(self._memory.pictures(shapes), images, strict=True):
            place[:] = image
        return [Detections(*arrays) for arrays in self._answer((shapes, likely))]

    def end(self) -> str:
        """Make sure that it has ended; how it did."""
        self._ending()
        code = self._process.returncode
        return f"signal {-code}" if code < 0 else f"exit status {code}"

    def _gone(self) -> ModelError:
        return ModelError(f"a process that detects faces has ended: {self.end()}")

    def _answer(self, *questions: Any) -> Any:
        try:
            for question in questions:
                self._connection.send(question)
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        except BaseException:
            self.end()  # what it says now would be taken for the next answer
            raise
        if isinstance(answer, _Failed):
            error = RuntimeError(answer.what)
            error.add_note(answer.where)
            raise error
        return answer


class _Failed(NamedTuple):
    """The answer of a process in which detection has failed."""

    what: str
    where: str
    """Its traceback."""


class _Memory:
    """Memory for pictures, in a file that two processes map."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self._map: mmap.mmap | None = None

    def hold(self, size: int) -> None:
        """See to it that it has so many bytes at least."""
        size = max(size, 1)  # nothing cannot be mapped
        if self._map is None or len(self._map) < size:
            if os.fstat(self.file.fileno()).st_size < size:
                self.file.truncate(size)
            self._map = mmap.mmap(self.file.fileno(), 0)

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
        self.file.close()
        self._map = None


def _end(process: subprocess.Popen[bytes], connection: Connection, memory: _Memory) -> None:
    connection.close()
    memory.close()
    with process:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()


def serve() -> None:
    """What a process of the pool does: answer, until the one that started it ends."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    connection, file = (int(word) for word in sys.argv[1:])
    with suppress(EOFError, ConnectionError), os.fdopen(file, "r+b", 0) as pictures:
        _answer_all(Connection(connection), _Memory(pictures))


def _answer_all(connection: Connection, memory: _Memory) -> None:
    search = connection.recv()().detect
    connection.send(None)
    while True:
        shapes, likely = connection.recv()
        try:
            memory.hold(sum(map(math.prod, shapes)))
            found = search(memory.pictures(shapes), likely)
        except Exception as error:
            connection.send(_Failed(repr(error), traceback.format_exc()))
        else:
            connection.send([(each.boxes, each.scores, each.landmarks) for each in found])


def _end_with_input() -> None:
    """End this process when its input does, even in the middle of a call that never returns."""
    # Not by sys.stdin: a thread that waits in there keeps the interpreter from ending by itself.
    while os.read(0, 1):
        pass
    os._exit(0)


def _nameless_file() -> IO[bytes]:
    """A file that ends when nobody has it open any more; in memory, where the system has that."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pictures"), "r+b", 0)
    return tempfile.TemporaryFile(buffering=0)
