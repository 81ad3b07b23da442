"""The processor cores that a worker was given: whoever computes takes one meanwhile."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Cores:
    """So many threads may compute at once, whichever they are.

    ``with cores:`` waits for a core, and has it for the block; a thread has one at a time.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._free = threading.Semaphore(count)
        self._helpers = ThreadPoolExecutor(count - 1, "helper") if count > 1 else None
        self._mine = threading.local()
        self._places: _Places | None = None

    def keep_apart(self) -> None:
        """From now on each thread that computes has a processor to itself, if these are all.

        If the process may use others, the system chooses as before: it has room to choose from.
        Threads that are begun by one that computes begin where that is.
        """
        every = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        if len(every) == self.count > 1:
            self._places = _Places(every)

    def __enter__(self) -> None:
        self._free.acquire()
        self._mine.has = True
        if self._places:
            self._places.take()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._places:
            self._places.leave()
        self._mine.has = False
        self._free.release()

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """What ``work`` makes of each item, in their order; several at once where cores are free.

        The calling thread, which should have a core, does its part: it never waits for another to
        begin. While it waits for others to end, its core is free. ``work`` is called from several
        threads, and must take no core itself.

        Raises:
            Exception: what ``work`` raised for the first item that failed; all have been tried.
        """
        todo = deque((item, Future[Result]()) for item in items)
        results = [result for _, result in todo]
        helpers = min(self.count, len(todo)) - 1 if self._helpers else 0
        helping = [self._helpers.submit(self._help, work, todo) for _ in range(helpers)]  # type: ignore[union-attr]
        while _next(work, todo):
            pass
        for each in helping:
            each.cancel()  # it would find nothing to do
        if not all(result.done() for result in results):
            with self._without():
                wait(results)
        return [result.result() for result in results]

    def lend(self, process: int) -> None:
        """Another process computes in place of the calling thread, which waits for it."""
        if self._places:
            self._places.lend(process)

    @contextmanager
    def _without(self) -> Iterator[None]:
        """The calling thread's core, if it has one, is free for the block."""
        if not getattr(self._mine, "has", False):
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def _help(
        self, work: Callable[[Item], Result], todo: deque[tuple[Item, Future[Result]]]
    ) -> None:
        # A core for each item: in between, whoever waits for one has a chance.
        while todo:
            with self:
                _next(work, todo)


class _Places:
    """Processors, for threads to compute on, one each.

    A kernel mostly wakes a thread where it ran last. Of two virtual processors it left one idle for
    15 ms at a time while two of our threads took turns on the other, as its trace showed.
    """

    def __init__(self, every: set[int]) -> None:
        self._every = every
        # Another worker on this machine is to begin with another one.
        first = os.getpid() % len(every)
        self._free = [*sorted(every)[first:], *sorted(every)[:first]]
        self._changing = threading.Lock()
        self._mine = threading.local()

    def take(self) -> None:
        """Keep the calling thread on one that is free: on its last one, if that is."""
        last = getattr(self._mine, "last", None)
        with self._changing:
            place = last if last in self._free else next(iter(self._free), None)
            if place is not None:
                self._free.remove(place)
        self._mine.taken = place
        if place is not None:
            self._mine.last = place
            _keep(0, {place})

    def leave(self) -> None:
        """Let the calling thread go anywhere."""
        place, self._mine.taken = getattr(self._mine, "taken", None), None
        if place is not None:
            _keep(0, self._every)
            with self._changing:
                self._free.append(place)

    def lend(self, process: int) -> None:
        """Keep another process where the calling thread is."""
        place = getattr(self._mine, "taken", None)
        _keep(process, self._every if place is None else {place})


def _keep(process: int, processors: set[int]) -> None:
    # It may have ended, or a processor have been taken from us: then anywhere is right.
    with suppress(OSError):
        os.sched_setaffinity(process, processors)


def _next(work: Callable[[Item], Result], todo: deque[tuple[Item, Future[Result]]]) -> bool:
    """Do what is next; whether there was anything."""
    try:
        item, result = todo.popleft()
    except IndexError:
        return False
    try:
        result.set_result(work(item))
    except BaseException as error:
        result.set_exception(error)
    return True
